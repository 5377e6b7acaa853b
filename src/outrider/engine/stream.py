"""`Stream`: one request that is being written. `Generator.stream` returns one."""

from collections import deque
from collections.abc import Callable, Iterator

from outrider.core.errors import OptionError
from outrider.decoding.generation import Generation
from outrider.engine.result import Result, spans


class Stream:
    """One request that is being written. Iterate for pieces of text; then read `result`."""

    def __init__(
        self,
        generation: Generation,
        rounds: Iterator[list[Generation]],
        result: Callable[[], Result],
    ) -> None:
        """Read nothing yet: the prompt is read when the first piece is asked for.

        Args:
            generation: the record of the request.
            rounds: writes it, round by round.
            result: builds the result of the finished request.
        """
        self._generation = generation
        self._rounds = rounds
        self._result = result
        self._ready: deque[tuple[str, str]] = deque()
        self._released = 0

    def __iter__(self) -> Iterator[str]:
        """Yield pieces of text that hold whole characters; possible stop strings are held back."""
        for piece, _ in self.spans():
            yield piece

    def spans(self) -> Iterator[tuple[str, str]]:
        """Yield pieces `(text, source)`: each text with the tier that wrote it.

        A stream can be read once: a second iteration continues where the first one stopped.
        """
        while self._ready or self._advance():
            yield self._ready.popleft()

    def _advance(self) -> bool:
        """Run rounds until there is text to show; return false at the end."""
        stream = self._generation.stream
        assert stream is not None
        running = True
        while running and not self._ready:
            running = next(self._rounds, None) is not None
            self._ready.extend(self._sourced(stream.take()))
        return bool(self._ready)

    def _sourced(self, piece: str) -> Iterator[tuple[str, str]]:
        generation, start = self._generation, self._released
        self._released += len(piece)
        ends = [min(end - start, len(piece)) for end in generation.ends]
        shown = [(e, s) for e, s in zip(ends, generation.sources, strict=True) if e > 0]
        yield from spans(piece, [e for e, _ in shown], [s for _, s in shown])

    @property
    def begun(self) -> bool:
        """Whether the prompt is read, so that rounds run."""
        return self._generation.sequence is not None

    def cancel(self) -> None:
        """Stop before the next round; other threads may call this."""
        self._generation.cancel()

    @property
    def result(self) -> Result:
        """Run the request to its end and return its result."""
        if self._generation.running:
            raise OptionError("the stream is not at its end", hint="Iterate to the end, or cancel")
        return self._result()
