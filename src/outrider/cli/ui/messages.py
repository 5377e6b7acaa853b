"""Reads the messages of a chat: a line, a pasted paragraph, or a block between triple quotes."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import typer

from outrider.cli.ui import interrupt
from outrider.core.errors import OptionError

MARK = '"""'
"""Begins and ends a block of lines."""


@dataclass(frozen=True, slots=True)
class Message:
    """What the user typed.

    Attributes:
        text: the text, without the marks of a block.
        block: whether it was a block, which is never a command.
    """

    text: str
    block: bool = False


def prepare_terminal() -> None:
    """Turn line editing on, and let a paste of several lines be one message.

    Python turns off the bracketed paste of GNU readline; libedit and Windows have none.
    """
    if sys.stdin is None:
        raise OptionError("standard input is closed", hint="Talk in a terminal, or through a pipe")
    if not sys.stdin.isatty():
        return
    with suppress(ImportError):  # not available on Windows, which has its own line editing
        import readline

        if "libedit" not in (readline.__doc__ or ""):
            readline.parse_and_bind("set enable-bracketed-paste on")


def read_message() -> Message | None:
    """Read the next message; None at the end of input.

    Raises:
        OptionError: a block has no end, the message is too long, or it is not text.
    """
    line = _read_line("> ")
    if line is None or not line.lstrip().startswith(MARK):
        return None if line is None else Message(line.strip())
    lines = [line.lstrip().removeprefix(MARK)]
    limit = _limit()
    while not lines[-1].rstrip().endswith(MARK):
        line = _read_line(". ")
        if line is None:
            raise OptionError(f"a block that begins with {MARK} has no end", hint=f"Add {MARK}")
        lines.append(line)
        limit -= len(line)
        if limit < 0:
            raise _too_long("a block")
    lines[-1] = lines[-1].rstrip().removesuffix(MARK)
    return Message("\n".join(lines).strip("\n"), block=True)


def _read_line(prompt: str) -> str | None:
    """Read a line of the terminal or of a pipe, or what was pasted; None at the end of input."""
    try:
        return input(prompt) if sys.stdin.isatty() else _piped_line()
    except EOFError:
        return None
    except UnicodeError as error:
        raise OptionError(f"standard input is not text: {error}", hint="Send UTF-8") from None
    except KeyboardInterrupt:
        raise typer.Exit(interrupt.EXIT_CODE) from None


def _piped_line() -> str | None:
    """Read a line of standard input, of a limited length; None at its end."""
    stream: Any = sys.stdin
    line = stream.readline(_limit() + 1)
    if len(line) > _limit():
        raise _too_long("a line")
    return line.removesuffix("\n") if line else None


def _limit() -> int:
    from outrider.inputs.lines import LineLimits

    return LineLimits().line_characters


def _too_long(what: str) -> OptionError:
    return OptionError(
        f"{what} of standard input exceeds the limit line_characters={_limit()}",
        hint="Send shorter messages",
    )
