"""What a request has received, so that another replica can continue it.

A replica that takes over writes the text from its beginning. With the same seed it writes the same
tokens; those that the client has are compared and left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from outrider.engine.serving.messages import Ended, Event, Piece


class DivergedError(Exception):
    """A replica wrote another text than the one before it."""


@dataclass(slots=True, eq=False)
class _Sample:
    """What was delivered of one sample, and what the current replica has written of it."""

    ids: list[int] = field(default_factory=list[int])
    text: str = ""
    scored: bool = False
    ended: bool = False
    ids_seen: int = 0
    text_seen: int = 0

    def rest(self, piece: Piece) -> Piece | None:
        """Return the part of a piece that is new; None if there is none."""
        skip = _same(self.ids[self.ids_seen :], piece.token_ids)
        cut = _same(self.text[self.text_seen :], piece.text)
        self.ids_seen += len(piece.token_ids)
        self.text_seen += len(piece.text)
        scores = None if self.scored else piece.prompt_logprobs
        if skip or cut or scores is not piece.prompt_logprobs:
            piece = replace(
                piece,
                text=piece.text[cut:],
                token_ids=piece.token_ids[skip:],
                sources=piece.sources[skip:],
                logprobs=piece.logprobs[skip:],
                ends=piece.ends[skip:],
                spans=_after(piece.spans, cut),
                prompt_logprobs=scores,
            )
        self.ids += piece.token_ids
        self.text += piece.text
        self.scored = self.scored or scores is not None
        return piece if piece.token_ids or piece.text or scores is not None else None


@dataclass(slots=True, eq=False)
class Transcript:
    """All samples of one request.

    Attributes:
        id: of the request; events of every attempt are delivered under it.
        n: number of samples.
    """

    id: str
    n: int
    _samples: list[_Sample] = field(default_factory=list[_Sample])

    def __post_init__(self) -> None:
        self._samples = [_Sample() for _ in range(self.n)]

    @property
    def open(self) -> list[int]:
        """Indices of the samples that have not ended."""
        return [index for index, sample in enumerate(self._samples) if not sample.ended]

    @property
    def begun(self) -> bool:
        """Whether a token was delivered."""
        return any(sample.ids for sample in self._samples)

    def restart(self) -> None:
        """Expect all samples from their beginning."""
        for sample in self._samples:
            sample.ids_seen = sample.text_seen = 0

    def take(self, events: Sequence[Event]) -> list[Event]:
        """Return what is new in the events of an attempt.

        Raises:
            DivergedError: a sample differs from what was delivered.
        """
        found: list[Event] = []
        for event in events:
            sample = self._samples[event.index]
            if sample.ended:
                continue
            if isinstance(event, Piece):
                new = sample.rest(event)
            else:
                new = event
                _check_end(sample, event)
                sample.ended = True
            if new is not None:
                found.append(new if new.id == self.id else replace(new, id=self.id))
        return found


def _check_end(sample: _Sample, ended: Ended) -> None:
    """Raise `DivergedError` if a text ends by itself before the end of what was delivered."""
    done = ended.result is not None and ended.result.finish_reason in ("stop", "length")
    if done and (sample.ids_seen < len(sample.ids) or sample.text_seen < len(sample.text)):
        raise DivergedError


def _same(delivered: Sequence[object], written: Sequence[object]) -> int:
    """Return how much of `written` was delivered; raise `DivergedError` if it differs."""
    count = min(len(delivered), len(written))
    if tuple(delivered[:count]) != tuple(written[:count]):
        raise DivergedError
    return count


def _after(spans: Sequence[tuple[str, str]], cut: int) -> tuple[tuple[str, str], ...]:
    """Return the spans of a text without its first `cut` characters."""
    found: list[tuple[str, str]] = []
    for text, source in spans:
        if len(text) > cut:
            found.append((text[cut:], source))
        cut = max(cut - len(text), 0)
    return tuple(found)
