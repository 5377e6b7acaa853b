"""What happened so far, as integers, and what policies remember of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from outrider.core.values import JsonValue

MEMORY = 32
"""Tested tokens after which what a tally remembers has faded to half."""

_KEPT = 0.5 ** (1.0 / MEMORY)
_KEPT_DRAFT = 0.5 ** (1.0 / 12)
_KEPT_TREE = 0.5 ** (1.0 / 16)
_CARRIED, _CARRIED_DRAFTS = 16.0, 12.0


@runtime_checkable
class PolicyMemory(Protocol):
    """What a policy keeps between rounds."""

    def carried(self) -> "PolicyMemory":
        """What the next request begins with."""
        ...


@runtime_checkable
class ReadingRecord(Protocol):
    """The record of which parts of a long input were read (`context.reading.Reading`)."""

    def to_dict(self) -> dict[str, JsonValue]:
        """Plain numbers for JSON."""
        ...


@dataclass(slots=True)
class Pace:
    """Smoothed wall-clock seconds of things of different size, with their smoothed size.

    The plain mean of the first ten, then the newest count a tenth. What takes more than twice as
    long as expected counts as twice: a stall of the machine should not decide anything.
    """

    seconds: float = 0.0
    size: float = 0.0
    count: int = 0

    def note(self, seconds: float, size: float) -> None:
        """Add one thing of this size (above 0)."""
        if self.count:
            seconds = min(seconds, 2.0 * self.seconds * max(size / self.size, 1.0))
        self.count += 1
        weight = max(1.0 / self.count, 0.1)
        self.seconds += weight * (seconds - self.seconds)
        self.size += weight * (size - self.size)


@dataclass(slots=True)
class Ranks:
    """How often nodes of trees were kept, by their place in the order of the draft, faded.

    Places are pooled in blocks of 1, 2, 4, 8, ... nodes: one node of many is rarely kept.

    Attributes:
        hits: kept nodes of each block.
        trials: verified nodes of each block.
    """

    hits: list[float] = field(default_factory=list)
    trials: list[float] = field(default_factory=list)

    @staticmethod
    def block(place: int) -> int:
        """The block that holds this place, counted from 0."""
        return (place + 1).bit_length() - 1

    def note(self, drafted: int, path: Sequence[int]) -> None:
        """Add one tree of `drafted` nodes, of which those at the places `path` were kept."""
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
        """The same shares, remembered as if from at most `most` trees."""
        trees = self.trials[0] if self.trials else 0.0
        share = min(1.0, most / trees) if trees else 0.0
        return Ranks([h * share for h in self.hits], [t * share for t in self.trials])


@dataclass(slots=True)
class Tally:
    """How drafts of one origin fared at one tier, for one request.

    The first four are plain counts. The others are what policies go by: they fade, so that the
    newest part of the text counts most.

    Attributes:
        drafts: drafts verified.
        drafted: tokens in them.
        accepted: tokens kept.
        refused: drafts of which a token was turned down.
        begun: drafts of which the first token was kept, faded.
        tested: drafts of which any token was kept or turned down, faded.
        hits: kept tokens after the first of their draft, faded.
        trials: tested ones (kept or turned down), faded.
        belief: what is left, from 1 down, of what was believed before anything was tested.
        pace: what drafts take, by their tokens.
        ranks: how its nodes fared, by their place in the order of the draft.
        newest: when the newest draft was verified, in rounds of the tier (`Counters.now`).
        clean: whether all of the newest draft was kept.
        run: tokens kept of the newest draft.
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
        """Add the fate of one draft."""
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
        """What the next request may start from: nothing counted, part of it remembered."""
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
    """Integers one tier counts for one request; ratios are made from them in `metrics.py`.

    `refused` counts rounds in which a drafted continuation was turned down. Always
    `tokens = accepted + next_tokens - cut`, and `sources` sums to `tokens`. `probed` counts nodes
    that were verified for what they teach; they are not among `drafted`.
    """

    rounds: int = 0
    past: int = 0
    """Rounds of the requests before, as far back as anything is remembered."""
    forwards: int = 0
    undrafted_rounds: int = 0
    drafted: int = 0
    probed: int = 0
    accepted: int = 0
    refused: int = 0
    next_tokens: int = 0
    cut: int = 0
    changed: int = 0
    drafted_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    """By `Draft.origin`: how drafts of each kind fared here."""
    plain: Pace = field(default_factory=Pace)
    """Verifying and accepting in rounds without a draft, by rows of the forward."""
    checked: Pace = field(default_factory=Pace)
    """The same in rounds with one."""
    plan: PolicyMemory | None = None
    """What the policy of this tier keeps between rounds; nobody else reads it."""
    reading: ReadingRecord | None = None
    """Which parts of a long input this tier has read (`context.reading.Reading`); None: all."""
    off: str | None = None
    """Why this tier no longer drafts for the request; None while it does."""

    @property
    def tokens(self) -> int:
        """Tokens this tier has emitted."""
        return self.accepted + self.next_tokens - self.cut

    @property
    def now(self) -> int:
        """Rounds so far, those of earlier requests included: the clock of policies."""
        return self.past + self.rounds

    def carried(self) -> "Counters":
        """Fresh counters that remember what policies go by."""
        return Counters(
            past=self.now,
            plan=self.plan and self.plan.carried(),
            tallies={origin: tally.carried() for origin, tally in self.tallies.items()},
            plain=replace(self.plain),
            checked=replace(self.checked),
        )

    def add_seconds(self, **parts: float) -> None:
        """Add measured wall-clock seconds by the name of what they were spent on."""
        for part, elapsed in parts.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + elapsed
