"""The result of a request, and the counters of its speculation."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from outrider.constraints.validation import validated
from outrider.context.reading import Reading
from outrider.core import metrics
from outrider.core.counters import Counters
from outrider.core.types import Exactness
from outrider.core.values import JsonValue
from outrider.decoding.generation import Generation, TokenLogprob
from outrider.engine.html import result_html
from outrider.engine.readings import cache_figures, context_figures, reading_of
from outrider.policies.guard import Guard, GuardReport, State
from outrider.strategy import Strategy
from outrider.strategy.description import lower_models


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Counters of drafting and acceptance. Rates are the target's; `stages` holds those of every
    tier.

    Attributes:
        mode: the mode's name.
        exactness: the guarantee for the text.
        target: the target's counters.
        stages: counters of the inner tiers, outermost first.
        predicted_tokens_per_second: the throughput that the recursion of the specification predicts
            from the call costs and acceptance rates of this run; None without a draft or in deeper
            cascades.
        guard: what the guard of drafting has found; None without a guard or a drafter.
    """

    mode: str
    exactness: Exactness
    target: Counters
    stages: dict[str, Counters]
    predicted_tokens_per_second: float | None = None
    guard: GuardReport | None = None

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain numbers for JSON."""
        c = self.target
        return {
            "mode": self.mode,
            "exactness": str(self.exactness),
            "target_forwards": c.forwards,
            **_counted(c),
            "mean_accepted_length": metrics.mean_accepted_length(c),
            "block_efficiency": metrics.block_efficiency(c),
            "changed_tokens": c.changed,
            **({"denoised_rows": c.denoised_rows} if c.denoised_rows else {}),
            "sources": {"draft": 0, "qualifier": 0, "target": 0} | c.sources,
            "undrafted_rounds": c.undrafted_rounds,
            "predicted_tokens_per_second": self.predicted_tokens_per_second,
            "stages": {
                name: _counted(counters) | {"off": counters.off}
                for name, counters in self.stages.items()
            },
            "guard": self.guard and self.guard.to_dict(),
        }


def _counted(c: Counters) -> dict[str, JsonValue]:
    return {
        "rounds": c.rounds,
        "drafted": c.drafted,
        "accepted": c.accepted,
        "acceptance_rate": metrics.acceptance_rate(c),
        "accepted_at": metrics.acceptance_at(c),
        "mean_draft_length": metrics.mean_draft_length(c),
        "origins": {
            origin: {"drafts": t.drafts, "drafted": t.drafted, "accepted": t.accepted}
            for origin, t in c.tallies.items()
            if t.drafts
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of one finished request.

    Attributes:
        text: the generated text, without end tokens and stop strings.
        token_ids: generated ids, the end token included.
        finish_reason: `stop`, `length`, `cancelled` or `error`.
        seconds: wall-clock parts: prefill, draft, verify, accept, total; refresh, if the target
            selected its input again.
        tokens_per_second: tokens per second after the prefill.
        sources: per token, the tier that wrote it.
        changed: per token, whether the rule kept another token than the target's choice, given the
            text before it, in the forward that verified it. Rounding is not seen here; see
            `speculation.exactness`.
        seed: the seed that reproduces the text.
        error: the error, if `finish_reason` is `error`.
        context: figures of a long input; its entry `on` says which tiers read a selection:
            `target`, `drafters`, or None if everything was read. None without a long input.
        reading: the record of the selection (`context.reading.Reading`), if there was one.
        guidance: the scale of classifier-free guidance, or another guidance method; None without.
        cache: figures of caches under a policy: `policy`, `bytes` of keys and values at the end and
            `full_bytes` of a cache that keeps all rows; `draft_policy` of the models below the
            target, and `draft_bytes` of their caches. None: all caches keep all rows.
        validated: whether the text follows its JSON schema, checked after decoding; None without a
            schema, and for a schema that the grammar enforces as a whole (`Constraint.enforced`).
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    seconds: dict[str, float]
    tokens_per_second: float
    speculation: Speculation
    sources: tuple[str, ...] = ()
    changed: tuple[bool, ...] = ()
    ends: tuple[int, ...] = ()
    token_times: tuple[float, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    seed: int = 0
    error: str | None = None
    context: dict[str, JsonValue] | None = None
    reading: Reading | None = None
    guidance: float | str | None = None
    cache: dict[str, JsonValue] | None = None
    validated: bool | None = None

    @property
    def completion_tokens(self) -> int:
        """Number of generated tokens."""
        return len(self.token_ids)

    def detached(self) -> "Result":
        """Return the result without the records of selections, which refer to the models; their
        figures stay in `context`."""
        if self.context is None:
            return self
        counted = self.speculation
        stages = {name: replace(c, reading=None) for name, c in counted.stages.items()}
        target = replace(counted.target, reading=None)
        return replace(
            self, reading=None, speculation=replace(counted, target=target, stages=stages)
        )

    def spans(self) -> Iterator[tuple[str, str]]:
        """Yield the text in pieces `(text, source)`: each with the tier that wrote it."""
        yield from spans(self.text, self.ends, self.sources)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the text tinted by source, a legend, and the speed."""
        figures = f"{self.tokens_per_second:.1f} tokens/s"
        counters = self.speculation.target
        if counters.drafted:
            figures += f", acceptance {metrics.acceptance_rate(counters):.0%}"
        if self.guidance is not None:
            figures += f", guidance {self.guidance}"
        if self.error:
            figures += f", error: {self.error}"
        return result_html(self.spans(), counters.sources, figures)

    def to_dict(self) -> dict[str, JsonValue]:
        """Plain data for JSON."""
        out: dict[str, JsonValue] = {
            "text": self.text,
            "token_ids": list(self.token_ids),
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "speculation": self.speculation.to_dict(),
            "seed": self.seed,
            "token_sources": list(self.sources),
            "token_changed": list(self.changed),
        }
        if self.context is not None:
            out["context"] = self.context
        if self.guidance is not None:
            out["guidance"] = self.guidance
        if self.cache is not None:
            out["cache"] = self.cache
        if self.validated is not None:
            out["validated"] = self.validated
        if self.logprobs:
            out["logprobs"] = [
                {"token": lp.token, "logprob": lp.logprob, "top": [list(t) for t in lp.top]}
                for lp in self.logprobs
            ]
        if self.error:
            out["error"] = self.error
        return out


