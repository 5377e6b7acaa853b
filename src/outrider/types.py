"""The nouns of speculative decoding: small frozen records that every room speaks.

Token ids and parents are small integer arrays, not tensors: they are read one by one by Python
code, and a device round trip for each would cost more than the decision it serves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def as_ids(tokens: Sequence[int] | IntArray) -> IntArray:
    """Token ids as the integer array that the contracts speak of."""
    return np.asarray(tokens, dtype=np.int64)


class Exactness(StrEnum):
    """What a strategy promises about its text."""

    IDENTICAL = "identical"
    """The text undrafted decoding would give, token for token."""
    DISTRIBUTION = "distribution"
    """Another sample of the target's own law."""
    LOSSY = "lossy"
    """Some tokens are not the target's choice; each of them is counted."""

    @property
    def rank(self) -> int:
        """0 for the strongest promise."""
        return list(Exactness).index(self)


class Draw(StrEnum):
    """How the children of a node were picked."""

    DETERMINISTIC = "deterministic"
    IID = "iid"
    WITHOUT_REPLACEMENT = "without_replacement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What one model reads before it writes.

    Attributes:
        token_ids: at least one id. Penalties and conversation reuse look at these.
        embeddings: `[len(token_ids), hidden]`, read instead of the ids (images, soft prompts).
            The last position is always read as its token id.
    """

    token_ids: tuple[int, ...]
    embeddings: Tensor | None = None

    def __len__(self) -> int:
        return len(self.token_ids)


RowChooser = Callable[[Any, IntArray], IntArray | None]
"""`(sampler, indices [rows]) -> [rows]`: what the sampler chooses after each row, given the
generated index of the token that follows it; -1 where that is left open. None: it can not tell."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a forward returns for the positions asked for, in the order asked for.

    Attributes:
        logits: one row for each position.
        hidden: what the head read.
        chooser: makes the choices of all rows where the logits lie; None: there is no such short
            cut. It must agree with `Sampler.choose`.
    """

    logits: Float[Tensor, "rows vocab"]
    hidden: Float[Tensor, "rows hidden"] | None = None
    chooser: RowChooser | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may be drafted.

    Attributes:
        depth: tokens on the longest path.
        nodes: tokens in the whole tree.
        shares: for drafts of a named origin (`Draft.origin`), the depth that serves best; a drafter
            keeps to the share of its own origin. Who is not named may use all of `depth`.
    """

    depth: int
    nodes: int
    shares: Mapping[str, int] | None = None

    @classmethod
    def chain(cls, length: int) -> "Budget":
        """A chain of at most `length` tokens."""
        return cls(depth=max(length, 0), nodes=max(length, 0))

    def clipped(self, depth: int) -> "Budget":
        """The same budget, no deeper than `depth`."""
        if 0 < self.depth <= depth:
            return self
        depth = max(min(self.depth, depth), 0)
        return Budget(depth=depth, nodes=self.nodes if depth else 0, shares=self.shares)

    def share(self, origin: str) -> int:
        """Deepest draft of this origin."""
        return (
            self.depth
            if self.shares is None
            else min(self.shares.get(origin, self.depth), self.depth)
        )

    def only(self, origin: str) -> "Budget":
        """The budget of one origin."""
        return self if self.shares is None else self.clipped(self.share(origin))


