"""Handles Ctrl-C and SIGTERM. This module is imported first, so it imports little."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

EXIT_CODE = 130
"""Conventional exit code of a program that Ctrl-C ended."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_AGAIN = 0.05
"""Seconds after which an interrupt is repeated that a finalizer has lost."""


def exit_code(number: int) -> int:
    """Return the conventional exit code of a program that a signal ended."""
    return 128 + number


EXIT_CODES = tuple(map(exit_code, _SIGNALS))


class Stopped(KeyboardInterrupt):
    """Ctrl-C came before there was text to keep."""


class Received:
    """The signal that ends the program.

    Attributes:
        number: its number; 0 while there is none.
    """

    def __init__(self) -> None:
        self.number = 0

    @property
    def code(self) -> int:
        """Exit code of a program that the signal ended; 0 without a signal."""
        return exit_code(self.number) if self.number else 0


def exit_at_once() -> None:
    """From now on, let a signal end the process without a message: nothing is written yet, or all
    is."""
    _handle(lambda number, frame: os._exit(exit_code(number)))


def leave(code: int) -> NoReturn:
    """End the process after a signal, with this exit code.

    A return would not do: Python may remember a `KeyboardInterrupt` that C code saw, and report
    SIGINT instead of the exit code.
    """
    with suppress(Exception):
        atexit._run_exitfuncs()  # removes temporary folders
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    os._exit(code)


@contextmanager
def obeyed() -> Iterator[Received]:
    """Context manager: the first Ctrl-C or SIGTERM raises `KeyboardInterrupt`, the second ends the
    process.

    Libraries may replace the exception by their own, so errors that follow a signal are its
    consequence: see `Received.number`. During an import the first signal ends the process, because
    imports in C code ignore the exception.
    """
    received = Received()

    def stop(number: int, frame: FrameType | None) -> None:
        if received.number:
            os._exit(received.code)
        received.number = number
        if _importing(frame):
            leave(received.code)
        raise KeyboardInterrupt

    def lost(unraisable: Any) -> None:
        """Repeat an interrupt that was raised in a finalizer, from which nothing is raised."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            usual(unraisable)
        elif received.number:
            number, received.number = received.number, 0
            threading.Timer(_AGAIN, os.kill, (os.getpid(), number)).start()

    usual, sys.unraisablehook = sys.unraisablehook, lost
    before = _handle(stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = usual


@contextmanager
def cancelling(cancel: Callable[[], None], begun: Callable[[], bool]) -> Iterator[None]:
    """Context manager: the first Ctrl-C calls `cancel` and ends after the round, the second ends
    immediately.

    Until `begun` returns true, there is no round to wait for, and the first one raises `Stopped`.
    """
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        if not begun():
            raise Stopped
        cancel()

    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is imported in this frame or around it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _handle(handler: Callable[[int, Any], None]) -> dict[signal.Signals, Any]:
    """Set the handler of the signals that are not ignored; return the earlier handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: known for number, known in before.items() if known is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before
