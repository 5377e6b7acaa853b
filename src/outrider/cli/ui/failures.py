"""Reports errors as one line on standard error instead of a traceback."""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer

from outrider.cli.ui import streams
from outrider.core.errors import OutriderError, OutriderWarning, nearest

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Errors of the parser: the class is private in typer, so it is taken from a public subclass."""

EXIT_CODE = 2
"""Exit code of a wrong input."""

SYSTEM_EXIT_CODE = 1
"""Exit code of a file or stream that cannot be read or written."""


def report(error: Exception) -> int | None:
    """Print an error that the user can fix; return the exit code, or None for any other error."""
    if isinstance(error, UsageError):
        say("error", _usage(error))
        return EXIT_CODE
    if isinstance(error, OutriderError):
        say("error", str(error))
        return EXIT_CODE
    if isinstance(error, OSError):
        _report_system(error)
        return SYSTEM_EXIT_CODE
    return None


def _report_system(error: OSError) -> None:
    """Print an error of the operating system. A reader of a pipe that has gone needs no message."""
    if not isinstance(error, BrokenPipeError):
        what = error.strerror or str(error)
        say("error", f"{error.filename}: {what}" if error.filename else what)
    if isinstance(error, BrokenPipeError) or error.filename == streams.OUTPUT:
        streams.discard_output()


def flush_output(code: int) -> int:
    """Write what standard output still holds; return the exit code, which was `code` so far."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _report_system(error)
        streams.discard_output()
        return code or SYSTEM_EXIT_CODE
    return code


@contextmanager
def reported_warnings() -> Iterator[None]:
    """Context manager: print each warning of Outrider as one line; others are unchanged."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category.__module__.partition(".")[0] == "outrider":
            say("warning", str(message))
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", OutriderWarning)
        warnings.showwarning = show
        yield


def say(kind: str, text: str) -> None:
    """Print one line on standard error: `kind` is `error` or `warning`."""
    print(f"{kind}: {' '.join(text.split())}", file=sys.stderr, flush=True)


def _usage(error: Any) -> str:
    """Format an unknown option or command with the nearest name; else the message of the parser."""
    wrong = str(getattr(error, "option_name", ""))
    known = [name for p in _parameters(error) for name in p.opts if name.startswith("--")]
    if type(error).__name__ == "NoSuchOption" and known:
        offer = _offer(wrong, known, error.ctx.command_path)
        if not wrong.startswith("--") and _takes_text(error):
            offer += "; before a text that begins with '-', write --"
        return f"unknown option {wrong}. {offer}"
    command = re.match(r"No such command '(.+?)'", error.format_message())
    if command:
        return f"unknown command {command[1]!r}. {nearest(command[1], error.ctx.command.commands)}"
    return error.format_message()


def _offer(wrong: str, known: list[str], command: str) -> str:
    offer = nearest(wrong, known)
    return offer if offer.startswith("Did you mean") else f"See {command} --help"


def _takes_text(error: Any) -> bool:
    return any(p.param_type_name == "argument" for p in _parameters(error))


def _parameters(error: Any) -> list[Any]:
    return error.ctx.command.params if getattr(error, "ctx", None) else []
