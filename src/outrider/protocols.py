"""The contracts between rooms. Everything else in the package is one side of one of these."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from outrider.counters import Counters
from outrider.layers import LayerSet
from outrider.sampling import Sampler
from outrider.types import (
    Budget,
    Draft,
    Draw,
    Exactness,
    IntArray,
    Pictured,
    Piece,
    Prompt,
    Rows,
    Verdict,
    Verified,
)
from outrider.view import View


@runtime_checkable
class Cache(Protocol):
    """What one model remembers of one text.

    `text` is the prompt and the committed output. Its last tokens, at least one, are `pending`:
    the model has not read them yet, and the first forward of a round feeds them first. Later
    forwards append speculative rows, numbered from 0 since the last commit; a row's parent is an
    earlier row, or -1 for the last token of the text.
    """

    @property
    def text(self) -> Sequence[int]:
        """Prompt and committed output, as this model reads them."""
        ...

    @property
    def pending(self) -> Sequence[int]:
        """The last tokens of `text`, which have no committed row; at least one."""
        ...

    @property
    def fed(self) -> bool:
        """Whether a forward has read `pending` since the last commit."""
        ...

    @property
    def num_speculative(self) -> int:
        """Speculative rows since the last commit."""
        ...

    @property
    def room(self) -> int:
        """How many tokens may still follow `text` in this model's context window."""
        ...

    @property
    def horizon(self) -> int | None:
        """Generated tokens until the model itself changes; no draft crosses it. None: never."""
        ...

    def spell(self, tokens: Sequence[int] | IntArray) -> list[int]:
        """Rows that spell the longest prefix of `tokens`, never all of them: the last token is
        left to be fed (again), since its row's logits are gone."""
        ...

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Append emitted tokens to the text. Keeps the rows that spell their longest prefix,
        drops the others, makes the remainder pending. With no tokens it forgets the round."""
        ...

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` (at least 1) tokens of the text."""
        ...

    def fork(self) -> "Cache":
        """An independent copy; storage is shared until one of the two writes."""
        ...


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens one forward appends to one cache (after its pending ones, if those are unread).

    `parents` are row numbers since the last commit; None continues from the newest row.
    """

    cache: Any
    tokens: IntArray
    parents: IntArray | None = None


@runtime_checkable
class LanguageModel(Protocol):
    """A model that reads tokens and gives logits for the rows asked for."""

    @property
    def name(self) -> str:
        """How errors and reports call it."""
        ...

    @property
    def vocab_size(self) -> int:
        """Width of its logits."""
        ...

    @property
    def context_length(self) -> int:
        """Most tokens it can read."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the weights change; calibrations are saved with it."""
        ...

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[Any]:
        """Read all but the last token of each prompt; one cache each, the last token pending.

        Equal prompts (the same object) are read once and forked. A cache in `reuse` is taken over:
        what it shares with the prompt is not read again. Raises `ContextError`.
        """
        ...

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments in one pass; `want[i]` names the rows of segment i to return.

        -1 is the row of the last pending token; only rows fed by this very forward can be had.
        """
        ...


@runtime_checkable
class Writer(Protocol):
    """A model that can also write a chain of its own in one go: compiled, or on its device."""

    def write(
        self,
        segments: Sequence[Segment],
        samplers: Sequence[Sampler],
        generated: Sequence[Sequence[int]],
        depths: Sequence[int],
        confidence: float = 0.0,
    ) -> list[IntArray] | None:
        """Continue each cache by up to `depths[i]` tokens, as the samplers choose them.

        Segment i ends with the row that the first of them follows; `generated[i]` were written
        before it. The rows of all but the last token are read and noted in the cache, as a loop of
        forwards would. Nothing follows an end token. An array that ends sooner, without one, says
        that the logits after it were unusable. None, with nothing done, where a sampler does more
        than the model knows, or it can not stop early.

        With a `confidence`, writing ends after a token that was chosen where no token had this
        probability, at the sampler's temperature (1 where that is 0) and before the other warps.
        """
        ...


@runtime_checkable
class Layered(Protocol):
    """A model that can draft for itself with a part of its layers: the same weights, and the same
    cache up to the end of the text."""

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        ...

    def subset(self, layers: LayerSet) -> LanguageModel:
        """The model made of `layers` alone. Takes no memory and no time worth naming; it reads
        caches of the whole model, borrowed ones and others. Raises `StrategyError` where layers
        can not be left out."""
        ...

    def borrow(self, cache: Cache) -> Cache:
        """A cache that has the text and the committed rows of `cache`, at any time and by
        reference, and speculative rows of its own. It may be read only while `cache` has no
        speculative rows, and its own are gone when `cache` goes on. Raises `StrategyError` for a
        cache that this model has not filled."""
        ...

    def watch(self, cache: Cache, on: bool) -> None:
        """Whether forwards of this model over `cache` return `Rows.streams` from now on."""
        ...

    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """Final norm and head: what the model would answer if a layer that left these states were
        its last."""
        ...


@runtime_checkable
class Segmented(Protocol):
    """A model whose caches can be taken apart: committed rows are dropped, moved, and computed in
    between others that stay."""

    @property
    def reads_gaps(self) -> bool:
        """Whether positions may have gaps (`Prompt.positions`)."""
        ...

    def rearrange(self, caches: Sequence[Any], texts: Sequence[Sequence[Piece]]) -> None:
        """Make the text of each cache what its pieces spell, in order; they ascend in position.

        Rows of `Kept` tokens stay as they are, whatever now stands before them; of the other tokens
        all but the last are read, each seeing the rows before it. Rows that are not kept are gone
        before new ones are made: a cache never holds more than it held before or holds after.
        Speculative rows are forgotten; the last token is pending.

        Raises:
            ContextError: the text does not fit into the window.
            ValueError: kept tokens are not in order, or would have to turn to another position.
        """
        ...


@runtime_checkable
class ContextSelector(Protocol):
    """A `LanguageModel` that reads only parts of a prompt's long input (`Prompt.context`), and
    other parts while the answer is being written.

    On the target it changes the target; on a drafter it can only cost acceptance.
    """

    @property
    def inner(self) -> LanguageModel:
        """The model that reads what is selected."""
        ...

    def reads(self, prompt: Prompt) -> int:
        """Places of its window that `prompt` takes, at most. Raises `ContextError` when not even
        the instruction fits."""
        ...

    def refresh(self, caches: Sequence[Any]) -> None:
        """Choose again for caches whose `horizon` is 0; the others are left as they are."""
        ...


@runtime_checkable
class Eyes(Protocol):
    """What makes images readable for one model."""

    @property
    def unspoken(self) -> frozenset[int]:
        """Ids that stand for images. They are read, and never drafted."""
        ...

    def views(self, pictured: Sequence[Pictured]) -> list[Prompt]:
        """What this model reads of each: `token_ids` with placeholders, `embeddings` with the
        features of the images, and `axes` where it has them. Images are encoded together.

        Raises:
            OptionError: a question that its template can not spell, or too many images for it.
        """
        ...


@dataclass(slots=True)
class Request:
    """One request as every tier sees it. `output` is grown by the outermost loop alone."""

    prompt: Prompt
    sampler: Sampler
    output: list[int] = field(default_factory=list)
    draft_prompt: Prompt | None = None
    """What the lower tiers read, where it differs from the target's prompt."""
    target_cache: Cache | None = None
    """The target's cache, read-only for drafters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the rule above a drafter must find in its drafts."""

    law: bool = False
    reference: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(law=self.law or other.law, reference=self.reference or other.reference)


