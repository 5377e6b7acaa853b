"""The nouns of speculative decoding: small frozen records that every room speaks.

Token ids and parents are small integer arrays, not tensors: they are read one by one by Python
code, and a device round trip for each would cost more than the decision it serves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

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


@dataclass(frozen=True, slots=True)
class Rows:
    """What a forward returns for the positions asked for, in the order asked for."""

    logits: Float[Tensor, "rows vocab"]
    hidden: Float[Tensor, "rows hidden"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may be drafted: `depth` tokens on the longest path, `nodes` in the whole tree."""

    depth: int
    nodes: int

    @classmethod
    def chain(cls, length: int) -> "Budget":
        """A chain of at most `length` tokens."""
        return cls(depth=max(length, 0), nodes=max(length, 0))

    def clipped(self, depth: int) -> "Budget":
        """The same budget, no deeper than `depth`."""
        depth = max(min(self.depth, depth), 0)
        return Budget(depth=depth, nodes=self.nodes if depth else 0)


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
    """

    tokens: IntArray
    parents: IntArray
    sources: tuple[str, ...]
    draw: Draw = Draw.DETERMINISTIC
    law: tuple[Tensor | None, ...] | None = None
    reference: tuple[Tensor | None, ...] | None = None
    probe: BoolArray | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def children(self, node: int) -> list[int]:
        """Acceptable children of `node` (-1 for the root) in draw order; probes are left out."""
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
    off: str | None = None
    """Why this tier no longer drafts for the request; None while it does."""

    @property
    def tokens(self) -> int:
        """Tokens this tier has emitted."""
        return self.accepted + self.next_tokens - self.cut

    def add_seconds(self, **parts: float) -> None:
        """Add measured wall-clock seconds by the name of what they were spent on."""
        for part, elapsed in parts.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + elapsed
