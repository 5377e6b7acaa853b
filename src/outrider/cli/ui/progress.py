"""Progress bars on standard error, if that is a terminal: of images, and of measurements."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from outrider.cli.ui.render import Screen

if TYPE_CHECKING:
    from outrider.bench.line_up import Progress


class ImageProgress:
    """A progress bar over images; a context manager that clears it at the end."""

    def __init__(self, screen: Screen, total: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=screen.err,
            transient=True,
            redirect_stdout=False,  # standard output may be a file
            redirect_stderr=False,
            disable=not sys.stderr.isatty() or total < 2,
        )
        self._task = self._bar.add_task("captioning", total=total)

    def __enter__(self) -> "ImageProgress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def step(self, failed: int) -> None:
        """Count one more image; `failed` is the number of failures so far."""
        said = f"captioning ({failed} failed)" if failed else "captioning"
        self._bar.update(self._task, advance=1, description=said)

    def end(self) -> None:
        """Clear the bar."""
        self._bar.stop()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Context manager: hide the bar while other text is written."""
        if self._bar.disable:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()


@contextmanager
def measuring(screen: Screen) -> "Iterator[Progress]":
    """Context manager: a function that moves the progress bar of a measurement."""
    from rich.progress import Progress

    hidden = not screen.err.is_terminal
    with Progress(console=screen.err, transient=True, disable=hidden) as bar:
        task = bar.add_task("checking", total=None)

        def tell(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield tell