NO_NEEDS = Needs()


@runtime_checkable
class AcceptanceRule(Protocol):
    """Decides which nodes of a draft to keep. It sees no model and no cache."""

    @property
    def needs(self) -> Needs:
        """What the draft must carry."""
        ...

    @property
    def draws(self) -> frozenset[Draw]:
        """Ways of drawing siblings that it judges correctly."""
        ...

    @property
    def exactness(self) -> Exactness:
        """What it promises about the text."""
        ...

    @property
    def tracks_law(self) -> bool:
        """Whether its verdict can name the law each emitted token was drawn from."""
        ...

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Judge `draft` by the rows in `view`."""
        ...


@runtime_checkable
class DraftPolicy(Protocol):
    """How much to draft; decides from counts of the past, never from tokens it then discards."""

    @property
    def adaptive(self) -> bool:
        """Whether what happened to earlier drafts changes the budget. Where that could tell of
        tokens that an outer rule discarded and draws again, the pairing is refused."""
        ...

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """The budget for the next round of one request; `batch` requests share its forward."""
        ...


@runtime_checkable
class Drafter(Protocol):
    """Whatever proposes. State is passed in, never kept; all verbs take a list of requests."""

    @property
    def name(self) -> str:
        """The source its tokens are counted under."""
        ...

    @property
    def draw(self) -> Draw:
        """How it picks siblings."""
        ...

    @property
    def gives(self) -> Needs:
        """What its drafts can carry."""
        ...

    @property
    def learns(self) -> bool:
        """Whether it learns from rows in `observe`, so that its drafts may depend on tokens that a
        verifier turned down. Where an outer rule draws such tokens again by the same noise, the
        pairing is refused."""
        ...

    def bind(self, needs: Needs, tier: int) -> "Drafter":
        """The same drafter, made to fill what `needs` names, as tier `tier` (the target is 0).
        Raises `StrategyError` when it can not."""
        ...

    def begin(
        self, requests: Sequence[Request], previous: Sequence[Any | None] | None = None
    ) -> list[Any]:
        """One state a request. A state in `previous` is taken over: the next turn of a talk."""
        ...

    def propose(
        self, states: Sequence[Any], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """One draft a request. A tail is what inner rounds accepted but nobody committed yet."""
        ...

    def observe(self, states: Sequence[Any], verified: Sequence[Verified]) -> None:
        """Learn from a verification; called once for every verifying tier, if it `learns`."""
        ...

    def commit(self, states: Sequence[Any], tokens: Sequence[IntArray]) -> None:
        """Take note of emitted tokens; called by the outermost loop alone."""
        ...

    def counters(self, state: Any) -> dict[str, Counters]:
        """What the tiers inside this drafter counted for one request, outermost first."""
        ...