NO_IDS: IntArray = as_ids(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A tree of proposed tokens; a chain is a tree of width one.

    Attributes:
        tokens: `[nodes]` ids, parents before children, siblings in draw order.
        parents: `[nodes]` index of each node's parent, -1 for children of the text.
        sources: the tier that wrote each node.
        draw: how siblings were picked.
        law: per node the warped distribution `[vocab]` it was really drawn from; None for a node
            means a point mass. None altogether when nobody asked for laws.
        reference: per node the raw logits `[vocab]`, at its parent, of the last model that
            vouched for it. None altogether when nobody asked.
        probe: `[nodes]` true for nodes that are verified and observed but never accepted.
        origin: what its fate is booked under (`Counters.tallies`): the drafter, or how sure the
            drafter was; empty: the source of the first node.
    """

    tokens: IntArray
    parents: IntArray
    sources: tuple[str, ...]
    draw: Draw = Draw.DETERMINISTIC
    law: tuple[Tensor | None, ...] | None = None
    reference: tuple[Tensor | None, ...] | None = None
    probe: BoolArray | None = None
    origin: str = ""

    def __len__(self) -> int:
        return len(self.tokens)

    def children(self, node: int) -> list[int]:
        """Acceptable children of `node` (-1 for the root) in draw order; probes are left out."""
        if not len(self.tokens):
            return []
        found = np.flatnonzero(self.parents == node)
        return [int(i) for i in found if self.probe is None or not self.probe[i]]

    def only(self, nodes: IntArray) -> "Draft":
        """The draft made of `nodes` alone: ascending, each with its parent."""
        new = {int(old): i for i, old in enumerate(nodes)} | {-1: -1}
        return Draft(
            tokens=self.tokens[nodes],
            parents=as_ids([new[int(p)] for p in self.parents[nodes]]),
            sources=tuple(self.sources[n] for n in nodes),
            draw=self.draw,
            law=None if self.law is None else tuple(self.law[n] for n in nodes),
            reference=None if self.reference is None else tuple(self.reference[n] for n in nodes),
            probe=None if self.probe is None else self.probe[nodes],
            origin=self.origin,
        )


EMPTY_DRAFT = Draft(tokens=NO_IDS, parents=NO_IDS, sources=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one rule decided about one draft.

    Attributes:
        path: nodes accepted, root to leaf.
        tokens: their ids.
        next_token: the correction or bonus token; None after an accepted end token.
        changed: per token of `emitted`, whether it differs from the verifier's choice.
        sources: per token of `emitted`, the tier that wrote it.
        laws: per token of `emitted`, the distribution it was drawn from, where it is known.
        error: set, with everything else empty, when the verifier's logits were unusable.
    """

    path: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    next_token: int | None = None
    changed: tuple[bool, ...] = ()
    sources: tuple[str, ...] = ()
    laws: tuple[Tensor | None, ...] = ()
    error: Exception | None = None

    @property
    def emitted(self) -> tuple[int, ...]:
        """Accepted tokens, then the next token."""
        return self.tokens if self.next_token is None else (*self.tokens, self.next_token)


@dataclass(frozen=True, slots=True)
class Verified:
    """What a drafter may learn from one verification: every row, refused ones too."""

    tier: str
    tail: IntArray
    draft: Draft
    rows: Rows
    verdict: Verdict


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


MEMORY = 32
"""Tested tokens after which what a tally remembers has faded to half."""

_KEPT = 0.5 ** (1.0 / MEMORY)
_CARRIED = 16.0


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
class Tally:
    """How drafts of one origin fared at one tier, for one request.

    The first four are plain counts. The others are what policies go by: they fade, so that the
    newest part of the text counts most.

    Attributes:
        drafts: drafts verified.
        drafted: tokens in them.
        accepted: tokens kept.
        refused: drafts of which a token was turned down.
        hits: kept tokens, faded.
        trials: tested tokens (kept or turned down), faded.
        belief: what is left, from 1 down, of what was believed before anything was tested.
        pace: what drafts take, by their tokens.
        newest: the tier's round of the newest draft.
        clean: whether all of the newest draft was kept.
    """

    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    refused: int = 0
    hits: float = 0.0
    trials: float = 0.0
    belief: float = 1.0
    pace: Pace = field(default_factory=Pace)
    newest: int = 0
    clean: bool = False

    def note(self, drafted: int, accepted: int, refused: bool, round: int) -> None:
        """Add the fate of one draft."""
        self.drafts += 1
        self.drafted += drafted
        self.accepted += accepted
        self.refused += refused
        faded = _KEPT ** (accepted + refused)
        self.hits = self.hits * faded + accepted
        self.trials = self.trials * faded + accepted + refused
        self.belief *= faded
        self.newest, self.clean = round, accepted == drafted

    def carried(self) -> "Tally":
        """What the next request may start from: nothing counted, part of it remembered."""
        share = min(1.0, _CARRIED / self.trials) if self.trials else 0.0
        return Tally(
            hits=self.hits * share,
            trials=self.trials * share,
            belief=self.belief,
            pace=replace(self.pace),
        )


@dataclass(slots=True)
class Counters:
    """Integers one tier counts for one request; ratios are made from them in `metrics.py`.

    `refused` counts rounds in which a drafted continuation was turned down. Always
    `tokens = accepted + next_tokens - cut`, and `sources` sums to `tokens`.
    """

    rounds: int = 0
    forwards: int = 0
    undrafted_rounds: int = 0
    drafted: int = 0
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
    off: str | None = None
    """Why this tier no longer drafts for the request; None while it does."""

    @property
    def tokens(self) -> int:
        """Tokens this tier has emitted."""
        return self.accepted + self.next_tokens - self.cut

    def carried(self) -> "Counters":
        """Fresh counters that remember what policies go by."""
        return Counters(
            tallies={origin: tally.carried() for origin, tally in self.tallies.items()},
            plain=replace(self.plain),
            checked=replace(self.checked),
        )

    def add_seconds(self, **parts: float) -> None:
        """Add measured wall-clock seconds by the name of what they were spent on."""
        for part, elapsed in parts.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + elapsed
