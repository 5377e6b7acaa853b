"""What the engine thread and its clients exchange: frozen records without shared state.

Requests go in as `Submission`; `Piece` and `Ended` come out. Nothing here refers to a model, so a
process could take the place of the thread.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from outrider.core.types import Prompt
from outrider.decoding.generation import TokenLogprob
from outrider.engine.result import Result
from outrider.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One request to the engine: a prompt, and `n` samples of its continuation.

    Attributes:
        id: unique among the requests of the engine.
        prompt: the prompt; it has been checked against the target (`checked.py`).
        params: the sampling parameters; the seed is set.
        places: places of the window that the prompt takes, if a selection of it is read; None: as
            many as it has tokens.
        n: number of samples; the prompt is read once.
        principal: who asks (a key, or an address); the scheduler shares the engine fairly among
            principals.
        salt: prefixes are reused only between requests of equal salt.
        priority: the scheduler prefers lower numbers.
        draft: False writes this text without drafts.
        prediction: tokens of a text that the answer is expected to resemble, for drafters that
            copy.
        shown: special tokens that the text holds; the others stand for no text.
        score_prompt: log-probabilities of the tokens of the prompt are wanted, with this many of
            the most probable tokens; None: they are not.
        received: `perf_counter` when the request arrived.
        begin_by: `perf_counter` until which the request may wait in the queue; None sets no limit.
        first_token_by: `perf_counter` until which the first token must be written; None sets no
            limit.
        finish_by: `perf_counter` at which the request is ended.
    """

    id: str
    prompt: Prompt
    params: SamplingParams
    places: int | None = None
    n: int = 1
    principal: str = ""
    salt: str = ""
    priority: int = 0
    draft: bool = True
    prediction: tuple[int, ...] = ()
    shown: frozenset[int] = frozenset()
    score_prompt: int | None = None
    received: float = 0.0
    begin_by: float | None = None
    first_token_by: float | None = None
    finish_by: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one round added to one sample.

    Attributes:
        id: of the request.
        index: of the sample.
        text: the text that became final; it may belong to earlier tokens, since incomplete
            characters and possible stop strings are held back.
        token_ids: the tokens of the round.
        sources: per token, the tier that wrote it.
        logprobs: per token, if requested.
        ends: per token, the length of the text after it was decoded.
        spans: `text` in pieces, each with the tier that wrote it.
        prompt_logprobs: of the tokens of the prompt, once, before the first token; None for the
            first token, which follows nothing.
    """

    id: str
    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    ends: tuple[int, ...] = ()
    spans: tuple[tuple[str, str], ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The phases of one sample, in seconds.

    Attributes:
        queued: from the arrival until the engine began to read the prompt.
        first_token: from the arrival until the first token; None: there was none.
        reading: from the begin of reading until the first token.
        writing: from the first token until the end.
        total: from the arrival until the end.
        preemptions: how often the sample was preempted.
        cached_tokens: tokens of the prompt that did not have to be read.
    """

    queued: float = 0.0
    first_token: float | None = None
    reading: float = 0.0
    writing: float = 0.0
    total: float = 0.0
    preemptions: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of one sample; nothing follows for it.

    Attributes:
        id: of the request.
        index: of the sample.
        result: text, tokens and counters; `finish_reason` is `stop`, `length`, `cancelled` or
            `error`.
        timing: the phases of the sample.
        stop: the stop string or token that ended the text; None if there was none.
        failure: why the engine ended the request: `queue_timeout`, `deadline` (no first token in
            time), `request_timeout`, `draining`, `invalid_request`, `engine_error`; empty if the
            text ended by itself or the client left.
        message: details of the failure, for the client.
        phase: what the request was doing: `waiting`, `reading` or `writing`.
    """

    id: str
    index: int
    result: Result | None
    timing: Timing = field(default_factory=Timing)
    stop: str | int | None = None
    failure: str = ""
    message: str = ""
    phase: str = "writing"


Event = Piece | Ended
"""What the engine publishes, in order for each sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """A snapshot of the engine, for health checks, limits and metrics.

    Counters only grow; the others are values of the moment.

    Attributes:
        running: samples that are being read or written.
        waiting: samples in the queue.
        queued_tokens: tokens of the prompts of these.
        cache_used: tokens in the caches of samples and of reusable prefixes.
        cache_size: largest number of tokens in caches.
        max_num_seqs: largest number of samples that run at once.
        heartbeat: `perf_counter` of the last step.
        slowest_step: seconds of the slowest step so far.
        draft_budget: drafted tokens of the last step, of all samples together.
        drain_rate: samples that ended per second, recently; for `Retry-After`.
        dead: why the engine thread ended; empty while it runs.
        drafting_off: why nothing is drafted any more; empty unless a round or the drafter failed.
        guard_states: states of the guard of drafting, by sizes of batches; empty without a guard.
        guard_switches: its switches so far, by new state and cause.
        counters: totals since the start, such as `preemptions`, `prompt_tokens`,
            `generation_tokens`, `prefix_queries`, `prefix_hits`, `drafts`, `draft_tokens`,
            `accepted_tokens`, `changed_tokens`, `steps`.
        accepted_at: accepted drafted tokens by position in the draft.
        sources: written tokens by tier.
        round_seconds: seconds by part of a round: draft, verify, accept.
        mask_counts: masks of grammars by their time (`MaskTimes`).
        mask_seconds: of all masks together.
    """

    running: int = 0
    waiting: int = 0
    queued_tokens: int = 0
    cache_used: int = 0
    cache_size: int = 0
    max_num_seqs: int = 0
    heartbeat: float = 0.0
    slowest_step: float = 0.0
    draft_budget: int = 0
    drain_rate: float = 0.0
    dead: str = ""
    drafting_off: str = ""
    guard_states: Mapping[str, str] = field(default_factory=dict[str, str])
    guard_switches: Mapping[tuple[str, str], int] = field(
        default_factory=dict[tuple[str, str], int]
    )
    counters: Mapping[str, int] = field(default_factory=dict[str, int])
    accepted_at: tuple[int, ...] = ()
    sources: Mapping[str, int] = field(default_factory=dict[str, int])
    round_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    mask_counts: tuple[int, ...] = ()
    mask_seconds: float = 0.0
