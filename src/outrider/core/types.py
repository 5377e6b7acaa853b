"""The nouns of speculative decoding: small frozen records that every room speaks.

Token ids and parents are small integer arrays, not tensors: they are read one by one by Python
code, and a device round trip for each would cost more than the decision it serves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.long_context import LongContext as LongContext
from outrider.core.long_context import Passage as Passage
from outrider.core.values import JsonValue

if TYPE_CHECKING:
    import PIL.Image

Message = Mapping[str, JsonValue]
"""A chat message: `role` and `content`, a text or a list of parts."""

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
    """Another sample of the target's own distribution."""
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class ImagePrompt:
    """Images and what is asked of them, as a user gave them.

    Every model that sees makes its own view of them when it starts
    (`models/vision/image_model.py`): its own placeholders, features and positions. Models that do
    not see never look at this.

    Attributes:
        messages: chat messages. The content of each is a text, or a list of parts
            `{"type": "image"}` and `{"type": "text", "text": ...}`.
        images: the images (`PIL.Image.Image`, RGB) of the image parts, in order.
        blank: their features are zeros, as if nothing could be seen: what guidance compares with.
    """

    messages: tuple[Message, ...]
    images: tuple["PIL.Image.Image", ...]
    blank: bool = False

    def blanked(self) -> "ImagePrompt":
        """The same question about nothing."""
        return replace(self, blank=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What one model reads before it writes.

    Attributes:
        token_ids: at least one id. Penalties and conversation reuse look at these.
        embeddings: `[len(token_ids), hidden]`, read instead of the ids (images, soft prompts).
            The last position is always read as its token id.
        positions: the place of each id for position embeddings, ascending; None: its index. There
            are gaps where parts of a longer text were left out. What is written goes on from the
            last of them.
        context: which ids are a long input that may be read in parts; models that do not select
            read all of it.
        axes: `[3][len(token_ids)]` the place of each id in time, height and width, for models that
            turn by rows and columns of an image (mRoPE); None: all three are its position. The last
            token stands at one place on all axes, and what is written goes on from there.
        pictured: images and a question. `token_ids` are then the question alone, which is what
            models that do not see read.
    """

    token_ids: tuple[int, ...]
    embeddings: Tensor | None = None
    positions: tuple[int, ...] | None = None
    context: LongContext | None = None
    axes: tuple[tuple[int, ...], ...] | None = None
    image_prompt: ImagePrompt | None = None

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
        states: what the layers that are watched have left (`protocols.HiddenStates`), in the order
            in which they were named; None where the cache is not watched.
    """

    logits: Float[Tensor, "rows vocab"]
    hidden: Float[Tensor, "rows hidden"] | None = None
    chooser: RowChooser | None = None
    states: Float[Tensor, "layers rows hidden"] | None = None


@runtime_checkable
class Stop(Protocol):
    """Ends a draft from what the drafter itself knows of the tokens it has written.

    The last of them stays in the draft, so a stop never looks at a token that is then discarded,
    and no rule is biased by it.
    """

    @property
    def head(self) -> Callable[[Tensor], float] | None:
        """From the draft model's last hidden state `[hidden]` after a token to the chance that the
        token is kept; None: the drafter's own probability of its best token stands for it, in
        trees that of the token itself."""
        ...

    def __call__(self, chances: Sequence[float]) -> bool:
        """Whether to stop, given the chance of each token on the path so far."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may be drafted.

    Attributes:
        depth: tokens on the longest path.
        nodes: tokens in the whole tree.
        shares: for drafts of a named origin (`Draft.origin`), how many tokens serve best: the depth
            of a chain, the nodes of a tree. A drafter keeps to the share of its own origin; who is
            not named may use all.
        stop: ends a path early; drafters that know no probabilities pass it over.
    """

    depth: int
    nodes: int
    shares: Mapping[str, int] | None = None
    stop: Stop | None = None

    @classmethod
    def chain(cls, length: int) -> "Budget":
        """A chain of at most `length` tokens."""
        return cls(depth=max(length, 0), nodes=max(length, 0))

    def clipped(self, depth: int) -> "Budget":
        """The same budget, no deeper than `depth`."""
        if self.depth <= depth and (self.depth or not self.nodes):
            return self
        depth = max(min(self.depth, depth), 0)
        return replace(self, depth=depth, nodes=self.nodes if depth else 0)

    def share(self, origin: str) -> int:
        """Deepest draft of this origin."""
        return (
            self.depth
            if self.shares is None
            else min(self.shares.get(origin, self.depth), self.depth)
        )

    def nodes_of(self, origin: str) -> int:
        """Most nodes of a tree of this origin."""
        if self.depth < 1:
            return 0
        return (
            self.nodes
            if self.shares is None
            else min(self.shares.get(origin, self.nodes), self.nodes)
        )

    def only(self, origin: str) -> "Budget":
        """The budget of one origin that drafts chains."""
        return self if self.shares is None else self.clipped(self.share(origin))


NO_IDS: IntArray = as_ids(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A tree of proposed tokens; a chain is a tree of width one.

    Nodes stand in the order of their promise, parents before children and siblings in draw order:
    the first n nodes are the drafter's best draft of n nodes. Whoever must shorten a draft cuts
    its end.

    Attributes:
        tokens: `[nodes]` ids.
        parents: `[nodes]` index of each node's parent, -1 for children of the text.
        sources: the tier that wrote each node.
        draw: how siblings were picked.
        distribution: per node the warped distribution `[vocab]` it was really drawn from; None for
            a node means a point mass. None altogether when nobody asked for distributions. Of
            siblings drawn without replacement each carries the distribution of the first draw.
        reference: per node the raw logits `[vocab]`, at its parent, of the last model that
            vouched for it. None altogether when nobody asked.
        probe: `[nodes]` true for nodes that are verified and observed but never accepted.
        origin: what its fate is booked under (`Counters.tallies`): the drafter, or how sure the
            drafter was; empty: the source of the first node.
        match: how many tokens at the end of the text were found elsewhere, for copies.
        score: how many of its tokens the drafter expects to be kept; None where it can not tell.
        once: seconds of making it that later drafts will not need, such as reading the prompt.
        samples: per node, which of several independent continuations, numbered in draw order,
            pass through it; for rules that judge those (`KSeq`). None: each node is one of its own.
    """

    tokens: IntArray
    parents: IntArray
    sources: tuple[str, ...]
    draw: Draw = Draw.DETERMINISTIC
    probs: tuple[Tensor | None, ...] | None = None
    reference: tuple[Tensor | None, ...] | None = None
    probe: BoolArray | None = None
    origin: str = ""
    match: int = 0
    score: float | None = None
    once: float = 0.0
    samples: tuple[tuple[int, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_probes(self) -> int:
        """Nodes that can not be accepted."""
        return 0 if self.probe is None else int(self.probe.sum())

    def children(self, node: int) -> list[int]:
        """Acceptable children of `node` (-1 for the root) in draw order; probes are left out."""
        if not len(self.tokens):
            return []
        found = np.flatnonzero(self.parents == node)
        return [int(i) for i in found if self.probe is None or not self.probe[i]]

    def only(self, nodes: IntArray) -> "Draft":
        """The draft made of `nodes` alone: ascending, each with its parent."""
        new = {int(old): i for i, old in enumerate(nodes)} | {-1: -1}
        return replace(
            self,
            tokens=self.tokens[nodes],
            parents=as_ids([new[int(p)] for p in self.parents[nodes]]),
            sources=tuple(self.sources[n] for n in nodes),
            probs=None if self.probs is None else tuple(self.probs[n] for n in nodes),
            reference=None if self.reference is None else tuple(self.reference[n] for n in nodes),
            probe=None if self.probe is None else self.probe[nodes],
            samples=None if self.samples is None else tuple(self.samples[n] for n in nodes),
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
        distributions: per token of `emitted`, the distribution it was drawn from, where it is
            known.
        error: set, with everything else empty, when the verifier's logits were unusable.
    """

    path: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    next_token: int | None = None
    changed: tuple[bool, ...] = ()
    sources: tuple[str, ...] = ()
    distributions: tuple[Tensor | None, ...] = ()
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


@dataclass(frozen=True, slots=True)
class Kept:
    """Tokens `[start, stop)` of a cache's text; their rows, where there are any, stay."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Fresh:
    """Tokens to be read anew; `positions` None: their index in the new text."""

    token_ids: tuple[int, ...]
    positions: tuple[int, ...] | None = None


Piece = Kept | Fresh
"""A part of the text that a cache is rearranged to (`protocols.Segmented`)."""


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"
