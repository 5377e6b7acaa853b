"""The basic records of speculative decoding, shared by all packages; most of them are frozen.

Token ids and parents are small integer arrays, not tensors: Python code reads them one by one, and
a device round trip per element would cost more than the decision that uses it.
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
from outrider.core.reading import ReadingRows
from outrider.core.values import JsonValue

if TYPE_CHECKING:
    import PIL.Image

Message = Mapping[str, JsonValue]
"""A chat message: `role` and `content`; the content is a text or a list of parts."""

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def as_ids(tokens: Sequence[int] | IntArray) -> IntArray:
    """Convert token ids to an integer array, the type that the protocols use."""
    return np.asarray(tokens, dtype=np.int64)


class Exactness(StrEnum):
    """What a strategy guarantees about its text."""

    IDENTICAL = "identical"
    """The same text as undrafted decoding, token for token."""
    ROUNDING = "identical up to rounding"
    """The same text, except where rounding decides between two tokens that are almost equally
    likely: the model computes a row slightly differently if a forward reads several rows."""
    DISTRIBUTION = "distribution"
    """A sample from the target's own distribution, not necessarily the same text."""
    LOSSY = "lossy"
    """Some tokens are not the target's choice; all of them are counted."""

    @property
    def rank(self) -> int:
        """0 for the strongest guarantee."""
        return list(Exactness).index(self)


SAME_TEXT = (Exactness.IDENTICAL, Exactness.ROUNDING)
"""The guarantees that refer to the text of undrafted decoding, and not to its distribution."""