def spans(
    text: str, ends: tuple[int, ...] | list[int], sources: tuple[str, ...] | list[str]
) -> Iterator[tuple[str, str]]:
    """Cut `text` where the writing tier changes. A character belongs to the token that ends it."""
    start, piece, writer = 0, "", ""
    for end, source in zip(ends, sources, strict=False):
        fresh = text[start:end]
        start = max(start, end)
        if source != writer and piece and fresh:
            yield piece, writer
            piece = ""
        if fresh:
            piece, writer = piece + fresh, source
    piece += text[start:]
    if piece:
        yield piece, writer or "target"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultMaker:
    """Builds results from finished generations; stores the mode and the nesting of tiers."""

    mode: str
    exactness: Exactness
    windows: tuple[int, ...] = field(default=())
    """Draft lengths per stage, outermost first; one for two tiers, two for three."""
    bytes_per_token: int = 0
    """Size of the target's keys and values for one token."""
    guard: GuardReport | None = None
    draft_policies: tuple[str, ...] = ()
    """Policies of the caches of the models below the target."""

    def __call__(self, generation: Generation, stages: dict[str, Counters]) -> Result:
        """Build the result of one generation; `stages` are the counters of the inner tiers."""
        counters, tokens = generation.counters, len(generation.output)
        total = max(generation.ended - generation.begun, 0.0)
        parts = dict.fromkeys(("prefill", "draft", "verify", "accept"), 0.0)
        seconds = parts | counters.seconds | {"total": total}
        return Result(
            text=generation.text,
            token_ids=tuple(generation.output),
            finish_reason=str(generation.finish),
            prompt_tokens=_prompt_tokens(generation),
            seconds=seconds,
            tokens_per_second=metrics.ratio(
                tokens, total - seconds["prefill"] - seconds.get("vision", 0.0)
            ),
            speculation=Speculation(
                mode=self.mode,
                exactness=self.exactness,
                target=counters,
                stages=stages,
                predicted_tokens_per_second=self._predict(counters, stages),
                guard=self.guard,
            ),
            sources=tuple(generation.sources),
            changed=tuple(generation.changed),
            ends=tuple(generation.ends),
            token_times=tuple(generation.token_times),
            logprobs=tuple(generation.logprobs),
            seed=generation.request.sampler.seed,
            error=str(generation.error) if generation.error else None,
            context=context_figures(generation, stages, self.bytes_per_token),
            reading=reading_of(counters, stages)[0],
            guidance=generation.sequence.cache.report.guidance if generation.sequence else None,
            cache=cache_figures(generation, self.draft_policies, stages, self.bytes_per_token),
            validated=validated(generation.request.sampler.params.constraint, generation.text),
        )

    def _predict(self, target: Counters, stages: dict[str, Counters]) -> float | None:
        """Compute the recursion of the specification from this run's costs and acceptance rates."""
        inner = list(stages.values())
        if len(inner) not in (1, 2) or len(inner) != len(self.windows) or not inner[-1].forwards:
            return None
        accept = metrics.acceptance_chance(target)
        verify = metrics.ratio(target.seconds.get("verify", 0.0), target.forwards)
        if len(inner) == 1:
            draft = metrics.ratio(target.seconds.get("draft", 0.0), inner[0].forwards)
            return metrics.predicted_two_tier_speed(draft, verify, accept, self.windows[0])
        qualifier, model = inner
        costs = metrics.PyramidCosts(
            draft=metrics.ratio(qualifier.seconds.get("draft", 0.0), model.forwards),
            qualifier=metrics.ratio(qualifier.seconds.get("verify", 0.0), qualifier.forwards),
            target=verify,
            accept_qualifier=metrics.acceptance_chance(qualifier),
            accept_target=accept,
        )
        return metrics.predicted_speed(costs, self.windows[1], self.windows[0])


