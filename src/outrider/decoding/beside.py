"""Work of drafters that runs on a thread while the verifier computes its rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread

Work = Callable[[], None]
"""Work of a drafter that needs nothing of the round in which it runs."""


class _Worker(Thread):
    """Runs the work in order; `error` is what ended it early."""

    def __init__(self, work: Sequence[Work]) -> None:
        super().__init__(name="outrider-beside")
        self.error: BaseException | None = None
        self._work = work

    def run(self) -> None:
        try:
            for one in self._work:
                one()
        except BaseException as error:  # it is raised again where the round waits
            self.error = error

    def wait(self) -> None:
        """Wait for the end. Ctrl-C while waiting is raised after it."""
        try:
            self.join()
        except BaseException:
            self.join()
            raise


@contextmanager
def beside(work: Sequence[Work]) -> Iterator[None]:
    """Run `work` on a thread beside the block, and wait for it at the end of the block.

    The thread therefore never runs outside of the block, also where the block raises an error. An
    error of the work is raised after the block, unless the block has raised one itself.
    """
    if not work:
        yield
        return
    worker = _Worker(work)
    worker.start()
    try:
        yield
    finally:
        worker.wait()
    if worker.error is not None:
        raise worker.error