class Draw(StrEnum):
    """How the children of a node were selected."""

    DETERMINISTIC = "deterministic"
    IID = "iid"
    WITHOUT_REPLACEMENT = "without_replacement"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class ImagePrompt:
    """Images and the chat messages about them, as the user gave them.

    Each model with a vision encoder converts them to its own placeholders, features and positions
    when it starts (`models/vision/image_model.py`). Models without one ignore them.

    Attributes:
        messages: chat messages. The content of each is a text, or a list of parts `{"type":
            "image"}` and `{"type": "text", "text": ...}`.
        images: the images (`PIL.Image.Image`, RGB) of the image parts, in order.
        blank: the image features are zeros, as if there were no image; guidance compares with this.
    """

    messages: tuple[Message, ...]
    images: tuple["PIL.Image.Image", ...]
    blank: bool = False

    def blanked(self) -> "ImagePrompt":
        """Return the same messages, with all image features set to zero."""
        return replace(self, blank=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The input of one model for one request.

    Attributes:
        token_ids: at least one id. Penalties and conversation reuse depend on these.
        embeddings: `[len(token_ids), hidden]`, read instead of the ids (images, soft prompts). The
            last position is always read as its token id.
        positions: the position of each id for position embeddings, ascending, with gaps where parts
            of a text were left out; None: its index. Generated tokens continue from the last one.
        context: which ids are a long input; models without a selector read all of it.
        axes: `[3][len(token_ids)]` the position of each id in time, height and width (mRoPE); None:
            all equal its position. Generated tokens continue from the last one, equal on all axes.
        image_prompt: images and a question; models without a vision encoder read `token_ids`.
        contrast: another prompt for the same answer, for guidance.
    """

    token_ids: tuple[int, ...]
    embeddings: Tensor | None = None
    positions: tuple[int, ...] | None = None
    context: LongContext | None = None
    axes: tuple[tuple[int, ...], ...] | None = None
    image_prompt: ImagePrompt | None = None
    contrast: "Prompt | None" = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def plain(self) -> bool:
        """Whether it consists of token ids only: it can be read in parts, and read again."""
        others = (self.embeddings, self.positions, self.context, self.axes, self.image_prompt)
        return all(part is None for part in others)


RowChooser = Callable[[Any, IntArray], IntArray | None]
"""`(sampler, indices [rows]) -> [rows]`: the sampler's choice after each row, given the
generated index of the token that follows it; -1 where the choice is not made. None: the model
cannot choose."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a forward returns for the requested positions, in the requested order.

    Attributes:
        logits: one row for each position.
        hidden: the input of the output head.
        chooser: makes the choices of all rows on the device of the logits; None: not available. It
            must agree with `Sampler.choose`.
        states: outputs of the watched layers (`protocols.HiddenStates`), in that order; or None.
        plain: the rows before guidance has excluded tokens. One decides where a request allows none
            of the tokens that are left; None: there is nothing to fall back to.
    """

    logits: Float[Tensor, "rows vocab"]
    hidden: Float[Tensor, "rows hidden"] | None = None
    chooser: RowChooser | None = None
    states: Float[Tensor, "layers rows hidden"] | None = None
    plain: Float[Tensor, "rows vocab"] | None = None


@runtime_checkable
class Stop(Protocol):
    """Ends a draft, based on what the drafter knows about the tokens it has generated.

    The token that triggers the stop stays in the draft. The decision therefore never depends on a
    token that is discarded, and no rule is biased by it.
    """

    @property
    def head(self) -> Callable[[Tensor], float] | None:
        """Maps the draft model's last hidden state `[hidden]` after a token to the chance that the
        token is kept. None: the drafter's own probability of its best token is used instead; in
        trees, the probability of the token itself."""
        ...

    def __call__(self, chances: Sequence[float]) -> bool:
        """Whether to stop, given the chance of each token on the path so far."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """Which chain pays, for drafters that know the chances of their tokens: the one with the
    largest sum of `chance - floor`, where the chance is that of a token and all before it.

    Its tokens must be picked deterministically, so that those left out bias no rule.

    Attributes:
        floors: by place in the chain, what the row of a token costs, in tokens.
        least: the smallest sum with which a draft pays; above 0 beside another drafter that gains.
        rate: what a second costs, in tokens.
        beside: the origin of which `least` is the gain; its own drafts need not reach it.
    """

    floors: tuple[float, ...]
    least: float = 0.0
    rate: float = 0.0
    beside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may be drafted.

    Attributes:
        depth: tokens on the longest path.
        nodes: tokens in the whole tree.
        shares: for drafts of a named origin (`Draft.origin`), the best number of tokens: the depth
            of a chain, the nodes of a tree. A drafter respects the share of its own origin; an
            origin that is not listed may use the whole budget.
        stop: ends a path early; drafters that compute no probabilities ignore it.
        worth: which tokens of a chain pay; drafters that do not know chances ignore it.
        forced: tokens that the grammar of the request expects next. They are drafted in place of
            what the drafter would propose.
        reading: rows of texts that draft models may read before they draft; None: all.
        meanwhile: takes work that runs on a thread while the verifier reads the draft, and has
            ended before the rule decides; None: the draft is not verified in the same round.
    """

    depth: int
    nodes: int
    shares: Mapping[str, int] | None = None
    stop: Stop | None = None
    worth: Worth | None = None
    forced: tuple[int, ...] = ()
    reading: ReadingRows | None = None
    meanwhile: Callable[[Callable[[], None]], None] | None = None

    @classmethod
    def chain(cls, length: int) -> "Budget":
        """Return a chain of at most `length` tokens."""
        return cls(depth=max(length, 0), nodes=max(length, 0))

    def clipped(self, depth: int) -> "Budget":
        """Return the same budget, no deeper than `depth`."""
        if self.depth <= depth and (self.depth or not self.nodes):
            return self
        depth = max(min(self.depth, depth), 0)
        return replace(self, depth=depth, nodes=self.nodes if depth else 0)

    def share(self, origin: str) -> int:
        """Return the largest depth for drafts of this origin."""
        shares = self.shares or {}
        return min(shares.get(origin, self.depth), self.depth)

    def nodes_of(self, origin: str) -> int:
        """Return the largest number of tree nodes for drafts of this origin."""
        if self.depth < 1:
            return 0
        shares = self.shares or {}
        return min(shares.get(origin, self.nodes), self.nodes)

    def only(self, origin: str) -> "Budget":
        """Return the budget reduced to the share of one origin that drafts chains."""
        return self if self.shares is None else self.clipped(self.share(origin))


NO_IDS: IntArray = as_ids(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A tree of proposed tokens; a chain is a tree of width one.

    Nodes are ordered from the most to the least promising, with parents before children and
    siblings in draw order: the first n nodes are the drafter's best draft of n nodes. Code that
    shortens a draft therefore cuts it at the end.

    Attributes:
        tokens: `[nodes]` ids.
        parents: `[nodes]` index of each node's parent, -1 for children of the text.
        sources: the tier that wrote each node.
        draw: how siblings were selected.
    probs: per node the warped distribution `[vocab]` from which it was actually drawn; None for
            a node means a point mass. None for the whole draft if distributions were not requested.
            Siblings drawn without replacement all carry the distribution of the first draw.
        reference: per node the raw logits `[vocab]`, at its parent, of the last model that accepted
            or drew it. None for the whole draft if references were not requested.
        probe: `[nodes]` true for nodes that are verified and observed but never accepted.
        prompts: `[prompts, hidden]` embeddings; a probe with id -1 is read as row 0, -2 as row 1.
        origin: the key under which its results are counted (`Counters.tallies`): the drafter, or
            the confidence level of the drafter; empty: the source of the first node.
        match: for copies, the length of the match at the end of the text.
        score: the number of its tokens that the drafter expects to be kept; None if unknown.
        once: one-time seconds of making it, such as reading the prompt; later drafts need none.
        samples: per node, the numbers (in draw order) of the independent continuations that pass
            through it, for rules that judge continuations (`KSeq`). None: each node is a sample of
            its own.
    """

    tokens: IntArray
    parents: IntArray
    sources: tuple[str, ...]
    draw: Draw = Draw.DETERMINISTIC
    probs: tuple[Tensor | None, ...] | None = None
    reference: tuple[Tensor | None, ...] | None = None
    probe: BoolArray | None = None
    prompts: Float[Tensor, "prompts hidden"] | None = None
    origin: str = ""
    match: int = 0
    score: float | None = None
    once: float = 0.0
    samples: tuple[tuple[int, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_probes(self) -> int:
        """Number of nodes that cannot be accepted."""
        return 0 if self.probe is None else int(self.probe.sum())

    def children(self, node: int) -> list[int]:
        """Return the children of `node` (-1 for the root) in draw order, without probes."""
        if not len(self.tokens):
            return []
        found = np.flatnonzero(self.parents == node)
        return [int(i) for i in found if self.probe is None or not self.probe[i]]

    def only(self, nodes: IntArray) -> "Draft":
        """Return the draft restricted to `nodes`, which are ascending and include the parent of
        each node.
        """
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


GRAMMAR = "grammar"
"""Source of tokens that a grammar forces, and origin of drafts of them."""

EMPTY_DRAFT = Draft(tokens=NO_IDS, parents=NO_IDS, sources=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision of a rule about one draft.

    Attributes:
        path: accepted nodes, from root to leaf.
        tokens: their ids.
        next_token: the correction or bonus token; None after an accepted end token.
        changed: per token of `emitted`, whether it differs from the verifier's choice.
        sources: per token of `emitted`, the tier that wrote it.
        distributions: per token of `emitted`, the distribution it was drawn from, if known.
        error: set, with all other fields empty, if the verifier's logits were unusable.
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
        """The accepted tokens, followed by the next token."""
        return self.tokens if self.next_token is None else (*self.tokens, self.next_token)


@dataclass(frozen=True, slots=True)
class Verified:
    """One verification, as input for a drafter that learns; includes the rows of rejected nodes."""

    tier: str
    tail: IntArray
    draft: Draft
    rows: Rows
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Kept:
    """Tokens `[start, stop)` of a cache's text; their existing rows are kept."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Fresh:
    """Tokens to be read anew; with `positions` None, the position is the index in the new text."""

    token_ids: tuple[int, ...]
    positions: tuple[int, ...] | None = None


Piece = Kept | Fresh
"""A part of the new text of a cache that is rearranged (`protocols.Segmented`)."""


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"
