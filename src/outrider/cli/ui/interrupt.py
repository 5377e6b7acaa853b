"""Handles Ctrl-C during generation."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_CODE = 130
"""Conventional exit code of a program that Ctrl-C ended."""


@contextmanager
def cancelling(cancel: Callable[[], None]) -> Iterator[None]:
    """Context manager: the first Ctrl-C calls `cancel` and ends after the round, the second
    ends immediately.
    """

    def ask(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        cancel()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
