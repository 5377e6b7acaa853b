"""Times one text written by one system."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

from outrider.bench.memory import device_peak_bytes, peak_bytes, reset_peak
from outrider.bench.rivals.rival import OpenRival, RivalRequest
from outrider.bench.statistics import repeated_tokens
from outrider.core.errors import LogitsError
from outrider.engine.generator import Generator
from outrider.engine.result import Result

PARTS = ("prefill", "draft", "verify", "accept", "other")
"""Parts of the time of a text; `other` is time that no clock counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One text that one system wrote for one prompt. Seconds are wall-clock.

    Attributes:
        system: the strategy's or rival's name.
        seconds: seconds from the call to its return, with the prompt.
        ttft_seconds: seconds from the call to the end of the round that wrote the first token.
        repeated: number of tokens inside repeated 8-grams of the text.
        parts: seconds by `PARTS`; empty for rivals.
        stages: for each inner tier: forwards, drafted, accepted, seconds.
        predicted: tokens per second after the prompt that the throughput recursion predicts from
            this run's costs and acceptance; None if it does not apply.
        peak_bytes: peak resident memory of the whole process during the run.
        device_peak_bytes: peak memory that PyTorch allocated on an accelerator; 0 without one.
    """

    system: str
    workload: str
    task: str
    repeat: int
    prompt_tokens: int
    token_ids: Sequence[int]
    seconds: float
    ttft_seconds: float
    repeated: int
    peak_bytes: int
    device_peak_bytes: int = 0
    finish: str | None = None
    drafted: int = 0
    accepted: int = 0
    changed: int = 0
    rounds: int = 0
    forwards: int = 0
    drafted_at: Sequence[int] = ()
    accepted_at: Sequence[int] = ()
    parts: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, Any] = field(default_factory=dict)
    predicted: float | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """The unique key of this run in the bench."""
        return self.system, self.task, self.repeat

    @property
    def tokens(self) -> int:
        """Number of tokens written."""
        return len(self.token_ids)

    @property
    def seconds_per_token(self) -> float:
        """End-to-end seconds per token, with the prompt."""
        return self.seconds / max(self.tokens, 1)

    @property
    def tpot_seconds(self) -> float | None:
        """Time per output token after the first; None for a single token."""
        return (self.seconds - self.ttft_seconds) / (self.tokens - 1) if self.tokens > 1 else None

    @property
    def decode_seconds_per_token(self) -> float | None:
        """Time after the prompt divided by the number of tokens written.

        Differs from `tpot_seconds`: a drafted round writes several tokens at the time of the first
        one, so that a short text would have almost no time per token. Rivals do not report the time
        of the prompt; for them this equals `tpot_seconds`.
        """
        if not self.parts:
            return self.tpot_seconds
        return (self.seconds - self.parts["prefill"]) / max(self.tokens, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for one JSON line."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Place:
    """Prompt and repeat of a run: workload, name and ids of the prompt, and number of the
    repeat.
    """

    workload: str
    task: str
    token_ids: tuple[int, ...]
    repeat: int = 0


@runtime_checkable
class System(Protocol):
    """A system that writes texts in a bench: a strategy of Outrider, or a rival."""

    @property
    def name(self) -> str:
        """Its name in the report."""
        ...

    def write(self, place: Place) -> Run:
        """Write one text from an empty cache, and time it."""
        ...


@dataclass(slots=True)
class StrategySystem:
    """A strategy of Outrider; all strategies share the models.

    Each repeat has its own generator: a drafter that stores earlier texts would copy the answers of
    the previous repeat. Statistics from one prompt are used for the next.

    Attributes:
        name: its name in the report.
        build: builds the generator.
        sampling: sampling options of every text.
    """

    name: str
    build: Callable[[], Generator]
    sampling: Mapping[str, Any]
    generator: Generator = field(init=False)
    _repeat: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.generator = self.build()

    def write(self, place: Place) -> Run:
        """Write one text. Raises `LogitsError` if the target's logits are unusable."""
        if place.repeat != self._repeat:
            self.generator, self._repeat = self.build(), place.repeat
        self.generator.reset()
        reset_peak()
        begun = perf_counter()
        result: Result = self.generator.generate(list(place.token_ids), **self.sampling)
        seconds = perf_counter() - begun
        if result.error:
            raise LogitsError(f"strategy {self.name!r}: {result.error}")
        counters = result.speculation.target
        return Run(
            **_about(self.name, place),
            token_ids=result.token_ids,
            seconds=seconds,
            ttft_seconds=result.token_times[0] - begun,
            repeated=repeated_tokens(result.token_ids),
            peak_bytes=peak_bytes(),
            device_peak_bytes=device_peak_bytes(),
            finish=result.finish_reason,
            drafted=counters.drafted,
            accepted=counters.accepted,
            changed=counters.changed,
            rounds=counters.rounds,
            forwards=counters.forwards,
            drafted_at=tuple(counters.drafted_at),
            accepted_at=tuple(counters.accepted_at),
            parts=_parts(result.seconds, seconds),
            stages=_stages(result),
            predicted=result.speculation.predicted_tokens_per_second,
        )


@dataclass(frozen=True, slots=True)
class RivalSystem:
    """A rival with loaded models."""

    name: str
    rival: OpenRival
    sampling: Mapping[str, Any]

    def write(self, place: Place) -> Run:
        """Write one text through the rival."""
        reset_peak()
        text = self.rival.generate(
            RivalRequest(
                token_ids=place.token_ids,
                max_new_tokens=self.sampling["max_new_tokens"],
                temperature=self.sampling["temperature"],
                top_p=self.sampling["top_p"],
                seed=self.sampling["seed"],
                ignore_eos=self.sampling.get("ignore_eos", False),
            )
        )
        return Run(
            **_about(self.name, place),
            token_ids=text.token_ids,
            seconds=text.seconds,
            ttft_seconds=text.ttft_seconds,
            repeated=repeated_tokens(text.token_ids),
            peak_bytes=peak_bytes(),
            device_peak_bytes=device_peak_bytes(),
        )


def _about(name: str, place: Place) -> dict[str, Any]:
    return {
        "system": name,
        "workload": place.workload,
        "task": place.task,
        "repeat": place.repeat,
        "prompt_tokens": len(place.token_ids),
    }


def _parts(counted: Mapping[str, float], seconds: float) -> dict[str, float]:
    parts = {name: counted.get(name, 0.0) for name in PARTS[:-1]}
    return parts | {"other": max(seconds - sum(parts.values()), 0.0)}


def _stages(result: Result) -> dict[str, Any]:
    return {
        name: {
            "forwards": c.forwards,
            "rounds": c.rounds,
            "drafted": c.drafted,
            "accepted": c.accepted,
            "seconds": dict(c.seconds),
            "off": c.off,
        }
        for name, c in result.speculation.stages.items()
    }
