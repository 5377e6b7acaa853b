"""Settings of the engine that serves requests, and what it derives from the models."""

from dataclasses import dataclass

from outrider.core.checks import Range, check_ranges
from outrider.engine.generator import Generator
from outrider.engine.options import PLANNED_CONTEXT
from outrider.engine.serving.scheduler import Limits, slots_of
from outrider.models.caches.eviction.policy import UNBOUNDED
from outrider.models.memory import available_memory
from outrider.protocols import LanguageModel
from outrider.strategy.description import lower_models


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """How requests share the engine.

    Attributes:
        max_num_seqs: samples that run at once.
        cache_tokens: tokens of all caches together; None: what fits in `memory_share`, and at most
            twice what all samples can fill.
        step_ms: a step that reads prompts may take this long, or 1.5 times as long as one that
            only writes, whichever is more.
        patience: seconds of waiting after which a request is preferred like one of a better class.
        memory_share: share of the free memory that caches may take.
        prefixes: finished texts that are kept for requests that begin alike.

    Raises:
        OptionError: a number out of range.
    """

    max_num_seqs: int = 16
    cache_tokens: int | None = None
    step_ms: float = 50.0
    patience: float = 30.0
    memory_share: float = 0.5
    prefixes: int = 64

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    def limits(self, generator: Generator) -> Limits:
        """Return the limits of the scheduler for these models."""
        return Limits(
            max_num_seqs=self.max_num_seqs,
            slots=self.cache_tokens or self._fitting(generator),
            patience=self.patience,
            draft_share=_draft_share(generator),
        )

    def _fitting(self, generator: Generator) -> int:
        target = generator.strategy.target
        window = generator.context_length or target.info.context_length
        most = 2 * self.max_num_seqs * slots_of(window)
        each = sum(model.info.bytes_per_token for model in _models(generator))
        if not each:
            return most
        fitting = int(available_memory(target.info.device) * self.memory_share) // each
        least = window if window < UNBOUNDED else PLANNED_CONTEXT
        return max(min(most, fitting), slots_of(least))


def _models(generator: Generator) -> list[LanguageModel]:
    strategy = generator.strategy
    return list({id(m): m for m in (strategy.target, *lower_models(strategy.drafter))}.values())


def _draft_share(generator: Generator) -> float:
    """Return the part of the bytes of a token that draft models take; 0 if their drafter learns
    from all rows, so that it must follow each text."""
    strategy = generator.strategy
    each = sum(model.info.bytes_per_token for model in _models(generator))
    if not each or strategy.drafter.learns:
        return 0.0
    return 1.0 - strategy.target.info.bytes_per_token / each


_RANGES = {
    "max_num_seqs": Range(1, whole=True),
    "cache_tokens": Range(128, whole=True, optional=True),
    "step_ms": Range(0.0, above=True),
    "patience": Range(0.0, above=True),
    "memory_share": Range(0.0, 1.0, above=True),
    "prefixes": Range(0, whole=True),
}
