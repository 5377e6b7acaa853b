"""What goes wrong becomes one line on standard error; never a traceback."""

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer

from outrider.core.errors import OutriderError, OutriderWarning, nearest

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""The parser's own complaints: typer keeps its parser private, but not this descendant."""

EXIT_CODE = 2


def report(error: OutriderError) -> int:
    """Print an error of ours; returns the exit code."""
    say("error", str(error))
    return EXIT_CODE


def report_usage(error: Any) -> int:
    """Print a complaint of the parser; returns the exit code."""
    say("error", _usage(error))
    return EXIT_CODE


@contextmanager
def reported_warnings() -> Iterator[None]:
    """Print each `OutriderWarning` as one line; other warnings go their usual way."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, OutriderWarning):
            say("warning", str(message))
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", OutriderWarning)
        warnings.showwarning = show
        yield


def close_broken_pipe() -> None:
    """Nobody reads standard output any more: what is still buffered must not raise at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(kind: str, text: str) -> None:
    """Print one line on standard error: `kind` is `error` or `warning`."""
    print(f"{kind}: {' '.join(text.split())}", file=sys.stderr, flush=True)


def _usage(error: Any) -> str:
    """One line for an unknown option or command, with the nearest name; else the parser's own."""
    wrong = str(getattr(error, "option_name", ""))
    known = [name for p in _parameters(error) for name in p.opts if name.startswith("--")]
    if type(error).__name__ == "NoSuchOption" and known:
        return f"unknown option {wrong}. {_offer(wrong, known, error.ctx.command_path)}"
    command = re.match(r"No such command '(.+?)'", error.format_message())
    if command:
        return f"unknown command {command[1]!r}. {nearest(command[1], error.ctx.command.commands)}"
    return error.format_message()


def _offer(wrong: str, known: list[str], command: str) -> str:
    offer = nearest(wrong, known)
    return offer if offer.startswith("Did you mean") else f"See {command} --help"


def _parameters(error: Any) -> list[Any]:
    return error.ctx.command.params if getattr(error, "ctx", None) else []
