"""A stage (one verifier with its drafter), and the state of one request at a stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from outrider.core.counters import Counters
from outrider.core.types import NO_IDS, Budget, Draft, IntArray, Rows, Verdict
from outrider.decoding.deferred import DeferredState
from outrider.policies.schedule import Schedule
from outrider.protocols import (
    AcceptanceRule,
    Cache,
    Drafter,
    DrafterState,
    DraftPolicy,
    LanguageModel,
    Learner,
    Request,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One level of the nesting: a model that verifies, and the drafter that proposes for it.

    `learner` observes the rounds, and may change the drafter between them; only the outermost stage
    has one, and a `schedule` of its limits by the number of requests.
    """

    name: str
    model: LanguageModel
    drafter: Drafter
    rule: AcceptanceRule
    policy: DraftPolicy
    tier: int = 0
    learner: Learner | None = None
    schedule: Schedule = field(default_factory=Schedule)

    @property
    def image_token_ids(self) -> frozenset[int]:
        """Ids that represent images and are never drafted (`models/vision/image_model.py`)."""
        return self.model.info.image_token_ids


@dataclass(slots=True)
class SequenceState:
    """One request at one stage.

    Attributes:
        request: the request.
        cache: the cache of the verifier.
        drafting: the state of `Stage.drafter` for the request.
        tail: tokens that inner rounds accepted but that are not committed yet.
        counters: the counters of this tier.
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
    def off(self) -> str | None:
        """Why nothing is drafted for the request any more: its drafter raised an error."""
        return self.drafting.off if isinstance(self.drafting, DeferredState) else None

    @property
    def state(self) -> DrafterState:
        """The state of the drafter itself; a `Deferred` wrapper is removed."""
        deferred = isinstance(self.drafting, DeferredState)
        return self.drafting.inner if deferred else self.drafting


@dataclass(frozen=True, slots=True)
class Learned:
    """What a stage has learned during a request, without the text of the request.

    Attributes:
        counters: the counters of the verifying tier.
    """

    counters: Counters
    cache: None = None
    drafting: None = None


Earlier = SequenceState | Learned
"""State of an earlier request that a later request can reuse."""


@dataclass(frozen=True, slots=True)
class Round:
    """The result of one round, per sequence, and the seconds of its parts: `draft`, `verify` and
    `accept`."""

    budgets: list[Budget]
    drafts: list[Draft]
    rows: list[Rows]
    verdicts: list[Verdict]
    seconds: Mapping[str, float]

    @property
    def asked(self) -> bool:
        """Whether anything had a budget for drafts of a drafter."""
        return any(budget.depth and not budget.forced for budget in self.budgets)

    @property
    def forced(self) -> bool:
        """Whether a grammar gave tokens, which says nothing about the drafter."""
        return any(budget.forced for budget in self.budgets)

    @property
    def once(self) -> float:
        """Seconds in which drafters read prompts."""
        return sum(draft.once for draft in self.drafts)


def caches_of(sequences: Sequence[Earlier | None]) -> list[Cache | None]:
    """Return the verifier's cache of each sequence; None for a missing sequence or one without a
    cache.
    """
    return [sequence.cache if sequence else None for sequence in sequences]
