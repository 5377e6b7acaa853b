"""Shows the current step before the first text: one temporary line on standard error."""

import sys
from types import TracebackType
from typing import Any

from outrider.cli.ui.render import Screen


class Waiting:
    """A progress bar on a terminal; no output elsewhere. It appears with the first message.

    A context manager; it may end early.
    """

    def __init__(self, screen: Screen) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=screen.err,
            transient=True,
            disable=not sys.stderr.isatty(),  # colors can be requested for output to a file
        )
        self._task: Any = self._bar.add_task("", total=None)
        self._shown = False

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def say(self, what: str) -> None:
        """Show the start of a step of unknown duration."""
        self._show()
        self._bar.reset(self._task, total=None, description=what)

    def file(self, done: int, total: int, name: str) -> None:
        """Show how many files, or pages of a file, are read."""
        self._show()
        self._bar.update(self._task, completed=done, total=total, description=f"reading {name}")

    def end(self) -> None:
        """Clear the line."""
        if self._shown:
            self._bar.stop()
        self._shown = False

    def _show(self) -> None:
        if not self._bar.disable and not self._shown:
            self._bar.start()
            self._shown = True
