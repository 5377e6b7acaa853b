"""Integer counters of the rounds so far, and the state that policies keep between rounds."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from outrider.core.values import JsonValue

MEMORY = 32
"""Number of tested tokens after which the weight of an observation in a tally has halved."""

_KEPT = 0.5 ** (1.0 / MEMORY)
_KEPT_DRAFT = 0.5 ** (1.0 / 12)
_KEPT_TREE = 0.5 ** (1.0 / 16)
_CARRIED, _CARRIED_DRAFTS = 16.0, 12.0


@runtime_checkable
class PolicyMemory(Protocol):
    """The state that a policy keeps between rounds."""

    def carried(self) -> "PolicyMemory":
        """Return the state with which the next request begins."""
        ...


@runtime_checkable
class ReadingRecord(Protocol):
    """The record of which parts of a long input were read (`context.reading.Reading`)."""

    def to_dict(self) -> dict[str, JsonValue]:
        """Convert to values that JSON can represent."""
        ...


@dataclass(slots=True)
class Pace:
    """Exponentially smoothed wall-clock seconds of operations, together with their smoothed size.

    The first ten operations are averaged with equal weight; after that, the newest has a weight of
    one tenth. A duration of more than twice the expected one counts as twice the expected one, so
    that a stall of the machine does not dominate the mean.
    """

    seconds: float = 0.0
    size: float = 0.0
    count: int = 0

    def note(self, seconds: float, size: float) -> None:
        """Add one operation of this size (above 0)."""
        if self.count:
            seconds = min(seconds, 2.0 * self.seconds * max(size / self.size, 1.0))
        self.count += 1
        weight = max(1.0 / self.count, 0.1)
        self.seconds += weight * (seconds - self.seconds)
        self.size += weight * (size - self.size)


@dataclass(slots=True)
class Ranks:
    """How often tree nodes were kept, by their place in the order of the draft, with exponential
    fading.

    Places are pooled in blocks of 1, 2, 4, 8, ... nodes, because a single node of a large tree is
    rarely kept.

    Attributes:
        hits: kept nodes of each block.
        trials: verified nodes of each block.
    """

    hits: list[float] = field(default_factory=list)
    trials: list[float] = field(default_factory=list)

    @staticmethod
    def block(place: int) -> int:
        """Return the block that holds this place, counted from 0."""
        return (place + 1).bit_length() - 1

    def note(self, drafted: int, path: Sequence[int]) -> None:
        """Add one tree of `drafted` nodes, of which the nodes at the places `path` were kept."""
        blocks = self.block(drafted - 1) + 1
        missing = blocks - len(self.hits)
        self.hits += [0.0] * missing
        self.trials += [0.0] * missing
        for b in range(blocks):
            size = min(drafted + 1, 2 << b) - (1 << b)
            self.hits[b] *= _KEPT_TREE
            self.trials[b] = self.trials[b] * _KEPT_TREE + size
        for place in path:
            self.hits[self.block(place)] += 1.0

    def carried(self, most: float) -> "Ranks":
        """Return the same rates, with the weight of at most `most` trees."""
        trees = self.trials[0] if self.trials else 0.0
        share = min(1.0, most / trees) if trees else 0.0
        return Ranks([h * share for h in self.hits], [t * share for t in self.trials])


@dataclass(slots=True)
class Tally:
    """Results of the drafts of one origin at one tier, for one request.

    The first four attributes are plain counts. Policies use the others, which fade exponentially,
    so that recent text has the largest weight.

    Attributes:
        drafts: drafts verified.
        drafted: tokens in them.
        accepted: tokens kept.
        refused: drafts of which a token was rejected.
        begun: drafts of which the first token was kept, faded.
        tested: drafts of which any token was kept or rejected, faded.
        hits: kept tokens after the first of their draft, faded.
        trials: tested ones (kept or rejected), faded.
        belief: remaining weight of the prior, which starts at 1 and falls with each test.
        pace: seconds per draft, by the number of its tokens.
        ranks: results of its nodes, by their place in the order of the draft.
        newest: when the newest draft was verified, in rounds of the tier (`Counters.now`).
        clean: whether all of the newest draft was kept.
        run: number of tokens kept of the newest draft.
    """

    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    refused: int = 0
    hits: float = 0.0
    trials: float = 0.0
    begun: float = 0.0
    tested: float = 0.0
    belief: float = 1.0
    pace: Pace = field(default_factory=Pace)
    ranks: Ranks = field(default_factory=Ranks)
    newest: int = 0
    clean: bool = False
    run: int = 0

    def note(self, drafted: int, accepted: int, refused: bool, round: int) -> None:
        """Add the result of one draft."""
        self.drafts += 1
        self.drafted += drafted
        self.accepted += accepted
        self.refused += refused
        faded, later = _KEPT ** (accepted + refused), max(accepted - 1, 0)
        self.hits = self.hits * faded + later
        self.trials = self.trials * faded + later + (refused and accepted > 0)
        self.belief *= faded
        if accepted or refused:
            self.begun = self.begun * _KEPT_DRAFT + (accepted > 0)
            self.tested = self.tested * _KEPT_DRAFT + 1.0
        self.newest, self.clean, self.run = round, accepted == drafted, accepted

    def carried(self) -> "Tally":
        """Return the tally for the next request: all counts are zero, and part of the faded
        statistics is kept.
        """
        share = min(1.0, _CARRIED / self.trials) if self.trials else 0.0
        drafts = min(1.0, _CARRIED_DRAFTS / self.tested) if self.tested else 0.0
        return Tally(
            begun=self.begun * drafts,
            tested=self.tested * drafts,
            hits=self.hits * share,
            trials=self.trials * share,
            belief=self.belief,
            newest=self.newest,
            clean=self.clean,
            pace=replace(self.pace),
            ranks=self.ranks.carried(_CARRIED),
        )


@dataclass(slots=True)
class Counters:
    """The integers that one tier counts for one request; `metrics.py` computes ratios from them.

    `refused` counts rounds in which a drafted continuation was rejected. `forced` counts tokens
    that were emitted without the model, because a grammar allowed no other. Always `tokens =
    accepted + next_tokens + forced - cut`, and `sources` sums to `tokens`. `probed` counts nodes
    that were verified only for their rows (`Draft.probe`); they are not included in `drafted`.
    """

    rounds: int = 0
    past: int = 0
    """Rounds of earlier requests, as far back as the statistics reach."""
    forwards: int = 0
    undrafted_rounds: int = 0
    drafted: int = 0
    probed: int = 0
    accepted: int = 0
    refused: int = 0
    next_tokens: int = 0
    forced: int = 0
    cut: int = 0
    denoised_rows: int = 0
    """Rows that the forwards of a masked denoiser computed, of all branches."""
    changed: int = 0
    drafted_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    """By `Draft.origin`: the results of the drafts of each origin."""
    plain: Pace = field(default_factory=Pace)
    """Seconds of verifying and accepting in rounds without a draft, by rows of the forward."""
    checked: Pace = field(default_factory=Pace)
    """Seconds of verifying and accepting in rounds with a draft, by rows of the forward."""
    plan: PolicyMemory | None = None
    """State that the policy of this tier keeps between rounds; no other code reads it."""
    reading: ReadingRecord | None = None
    """Which parts of a long input this tier has read (`context.reading.Reading`); None: all."""
    kv_bytes: int = 0
    """Bytes that the cache of this tier took at the end under a policy; 0 without one."""
    off: str | None = None
    """Why this tier no longer drafts for the request; None while it does."""

    @property
    def tokens(self) -> int:
        """Tokens this tier has emitted."""
        return self.accepted + self.next_tokens + self.forced - self.cut

    @property
    def now(self) -> int:
        """Number of rounds so far, including those of earlier requests. Policies use it as their
        clock."""
        return self.past + self.rounds

    def carried(self) -> "Counters":
        """Return the counters for the next request: all counts are zero; the statistics for
        policies are kept.
        """
        return Counters(
            past=self.now,
            plan=self.plan and self.plan.carried(),
            tallies={origin: tally.carried() for origin, tally in self.tallies.items()},
            plain=replace(self.plain),
            checked=replace(self.checked),
        )

    def add_seconds(self, **parts: float) -> None:
        """Add measured wall-clock seconds, by the name of the part of the round."""
        for part, elapsed in parts.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + elapsed
