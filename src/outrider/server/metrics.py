"""Metrics of one server in the format of Prometheus, under the names of vLLM and its own."""

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from outrider.engine.serving.messages import Ended, EngineState, Event, Submission
from outrider.policies.guard import State
from outrider.sampling.walk import MASK_SECONDS
from outrider.server.client import EngineClient

OWN, VLLM = "outrider:", "vllm:"

_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5)
_FIRST += (10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75)
_BETWEEN += (1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_WHOLE = (0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0)
_WHOLE += (60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0)
_TOKENS = tuple(float(d * 10**e) for e in range(6) for d in (1, 2, 5))
_SAMPLES = (1.0, 2.0, 5.0, 10.0, 20.0)

_HISTOGRAMS: dict[str, tuple[str, Sequence[float]]] = {
    "time_to_first_token_seconds": ("From the arrival until the first token", _FIRST),
    "inter_token_latency_seconds": ("Time of a round divided by its tokens", _BETWEEN),
    "request_time_per_output_token_seconds": ("Time of writing divided by tokens", _BETWEEN),
    "e2e_request_latency_seconds": ("From the arrival until the end", _WHOLE),
    "request_queue_time_seconds": ("In the queue", _WHOLE),
    "request_prefill_time_seconds": ("From the begin of reading until the first token", _WHOLE),
    "request_decode_time_seconds": ("From the first token until the end", _WHOLE),
    "request_inference_time_seconds": ("From the begin of reading until the end", _WHOLE),
    "request_prompt_tokens": ("Tokens of the prompt", _TOKENS),
    "request_generation_tokens": ("Tokens written", _TOKENS),
    "request_max_num_generation_tokens": ("Tokens of the longest sample", _TOKENS),
    "request_params_n": ("Samples of a prompt", _SAMPLES),
    "request_params_max_tokens": ("Limit of tokens", _TOKENS),
    "iteration_tokens_total": ("Tokens read and written in a step", _TOKENS),
    "constraint_compile_seconds": ("From a new grammar to its compiled form", _WHOLE),
}

_COUNTERS = {
    "num_preemptions": ("preemptions", "Samples that gave up their place"),
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts that were read"),
    "generation_tokens": ("generation_tokens", "Tokens that were written"),
    "prefix_cache_queries": ("prefix_queries", "Tokens of prompts looked up for reuse"),
    "prefix_cache_hits": ("prefix_hits", "Tokens of prompts that were reused"),
    "spec_decode_num_drafts": ("drafts", "Drafts that were verified"),
    "spec_decode_num_draft_tokens": ("draft_tokens", "Drafted tokens that were verified"),
    "spec_decode_num_accepted_tokens": ("accepted_tokens", "Drafted tokens that were accepted"),
    "engine_steps": ("steps", "Steps of the engine"),
    "constraint_errors": ("grammar_errors", "Texts that ended because of their grammar"),
    "learner_updates": ("learner_updates", "Updates of the draft model while serving"),
    "learner_corrections": ("learner_corrections", "Corrected tokens that were recorded"),
}
"""Counters of the engine: name, key in `EngineState.counters`, description."""

_OWN_ONLY = ("http_", "tokens_by_", "changed_", "round_", "draft_", "requests_rejected", "disco")
_OWN_ONLY += ("engine_", "constraint_", "mask_", "learner_", "guard_")


class Metrics:
    """Counters and histograms of one server; gauges and totals are read when they are asked for."""

    def __init__(self, model_name: str, *, vllm: bool = True, kv_policy: str = "") -> None:
        self._kept = {"kv_policy": kv_policy} if kv_policy else {}
        self._labels = {"model_name": model_name, "engine": "0"}
        self._vllm = vllm
        self._inner = CollectorRegistry(auto_describe=False)
        self.registry = CollectorRegistry(auto_describe=False)
        self._histograms = {
            name: Histogram(
                OWN + name, help, [*self._labels], registry=self._inner, buckets=buckets
            ).labels(**self._labels)
            for name, (help, buckets) in _HISTOGRAMS.items()
        }
        self._success = self._counter("request_success", "Samples by their end", "finished_reason")
        self._rejected = self._counter("requests_rejected", "Requests refused", "reason")
        self._constrained = self._counter("constraint_requests", "Requests with a grammar", "kind")
        self._unread = self._counter("constraint_refused", "Grammars that were refused", "reason")
        self._known = self._plain("constraint_cache_hits", "Grammars that were known already")
        self._violations = self._plain("constraint_violations", "Texts that break their schema")
        self._checked = self._plain("constraint_texts_checked", "Texts checked by a validator")
        self._gone = self._counter("disconnects", "Clients that left early", "phase")
        self._http = Counter(
            OWN + "http_requests", "Requests", ["method", "handler", "status"], registry=self._inner
        )
        self._http_seconds = Histogram(
            OWN + "http_request_duration_seconds",
            "Time of requests",
            ["method", "handler"],
            registry=self._inner,
            buckets=_WHOLE,
        )
        for reason in ("stop", "length", "cancelled", "error"):
            self._success.labels(**self._labels, finished_reason=reason)
        self._last = (0, 0)

    def _counter(self, name: str, help: str, label: str) -> Counter:
        return Counter(OWN + name, help, [*self._labels, label], registry=self._inner)

    def _plain(self, name: str, help: str) -> Counter:
        made = Counter(OWN + name, help, [*self._labels], registry=self._inner)
        return made.labels(**self._labels)

    def attach(self, client: EngineClient) -> None:
        """Observe the events of the engine, and read its totals."""
        client.observers.append(self.observe)
        client.step_observers.append(self.stepped)
        self.registry.register(_Exposed(self._inner, client, self._labels, self._vllm, self._kept))

    def text(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self.registry)

    # -- what happens -----------------------------------------------------------------------

    def submitted(self, submission: Submission) -> None:
        """Observe a request that goes to the engine."""
        self._observe("request_prompt_tokens", len(submission.prompt))
        self._observe("request_params_n", submission.n)
        self._observe("request_params_max_tokens", submission.params.max_new_tokens)

    def refused(self, reason: str) -> None:
        """Count a request that was refused before it reached the engine."""
        self._rejected.labels(**self._labels, reason=reason).inc()

    def constrained(self, kind: str) -> None:
        """Count a request whose text follows a grammar."""
        self._constrained.labels(**self._labels, kind=kind).inc()

    def grammar_known(self) -> None:
        """Count a grammar that need not be compiled, or has been refused already."""
        self._known.inc()

    def grammar_refused(self, reason: str) -> None:
        """Count a request whose grammar is refused: `limit`, `invalid`, `slow` or `broken`."""
        self._unread.labels(**self._labels, reason=reason).inc()

    def grammar_seconds(self, seconds: float) -> None:
        """Observe how long a new grammar took."""
        self._observe("constraint_compile_seconds", seconds)

    def text_checked(self, *, valid: bool | None) -> None:
        """Count a finished text that was checked against its schema; None: it could not be."""
        if valid is not None:
            self._checked.inc()
            self._violations.inc(not valid)

    def disconnected(self, phase: str) -> None:
        """Count a client that left before the end."""
        self._gone.labels(**self._labels, phase=phase).inc()

    def count_http(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is the pattern of its path, so that there are few of them."""
        self._http.labels(method, route, str(status)).inc()
        self._http_seconds.labels(method, route).observe(seconds)

    def finished(self, longest: int) -> None:
        """Observe the tokens of the longest sample of a request."""
        self._observe("request_max_num_generation_tokens", longest)

    def observe(self, event: Event) -> None:
        """Observe the end of a sample."""
        if not isinstance(event, Ended):
            return
        reason = event.result.finish_reason if event.result is not None else "error"
        reason = "error" if event.failure else reason
        self._success.labels(**self._labels, finished_reason=reason).inc()
        timing, tokens = event.timing, event.result.token_ids if event.result else ()
        self._observe("e2e_request_latency_seconds", timing.total)
        self._observe("request_queue_time_seconds", timing.queued)
        self._observe("request_generation_tokens", len(tokens))
        if timing.first_token is None:
            return
        self._observe("time_to_first_token_seconds", timing.first_token)
        self._observe("request_prefill_time_seconds", timing.reading)
        self._observe("request_decode_time_seconds", timing.writing)
        self._observe("request_inference_time_seconds", timing.reading + timing.writing)
        if len(tokens) > 1:
            each = timing.writing / (len(tokens) - 1)
            self._observe("request_time_per_output_token_seconds", each)
        if event.result is not None:
            for gap in gaps(event.result.token_times):
                self._observe("inter_token_latency_seconds", gap)

    def stepped(self, state: EngineState) -> None:
        """Observe the tokens of the steps since the last call."""
        counters = state.counters
        tokens = counters.get("prompt_tokens", 0) + counters.get("generation_tokens", 0)
        steps = counters.get("steps", 0)
        before_tokens, before_steps = self._last
        self._last = (tokens, steps)
        if steps > before_steps:
            self._observe(
                "iteration_tokens_total", (tokens - before_tokens) / (steps - before_steps)
            )

    def _observe(self, name: str, value: float) -> None:
        self._histograms[name].observe(value)


def gaps(times: Sequence[float]) -> Iterator[float]:
    """Yield the time between tokens: that of a round, divided by the tokens that it wrote."""
    start = 0
    for at in range(1, len(times)):
        if times[at] == times[at - 1]:
            continue
        if start:
            yield from [(times[at - 1] - times[start - 1]) / (at - start)] * (at - start)
        start = at
    if start:
        count = len(times) - start
        yield from [(times[-1] - times[start - 1]) / count] * count


class _Exposed(Collector):
    """All metrics: what the server counts, and what the engine knows."""

    def __init__(
        self,
        inner: CollectorRegistry,
        client: EngineClient,
        labels: dict[str, str],
        vllm: bool,
        kept: dict[str, str],
    ) -> None:
        self._inner, self._client, self._labels, self._vllm = inner, client, labels, vllm
        self._kept = kept

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, and those that vLLM has under its names too."""
        for metric in (*map(_lasting, self._inner.collect()), *self._engine()):
            for one in (metric, *_again(metric)):
                yield one
                name = one.name.removeprefix(OWN)
                if self._vllm and not name.startswith(_OWN_ONLY):
                    yield _renamed(one, OWN, VLLM)

    def _engine(self) -> Iterator[Metric]:
        state = self._client.state
        used = state.cache_used / state.cache_size if state.cache_size else 0.0
        yield self._gauge("num_requests_running", "Samples that run", state.running)
        yield self._gauge("num_requests_waiting", "Samples that wait", state.waiting)
        yield self._gauge("kv_cache_usage_perc", "Used share of the caches, 0 to 1", used)
        yield self._info(state)
        for name, (key, help) in _COUNTERS.items():
            yield self._total(name, help, [((), state.counters.get(key, 0))])
        at = [((str(place),), count) for place, count in enumerate(state.accepted_at)]
        yield self._total(
            "spec_decode_num_accepted_tokens_per_pos",
            "Accepted tokens by place in the draft",
            at,
            ["position"],
        )
        sources = [((source,), count) for source, count in sorted(state.sources.items())]
        yield self._total(
            "tokens_by_source", "Tokens by the tier that wrote them", sources, ["source"]
        )
        changed = state.counters.get("changed_tokens", 0)
        yield self._total("changed_tokens", "Tokens that are not the target's", [((), changed)])
        parts = [((part,), seconds) for part, seconds in sorted(state.round_seconds.items())]
        yield self._total("round_seconds", "Time of rounds by part", parts, ["part"])
        yield self._guard(state)
        switches = [((to, why), n) for (to, why), n in sorted(state.guard_switches.items())]
        yield self._total(
            "guard_switches", "Switches of the guard of drafting", switches, ["to", "reason"]
        )
        yield self._masks(state)
        yield self._gauge("draft_budget_tokens", "Drafted tokens of a step", state.draft_budget)
        yield self._gauge(
            "engine_heartbeat_age_seconds", "Time without a step, while work waits", self._age()
        )

    def _guard(self, state: EngineState) -> Metric:
        family = GaugeMetricFamily(
            OWN + "guard_state",
            "Whether drafting is on for batches of a size: 1, else 0",
            labels=[*self._labels, "batch"],
        )
        for sizes, name in state.guard_states.items():
            on = name in (State.ON, State.LOSING)
            family.add_metric([*self._labels.values(), sizes], on)
        return family

    def _masks(self, state: EngineState) -> Metric:
        family = HistogramMetricFamily(
            OWN + "mask_seconds", "Time of finding the allowed tokens", labels=[*self._labels]
        )
        counts = list(accumulate(state.mask_counts or [0] * (len(MASK_SECONDS) + 1)))
        limits = [*map(str, MASK_SECONDS), "+Inf"]
        buckets = list(zip(limits, map(float, counts), strict=True))
        family.add_metric([*self._labels.values()], buckets, state.mask_seconds)
        return family

    def _age(self) -> float:
        return self._client.heartbeat_age

    def _gauge(self, name: str, help: str, value: float) -> Metric:
        family = GaugeMetricFamily(OWN + name, help, labels=[*self._labels])
        family.add_metric([*self._labels.values()], value)
        return family

    def _total(
        self,
        name: str,
        help: str,
        values: Iterable[tuple[tuple[str, ...], float]],
        labels: Sequence[str] = (),
    ) -> Metric:
        family = CounterMetricFamily(OWN + name, help, labels=[*self._labels, *labels])
        for own, value in values:
            family.add_metric([*self._labels.values(), *own], value)
        return family

    def _info(self, state: EngineState) -> Metric:
        labels = self._labels | {"cache_tokens": str(state.cache_size)} | self._kept
        family = GaugeMetricFamily(
            OWN + "cache_config_info", "Size of the caches", labels=[*labels]
        )
        family.add_metric([*labels.values()], 1)
        return family


def _lasting(metric: Metric) -> Metric:
    """Return a metric without the times at which its parts were created."""
    found = copy(metric)
    found.samples = [s for s in metric.samples if not s.name.endswith("_created")]
    return found


def _again(metric: Metric) -> Iterator[Metric]:
    """Yield a metric under its older name, if it has one."""
    if metric.name == OWN + "inter_token_latency_seconds":
        yield _renamed(metric, metric.name, OWN + "time_per_output_token_seconds")


def _renamed(metric: Metric, old: str, new: str) -> Metric:
    """Return a metric whose name begins with `new` instead of `old`."""
    found = copy(metric)
    found.name = new + metric.name.removeprefix(old)
    found.samples = [s._replace(name=new + s.name.removeprefix(old)) for s in metric.samples]
    return found
