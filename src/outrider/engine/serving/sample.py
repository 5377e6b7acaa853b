"""One sample of a request inside the engine: its generation, its times, and what was published."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from outrider.core.types import FinishReason
from outrider.decoding.generation import Generation, TokenLogprob
from outrider.engine.requests import copied_params
from outrider.engine.result import Result, spans
from outrider.engine.serving.messages import Ended, Piece, Submission, Timing
from outrider.engine.serving.scheduler import Phase

if TYPE_CHECKING:
    from outrider.engine.generator import Generator


def generation_of(generator: "Generator", submission: Submission, index: int) -> Generation:
    """Return the record of a sample. Raises `OutriderError` if its grammar cannot be compiled."""
    own = copied_params(submission.params) if submission.n > 1 else submission.params
    return generator.generation(
        submission.prompt,
        own,
        index,
        prediction=submission.prediction,
        shown=submission.shown,
    )


def refused(submission: Submission, index: int, message: str) -> Ended:
    """Return the end of a sample that cannot begin."""
    return Ended(
        id=submission.id,
        index=index,
        result=None,
        timing=Timing(total=perf_counter() - submission.received),
        failure="invalid_request",
        message=message,
        phase=str(Phase.WAITING),
    )


@dataclass(slots=True, eq=False)
class Sample:
    """A sample of a request.

    Attributes:
        submission: the request.
        index: number of the sample.
        generation: its text; it stays the same when the sample is preempted.
        leader: the sample that reads the prompt for this one, if there is one.
        began: `perf_counter` when the engine first began to read the prompt.
        first: `perf_counter` of the first token.
        preemptions: how often it was preempted.
        cached: tokens of the prompt that did not have to be read.
        prompt_logprobs: of the prompt, until they are published.
        sent: tokens that are published.
        shown: characters that are published.
        drafts: whether it may be drafted for; ends when the caches of draft models are given up.
    """

    submission: Submission
    index: int
    generation: Generation
    leader: "Sample | None" = None
    began: float | None = None
    first: float | None = None
    preemptions: int = 0
    cached: int = 0
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    sent: int = 0
    shown: int = 0
    drafts: bool = field(init=False)

    def __post_init__(self) -> None:
        self.drafts = self.submission.draft

    @property
    def key(self) -> str:
        """Its name in the scheduler."""
        return f"{self.submission.id}/{self.index}"

    @property
    def text_ids(self) -> Sequence[int]:
        """Ids of prompt and answer."""
        return (*self.submission.prompt.token_ids, *self.generation.output)

    def piece(self) -> Piece | None:
        """Return what was written since the last call; None if that is nothing."""
        generation, start = self.generation, self.sent
        ids = tuple(generation.output[start:])
        text = generation.stream.take() if generation.stream is not None else ""
        scores, self.prompt_logprobs = self.prompt_logprobs, None
        if not ids and not text and scores is None:
            return None
        if ids and self.first is None:
            self.first = perf_counter()
        self.sent += len(ids)
        return Piece(
            id=self.submission.id,
            index=self.index,
            text=text,
            token_ids=ids,
            sources=tuple(generation.sources[start:]),
            logprobs=tuple(generation.logprobs[start:]),
            ends=tuple(generation.ends[start:]),
            spans=tuple(self._sourced(text)),
            prompt_logprobs=scores,
        )

    def ended(
        self, phase: Phase, result: Result | None, failure: str = "", message: str = ""
    ) -> Ended:
        """Return the end of the sample, without what refers to the models."""
        result = result and result.detached()
        return Ended(
            id=self.submission.id,
            index=self.index,
            result=result,
            timing=self._timing(),
            stop=self._stop(),
            failure=failure,
            message=message,
            phase=str(phase),
        )

    def _sourced(self, text: str) -> Sequence[tuple[str, str]]:
        """Cut the text of a piece where the writing tier changes."""
        generation, start = self.generation, self.shown
        self.shown += len(text)
        pairs = [
            (min(end - start, len(text)), source)
            for end, source in zip(generation.ends, generation.sources, strict=True)
            if end > start
        ]
        return list(spans(text, [end for end, _ in pairs], [source for _, source in pairs]))

    def _stop(self) -> str | int | None:
        """Return what ended the text: a token of `stop_token_ids`, or a stop string."""
        generation, params = self.generation, self.submission.params
        if generation.finish is not FinishReason.STOP or not generation.output:
            return None
        if generation.output[-1] in params.stop_token_ids:
            return generation.output[-1]
        return generation.stream.stopped_by if generation.stream is not None else None

    def _timing(self) -> Timing:
        now, arrived = perf_counter(), self.submission.received
        began = now if self.began is None else self.began
        first = now if self.first is None else self.first
        return Timing(
            queued=began - arrived,
            first_token=None if self.first is None else self.first - arrived,
            reading=first - began,
            writing=now - first,
            total=now - arrived,
            preemptions=self.preemptions,
            cached_tokens=self.cached,
        )
