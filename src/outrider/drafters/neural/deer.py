"""A draft model that predicts a block of masked tokens in one forward.

"DEER: Draft with Diffusion, Verify with Autoregressive Models" (arXiv 2512.15176).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OptionError, StrategyError
from outrider.core.tree import chain_parents
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, IntArray, Rows
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.model import Chain, ModelDrafter
from outrider.drafters.neural.model_state import ModelState
from outrider.drafters.neural.reading import read_ahead, timed
from outrider.models.caches.attaching import attach
from outrider.policies import Source
from outrider.protocols import Drafter, LanguageModel, Segment
from outrider.protocols.masks import BlockMask
from outrider.protocols.method import Paper, Value

_RANGES: Mapping[str, Range] = {
    "k": Range(1, 64, whole=True, optional=True, hint="Give 1 to 64 tokens of a block"),
}
_MASK = -1
"""The id of a row that reads the embedding of the mask (`Segment.prompts`)."""
_FIRST, _NEXT = 0.45, 0.35
"""Prior chances of the first token of a block, and of each later one after a right one."""
_WIDE = 8
"""Rows of a forward whose time is compared with that of one row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deer(ModelDrafter):
    """Drafts a block of tokens with one forward of a model that was trained on masks.

    The model reads the tokens that it has not read yet and k - 1 masks behind them. As in a
    language model, the row of a token predicts the token after it, so the row of the last token
    predicts the first one of the block, and each mask the token behind its own place. Rows of
    tokens read no masks, and are kept in the cache; masks never are. The masks of a block read
    each other where the model was trained so (`BlockMask.both`), else those before them.

    The distributions of the rows do not depend on the drafted tokens. Each token is drawn from its
    own row, after warps, penalties and grammars, which do depend on the tokens before it; that is
    the distribution from which it is drawn, and the rules that need it receive it.

    Attributes:
        k: tokens of a block, at most as trained; None: as trained.
        name: the source its tokens are counted under.

    Raises:
        OptionError: a number outside its range, or a model without masks.
        StrategyError: a model that reads no embeddings in place of tokens.
    """

    k: int | None = None
    name: str = "deer"
    mask: BlockMask = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        mask = mask_of(self.model)
        if self.k is not None and self.k > mask.block:
            raise OptionError(
                f"k is {self.k}, and {self.model.info.name} was trained on blocks of at most "
                f"{mask.block} tokens",
                hint="Lower k, or train another model: outrider train deer",
            )
        object.__setattr__(self, "mask", mask)

    @property
    def longest(self) -> int:
        """The largest number of tokens of a block."""
        return self.k or self.mask.block

    def propose(
        self, states: Sequence[ModelState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return one block per request, as long as k, its budget and its window allow; it ends with
        an end token, or where the policy stops it."""
        if not any(budget.share(self.name) for budget in budgets):
            return [EMPTY_DRAFT] * len(states)
        reading = read_ahead(self.model, states, budgets)
        chains = [
            Chain(state, tail, min(self._depth(state, tail, budget), self.longest), budget.stop)
            for state, tail, budget in zip(states, tails, budgets, strict=True)
        ]
        active = [chain for chain in chains if chain.depth > 0]
        if active:
            pairs = [self._block(chain) for chain in active]
            found = self.model.forward([s for s, _ in pairs], [want for _, want in pairs])
            for chain, rows in zip(active, found, strict=True):
                self._write_block(chain, rows)
        return timed([self._draft(chain) for chain in chains], reading)

    def _block(self, chain: Chain) -> tuple[Segment, IntArray]:
        """Return the segment of a block, whose masks follow all tokens, and the rows to request."""
        masks = chain.depth - 1
        segment, want = attach(chain.state.cache, chain.tail, _masks(masks, self.mask.embedding))
        return (replace(segment, both=True) if self.mask.both and masks else segment), want

    def _write_block(self, chain: Chain, rows: Rows) -> None:
        """Draw the tokens of a block, each from its own row."""
        chain.state.counters.forwards += 1
        for place in range(chain.depth):
            own = slice(place, place + 1)
            hidden = None if rows.hidden is None else rows.hidden[own]
            self._extend(chain, Rows(rows.logits[own], hidden))
            if chain.done:
                return


def mask_of(model: LanguageModel) -> BlockMask:
    """Return the masks that a model was trained on.

    Raises:
        OptionError: it was trained on none.
        StrategyError: it reads no embeddings in place of tokens.
    """
    mask, name = model.info.mask, model.info.name
    if mask is None:
        raise OptionError(
            f"drafter 'deer' needs a draft model that was trained on masked blocks, and {name} "
            "was not",
            hint="Give draft=FOLDER of a model that `outrider train deer` has written",
        )
    if not model.info.reads_prompts:
        raise StrategyError(
            f"drafter 'deer' puts masks behind the text, which {name} does not read as it is "
            "wrapped",
            hint="Use the draft model without guidance or selection, or drafter 'model'",
        )
    return mask


def _masks(count: int, embedding: Float[Tensor, " hidden"]) -> Draft:
    """Return a chain of masks."""
    if count < 1:
        return EMPTY_DRAFT
    return Draft(
        tokens=np.full(count, _MASK, dtype=np.int64),
        parents=chain_parents(count),
        sources=("",) * count,
        prompts=embedding[None],
    )


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Deer:
    return Deer(model=given.draft_model("deer"), **options)  # pyright: ignore[reportArgumentType]


def _priors(drafter: Deer, given: Given) -> tuple[Source, ...]:
    """Return the expected results of blocks: their time hardly depends on their length."""
    costs = given.qualifier_costs(drafter.model)
    one, wide = costs.seconds(1), costs.seconds(_WIDE)
    each = max(wide - one, 0.0) / (_WIDE - 1)
    return (
        Source(
            name=drafter.name,
            seconds=each,
            fixed=one + 2 * each + given.measured.overhead,  # also the tokens of the last round
            accept=_FIRST,
            goes_on=_NEXT,
            longest=drafter.longest,
        ),
    )


METHOD = DrafterMethod(
    name="deer",
    cls=Deer,
    summary="a block of tokens from one forward of a draft model over masks",
    paper=Paper("DEER", "2512.15176"),
    needs="a draft model that was trained on masks, from `outrider train deer`",
    memory="the draft model and its cache",
    make=_make,
    priors=_priors,
    models=1,
)
