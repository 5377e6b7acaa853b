"""The record of one request during generation: tokens, text, and the conditions that end it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch

from outrider.core.counters import Counters
from outrider.core.errors import ContextError, GrammarError
from outrider.core.types import GRAMMAR, FinishReason, IntArray, Rows, Verdict, as_ids
from outrider.decoding.stage import SequenceState
from outrider.protocols import Request
from outrider.sampling.text import TextStream


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of an emitted token under the target's unwarped distribution, together with
    the most probable tokens."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Generation:
    """One running request. It is the result of the request once `finish` is set.

    Attributes:
        request: prompt and sampler; `request.output` holds the generated tokens.
        stream: converts tokens to text; None without a tokenizer.
        sources: per token, the tier that wrote it.
        changed: per token, whether it differs from the target's choice given the text before it.
        logprobs: per token, if requested.
        finish: why the request ended; None while it runs.
        error: the problem with the target's logits, if `finish` is `error`.
        ends: per token, the length of the text after it was decoded.
        token_times: per token, `perf_counter` at the end of its round.
        window: the largest number of tokens of prompt and text, for prompts whose length is known
            only after they are read (images); None: the limit is the model's window.
    """

    request: Request
    stream: TextStream | None = None
    sources: list[str] = field(default_factory=list)
    changed: list[bool] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: FinishReason | None = None
    error: Exception | None = None
    sequence: SequenceState | None = None
    counters: Counters = field(default_factory=Counters)
    limit: int = 0
    begun: float = field(default_factory=perf_counter)
    ended: float = 0.0
    ends: list[int] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)
    window: int | None = None
    _cancelled: bool = False

    @property
    def output(self) -> list[int]:
        """Ids of the generated tokens, without the prompt."""
        return self.request.output

    @property
    def text(self) -> str:
        """The text generated so far."""
        return self.stream.text if self.stream else ""

    @property
    def running(self) -> bool:
        """Whether the request takes part in another round; this also handles a cancellation."""
        if self._cancelled and self.finish is None:
            self._end(FinishReason.CANCELLED)
        return self.finish is None

    @property
    def remaining(self) -> int:
        """The number of tokens that may still be generated."""
        return self.limit - len(self.output)

    @property
    def ended_by_window(self) -> bool:
        """Whether the text would be longer if the model's window (or `window`) were larger."""
        most = self.request.sampler.params.max_new_tokens
        return self.finish is FinishReason.LENGTH and len(self.output) < most

    @property
    def open_sequence(self) -> SequenceState:
        """The sequence of the request while it runs."""
        assert self.sequence is not None
        return self.sequence

    def cancel(self) -> None:
        """End the request before the next round."""
        self._cancelled = True

    def open(self, sequence: SequenceState, counters: Counters, room: int) -> None:
        """Start generation; `room` is the number of tokens that still fit in the target's window.

        Raises:
            ContextError: the prompt, as the target reads it, leaves no space in `window`.
        """
        self.sequence, self.counters = sequence, counters
        if self.window is not None:
            length = len(sequence.cache.text)
            room = min(room, self.window - length)
            if room < 1:
                raise ContextError(
                    f"the prompt has {length} tokens with its images; the context is limited to "
                    f"{self.window} and one is needed for the answer",
                    hint="Give fewer or smaller images, or raise the limit",
                )
        room += len(self.output)  # the output of a preempted request is already part of the text
        self.limit = min(self.request.sampler.params.max_new_tokens, room)
        if self.output and self.remaining < 1:  # a resumed request may be at its limit
            self._end(FinishReason.LENGTH)

    @property
    def score(self) -> float:
        """Sum of the log-probabilities of the generated tokens under the target's own logits
        (before penalties and warps). It is used to compare branches of one text.

        Raises:
            ValueError: log-probabilities were not requested (`SamplingParams.logprobs`; 0 is
                enough).
        """
        if self.request.sampler.params.logprobs is None:
            raise ValueError("a score needs log-probabilities: give logprobs=0")
        return sum(token.logprob for token in self.logprobs)

    def branch(self, request: Request) -> "Generation":
        """Return a copy that continues as `request`, whose output must equal the output of this
        request.
        """
        return replace(
            self,
            request=request,
            stream=self.stream and self.stream.branch(),
            sources=list(self.sources),
            changed=list(self.changed),
            logprobs=list(self.logprobs),
            ends=list(self.ends),
            token_times=list(self.token_times),
        )

    def end(self, reason: FinishReason) -> None:
        """End a request that runs, for a reason that its tokens do not show."""
        if self.finish is None:
            self._end(reason)

    def advance(
        self,
        verdict: Verdict,
        rows: Rows | None,
        logprobs: Sequence[TokenLogprob] | None = None,
    ) -> IntArray:
        """Append the emitted tokens up to the point where the text ends; return the tokens that are
        kept.

        Args:
            verdict: the decision of the rule.
            rows: what the forward returned, for log-probabilities; None: there are none, or they
                are given.
            logprobs: one for each emitted token, if they are known otherwise.
        """
        if verdict.error is not None:
            self.error = verdict.error
            self._end(FinishReason.ERROR)
            return as_ids(())
        kept, before = 0, len(self.output)
        reason = None
        for token in verdict.emitted:
            self.output.append(token)
            kept += 1
            reason = self._finish_after(token)
            self.ends.append(len(self.text))
            if reason is not None:
                break
        self.sources += verdict.sources[:kept]
        self.changed += verdict.changed[:kept]
        self.token_times += [perf_counter()] * kept
        if logprobs is not None:
            self.logprobs += logprobs[:kept]
        elif rows is not None:
            self._note_logprobs(verdict, rows, kept)
        while reason is None and (forced := self._forced()) is not None:
            self.output.append(forced)
            self.sources.append(GRAMMAR)
            self.changed.append(False)
            self.token_times.append(self.token_times[-1])
            reason = self._finish_after(forced)
            self.ends.append(len(self.text))
        if reason is not None:
            self._end(reason)
        return as_ids(self.output[before:])

    def _forced(self) -> int | None:
        """Return the next token, if the grammar allows no other. Log-probabilities need the logits
        of each token."""
        sampler = self.request.sampler
        if sampler.walk is None or sampler.params.logprobs is not None:
            return None
        try:
            return sampler.single(self.output)
        except GrammarError:  # it is raised again when the next token is chosen
            return None

    def _end(self, reason: FinishReason) -> None:
        self.finish, self.ended = reason, perf_counter()
        if self.stream is not None:
            self.stream.close()
            if self.ends:  # this text belongs to the last token
                self.ends[-1] = len(self.text)

    def _finish_after(self, token: int) -> FinishReason | None:
        sampler = self.request.sampler
        if token in sampler.end_ids:
            return FinishReason.STOP
        if self.stream is not None and self.stream.push(token):
            return FinishReason.STOP
        if self._criteria_met():
            return FinishReason.STOP
        return FinishReason.LENGTH if self.remaining <= 0 else None

    def _criteria_met(self) -> bool:
        criteria = self.request.sampler.params.stopping_criteria
        if not criteria:
            return False
        ids = torch.tensor([[*self.request.prompt.token_ids, *self.output]])
        return any(bool(torch.as_tensor(met(ids, None)).all()) for met in criteria)

    def _note_logprobs(self, verdict: Verdict, rows: Rows, kept: int) -> None:
        top = self.request.sampler.params.logprobs
        if top is None:
            return
        for parent, token in zip((-1, *verdict.path), verdict.emitted[:kept], strict=False):
            self.logprobs.append(token_logprob(rows.logits[parent + 1], token, top))


def token_logprob(logits: torch.Tensor, token: int, top: int) -> TokenLogprob:
    """Return the log-probability of `token` in a row `[vocab]`, and the `top` most probable
    tokens."""
    logp = torch.log_softmax(
        logits.double() if logits.dtype == torch.float64 else logits.float(), -1
    )
    values, ids = torch.topk(logp, min(top, logp.numel()))
    best: Sequence[tuple[int, float]] = list(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token, float(logp[token]), tuple(best))
