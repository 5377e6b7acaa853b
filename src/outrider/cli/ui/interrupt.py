"""Ctrl-C while text is written."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_CODE = 130
"""What shells expect of a program that Ctrl-C ended."""


@contextmanager
def cancelling(cancel: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `cancel` and lets the round end; the second stops at once."""

    def ask(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        cancel()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
