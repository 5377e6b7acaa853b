"""Sessions of a masked denoiser: requests that join and leave between rounds of diffusion."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

from outrider.core.errors import OptionError, OutriderError
from outrider.core.types import FinishReason, Verdict
from outrider.decoding import Earlier, Generation, Session, TokenLogprob, uncount
from outrider.diffusion.denoising import Denoising
from outrider.diffusion.drawing import Drawing
from outrider.diffusion.rule import Diffusion
from outrider.diffusion.trace import Round
from outrider.protocols import Denoiser, Request
from outrider.sampling import SamplingParams

_PLAIN = SamplingParams()


@dataclass(slots=True, kw_only=True)
class DenoisingSession(Session):
    """Requests that take turns: one step runs one round of each.

    The tokens of a request that are committed without a gap are appended to its text. They never
    change, so that stop strings, limits and streams work as with any model.

    Attributes:
        denoiser: the model.
        rule: which positions a round commits.
    """

    denoiser: Denoiser
    rule: Diffusion
    _answers: dict[int, Denoising] = field(default_factory=dict[int, Denoising])

    def add(
        self,
        generations: Sequence[Generation],
        previous: Sequence[Earlier | None] | None = None,
        *,
        chunk: int | None = None,
    ) -> None:
        """Add requests; nothing is read before the first round.

        Raises:
            ContextError: a prompt does not fit. In this case no request joins.
            OptionError: a setting of a request needs a text that is written from left to right.
            ValueError: a request has ended, or is already in a session.
        """
        answers = {id(one): self._answer(one.request) for one in generations}
        Session.add(self, generations, previous)  # nothing is read in parts: `chunk` is not used
        for generation in generations:
            generation.limit = min(generation.limit, len(answers[id(generation)].answer))
        self._answers |= answers

    def step(
        self, depths: Sequence[int] | None = None, draft_rows: int | None = None
    ) -> list[Generation]:
        """Run one round of each request; return the requests that advanced or ended. There are no
        drafts that the arguments could limit."""
        self.drafted, self.drafts_read, self.drafts_wait = 0, 0, False
        if not self.pending:
            return []
        active, begun = list(self.generations), perf_counter()
        for generation in active:
            self._advance(generation)
        self.seconds = {"draft": 0.0, "verify": perf_counter() - begun, "accept": 0.0}
        return active

    def release(self, generation: Generation) -> None:
        """Remove a request, running or ended."""
        Session.release(self, generation)
        self._answers.pop(id(generation), None)

    def _answer(self, request: Request) -> Denoising:
        """Begin an answer. The sampler of the request is only read."""
        sampler = request.sampler
        return Denoising(
            self.denoiser,
            request.prompt.token_ids,
            self.rule,
            max_new_tokens=sampler.params.max_new_tokens,
            drawing=drawing_of(sampler.params, sampler.seed, sampler.sample),
            end_ids=sampler.end_ids,
            fixed=sampler.params.forced_tokens,
            constraint=request.completable,
        )

    def _advance(self, generation: Generation) -> None:
        """Run one round of a request, and append what is written without a gap."""
        answer = self._answers[id(generation)]
        sequence = generation.open_sequence
        before, counters = len(generation.output), sequence.counters
        counters.rounds += 1
        counters.undrafted_rounds += 1
        try:
            done = answer.step()
        except OutriderError as error:  # of this request: the others go on
            counters.forwards += 1
            generation.advance(Verdict(error=error), None)
            self._answers.pop(id(generation))
            return
        counters.forwards += done.forwards
        counters.denoised_rows += done.rows
        counters.add_seconds(verify=done.seconds)
        fresh = tuple(answer.prefix[before:])
        if fresh:
            sources = ("target",) * len(fresh)
            counters.next_tokens += len(fresh)
            counters.sources["target"] = counters.sources.get("target", 0) + len(fresh)
            verdict = Verdict(
                tokens=fresh[:-1],
                next_token=fresh[-1],
                changed=(False,) * len(fresh),
                sources=sources,
            )
            found = _logprobs(answer, before, len(fresh), generation.request)
            kept = generation.advance(verdict, None, found)
            uncount(counters, verdict, len(kept))
            sequence.cache.commit(kept)
        if generation.finish is None and answer.done:
            generation.end(FinishReason.STOP)
        if generation.finish is not None:
            self._answers.pop(id(generation), None)


def drawing_of(params: SamplingParams, seed: int, sample: int = 0) -> Drawing:
    """Return how tokens are chosen for a request.

    What ends a text, and log-probabilities, are not part of it.

    Args:
        params: the settings of the request.
        seed: its seed.
        sample: number of the sample of the prompt; each has noise of its own.

    Raises:
        OptionError: a setting needs a text that is written from left to right, or alternatives to
            a token that were not kept.
    """
    if params.logprobs:
        raise OptionError(
            f"logprobs is {params.logprobs}, but a denoiser reports the committed tokens only",
            hint="Give logprobs=0, or leave it out",
        )
    others = {name: getattr(_PLAIN, name) for name in _ELSEWHERE}
    return replace(Drawing.of(replace(params, **others), seed), sample=sample)


_ELSEWHERE = ("stop", "stopping_criteria", "logprobs", "constraint")
"""Settings that the session follows, and not the choice of tokens."""


def _logprobs(
    answer: Denoising, before: int, count: int, request: Request
) -> list[TokenLogprob] | None:
    """Return the log-probability of each new token when it was committed; None if it is not
    wanted. Tokens that were fixed, or that a constraint wrote, have the probability 1."""
    if request.sampler.params.logprobs is None:
        return None
    known = _committed(answer.trace.rounds)
    return [
        TokenLogprob(token, known.get(slot, 0.0))
        for slot, token in enumerate(answer.prefix[before : before + count], start=before)
    ]


def _committed(rounds: Sequence[Round]) -> dict[int, float]:
    return {
        slot: logprob
        for one in rounds
        for slot, logprob in zip(one.slots.tolist(), one.logprobs.tolist(), strict=True)
    }
