"""The levels of the nest, and one request at one level."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from outrider.core.counters import Counters
from outrider.core.types import NO_IDS, Draft, IntArray, Rows, Verdict
from outrider.decoding.deferred import DeferredState
from outrider.protocols import (
    AcceptanceRule,
    Cache,
    Drafter,
    DrafterState,
    DraftPolicy,
    LanguageModel,
    Request,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One level of the nest: a model that verifies, and what drafts for it."""

    name: str
    model: LanguageModel
    drafter: Drafter
    rule: AcceptanceRule
    policy: DraftPolicy
    tier: int = 0

    @property
    def image_token_ids(self) -> frozenset[int]:
        """Ids that stand for images and are never drafted (`models/vision/image_model.py`)."""
        return self.model.info.image_token_ids


@dataclass(slots=True)
class SequenceState:
    """One request at one stage.

    Attributes:
        request: what is asked.
        cache: the verifier's.
        drafting: what `Stage.drafter` keeps for the request.
        tail: what inner rounds accepted but nobody committed yet.
        counters: of this tier.
    """

    request: Request
    cache: Cache
    drafting: DrafterState
    tail: IntArray = field(default_factory=lambda: NO_IDS)
    counters: Counters = field(default_factory=Counters)

    @property
    def begun(self) -> bool:
        """Whether the drafter has read the prompt."""
        return not isinstance(self.drafting, DeferredState) or self.drafting.begun

    @property
    def state(self) -> DrafterState:
        """The state of the drafter itself, where `Deferred` stands in front of it."""
        deferred = isinstance(self.drafting, DeferredState)
        return self.drafting.inner if deferred else self.drafting


@dataclass(frozen=True, slots=True)
class Learned:
    """What a request has taught its stage, without its text.

    Attributes:
        counters: of the verifying tier.
    """

    counters: Counters
    cache: None = None
    drafting: None = None


Earlier = SequenceState | Learned
"""What an earlier request leaves to a later one."""


@dataclass(frozen=True, slots=True)
class Round:
    """What happened to each sequence in one round."""

    drafts: list[Draft]
    rows: list[Rows]
    verdicts: list[Verdict]


def caches_of(sequences: Sequence[Earlier | None]) -> list[Cache | None]:
    """The verifier's cache of each sequence; None where there is no sequence."""
    return [sequence.cache if sequence else None for sequence in sequences]
