"""`outrider chat`: a conversation in the terminal."""

import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.commands.generate import Color, run_stream
from outrider.cli.options.options import (
    Runtime,
    Sampling,
    Speculation,
    Tiers,
    load_generator,
    option,
)
from outrider.cli.ui import interrupt
from outrider.cli.ui.render import Screen, summary
from outrider.core.errors import ContextError, LogitsError, OptionError, nearest

if TYPE_CHECKING:
    from outrider.engine.generator import Generator
    from outrider.engine.result import Result

COMMANDS = {
    "/reset": "clear the conversation",
    "/stats": "figures of the last answer",
    "/quit": "end the chat, like the end of input",
}


def chat(
    tiers: Tiers,
    speculation: Speculation,
    sampling: Sampling,
    runtime: Runtime,
    system: Annotated[
        str | None,
        option(panel="Output", help="The system message at the start of the conversation."),
    ] = None,
    color: Color = "auto",
) -> None:
    """Chat with a model in one conversation.

    Each turn reads only the new text. Ctrl-C ends an answer early.
    /reset clears the conversation, /stats shows figures, /quit ends.

    For example:

      outrider chat
      outrider chat --target ./big --draft ./small --system "Be brief."
    """
    settings = sampling.given()
    screen = Screen(color)
    generator = load_generator(tiers, runtime, speculation)
    talk = Conversation(generator, settings, screen, system)
    screen.note("  ".join(f"{name}: {does}" for name, does in COMMANDS.items()))
    while (line := _read_line()) is not None and talk.take(line.strip()):
        pass


@dataclass(slots=True)
class Conversation:
    """The messages so far, and the result of the last answer."""

    generator: "Generator"
    settings: dict[str, Any]
    screen: Screen
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    last: "Result | None" = None

    def __post_init__(self) -> None:
        self.reset()

    def take(self, line: str) -> bool:
        """Execute one line of input; return false at the end of the conversation."""
        if line == "/quit":
            return False
        if line == "/reset":
            self.reset()
        elif line == "/stats":
            self.screen.note(summary(self.last.to_dict()) if self.last else "no answer yet")
        elif line.startswith("/"):
            self.screen.note(f"unknown command {line}. {nearest(line, COMMANDS)}")
        elif line:
            self.answer(line)
        return True

    def reset(self) -> None:
        """Remove all messages except the system message."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []
        self.generator.reset()

    def answer(self, line: str) -> None:
        """Answer one message. On an error the conversation does not change."""
        asked = [*self.messages, {"role": "user", "content": line}]
        try:
            self.last = run_stream(self.generator, asked, self.settings, self.screen)
        except ContextError as error:
            self.screen.note(f"error: {error} /reset clears the conversation.")
            return
        except interrupt.Stopped:
            self.screen.note("stopped before the answer began; this message is not kept")
            return
        self.screen.write("\n")
        if self.last.error:
            raise LogitsError(self.last.error)
        self.messages = [*asked, {"role": "assistant", "content": self.last.text}]


def _read_line() -> str | None:
    """Read the next line of input; None at its end."""
    if sys.stdin is None:
        raise OptionError("standard input is closed", hint="Talk in a terminal, or through a pipe")
    if sys.stdin.isatty():
        with suppress(ImportError):  # not available on Windows, which has its own line editing
            import readline  # noqa: F401
    try:
        return input("> ") if sys.stdin.isatty() else _piped_line()
    except EOFError:
        return None
    except KeyboardInterrupt:
        raise typer.Exit(interrupt.EXIT_CODE) from None


def _piped_line() -> str | None:
    """Read a line of standard input, of a limited length; None at its end."""
    from outrider.inputs.lines import LineLimits

    limit = LineLimits().line_characters
    try:
        line = sys.stdin.readline(limit + 1)
    except UnicodeError as error:
        raise OptionError(f"standard input is not text: {error}", hint="Send UTF-8") from None
    if len(line) > limit:
        raise OptionError(
            f"a line of standard input exceeds the limit line_characters={limit}",
            hint="Send shorter messages",
        )
    return line.removesuffix("\n") if line else None