def result_of(generation: Generation, strategy: Strategy, mode: str, guard: Guard | None) -> Result:
    """Build the result of a generation that a strategy has written."""
    make = ResultMaker(
        mode=mode,
        exactness=strategy.exactness,
        windows=strategy.windows,
        bytes_per_token=strategy.target.info.bytes_per_token,
        guard=report_of(guard, generation),
        draft_policies=tuple(
            model.info.kv_policy
            for model in lower_models(strategy.drafter)
            if model is not strategy.target and model.info.kv_policy
        ),
    )
    sequence = generation.sequence
    if sequence is None or not sequence.begun:
        return make(generation, {})
    return make(generation, strategy.drafter.counters(sequence.state))


def report_of(guard: Guard | None, generation: Generation) -> GuardReport | None:
    """Return what the guard says about a request: its own state after an error of the drafter."""
    sequence = generation.sequence
    if guard is None or sequence is None or sequence.off is None:
        return guard and guard.report
    reason = f"the drafter raised an error in this request: {sequence.off}"
    return GuardReport(state=State.FAILED, since=generation.counters.rounds, x=None, reason=reason)


def _prompt_tokens(generation: Generation) -> int:
    """Count the tokens of the prompt as the target reads it, including image tokens."""
    prompt, sequence = generation.request.prompt, generation.sequence
    if prompt.image_prompt is None or sequence is None:
        return len(prompt)
    return len(sequence.cache.text) - len(generation.output)
