"""PEARL: the next block is drafted while the target verifies the current one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from math import ceil

import numpy as np

from outrider.core.counters import Counters
from outrider.core.errors import StrategyError
from outrider.core.tree import chain_parents
from outrider.core.types import EMPTY_DRAFT, NO_IDS, Budget, Draft, IntArray, Verified, as_ids
from outrider.decoding.wrapping import WrappedDrafter
from outrider.drafters.given import Given
from outrider.drafters.layers.layer_subset import LayerSubsetDrafter
from outrider.drafters.method import DrafterMethod
from outrider.models.heads.model import HeadModel
from outrider.policies import Source
from outrider.protocols import Drafter, DrafterState, Request
from outrider.protocols.method import Paper, Value


@dataclass(slots=True)
class PearlState:
    """The state of one request.

    Attributes:
        request: the request.
        inner: the state of the wrapped drafter.
        block: the chain that was drafted ahead; empty: none.
        written: number of emitted tokens when the block was drafted.
        assumed: the tokens after those, which the block follows: the tail and the draft that was
            being verified.
    """

    request: Request
    inner: DrafterState
    block: Draft = EMPTY_DRAFT
    written: int = 0
    assumed: IntArray = field(default_factory=lambda: NO_IDS)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A block that is to be drafted ahead, after the tokens `assumed`."""

    state: PearlState
    assumed: IntArray
    budget: Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Pearl(WrappedDrafter):
    """Drafts with `drafter` on a thread while the target runs (PEARL, arXiv 2408.11850).

    A block has g tokens, one more than the budget allows for a draft, because its first token takes
    the place of the target's own next token. Two modes alternate, as in the paper:

    - *Pre-verify*: nothing is drafted yet. The target computes its next token while a block is
      drafted. If the first token of the block equals it, the other g - 1 are the next draft.
    - *Post-verify*: the target verifies these g - 1 tokens while the next block is drafted as if
      all of them were accepted. If they are, and if the target's own next token is the first of
      the next block, its other tokens are the next draft. Otherwise the block is dropped, and the
      next round is of pre-verify.

    The paper's target scores the same g positions; there is no token beyond them. In both modes a
    round takes as long as the slower of the two models, and writes 1 token (pre-verify) or 1 to g
    (post-verify).

    Three things differ from the paper. The rule of the target decides about the first token of a
    block as about any token after a draft: it is kept if it equals the token that the target emits.
    With `Match` this is the paper's test. A rule that reads probabilities draws that token with
    noise of its own, so a block is kept less often than in the paper; the distribution stays exact,
    since no token is dropped for its own value after it was judged. The draft model reads an
    accepted block again, all tokens in one forward, when it drafts the next one. And the target
    reads the prompt before the first round.

    A block that is dropped leaves no trace: the wrapped drafter drafts after a tail, as it does
    below a qualifier, and its next commit drops what the text does not contain. Tokens are drawn
    with noise of their position, so a block that is used equals what the drafter would have
    drafted afterwards. The thread runs within the forward of the verifier (`decoding/beside.py`):
    between two rounds, and so where requests end, are cancelled, fork or are preempted, none runs.

    Trees are reduced to the chain of first children, because a block follows one path. Where no
    round verifies (`Budget.meanwhile`), drafts are those of the wrapped drafter.

    Raises:
        StrategyError: the wrapped drafter learns from the rows of the round that it would not wait
            for, or reads the target's cache or layers, which the target is writing.
    """

    def __post_init__(self) -> None:
        if self.drafter.learns:
            raise StrategyError(
                f"pearl cannot draft ahead with {self.drafter.name!r}, which learns from every "
                "verification",
                hint="Use a drafter that does not learn from rows, such as model",
            )
        if _reads_target(self.drafter):
            raise StrategyError(
                f"pearl cannot draft ahead with {self.drafter.name!r}, which reads what the target "
                "computes at the same time",
                hint="Use a draft model of its own: pearl(model)",
            )

    def begin(
        self, requests: Sequence[Request], previous: Sequence[PearlState | None] | None = None
    ) -> list[PearlState]:
        """Begin with the wrapped drafter; nothing is drafted ahead."""
        old = previous or [None] * len(requests)
        known = [before.inner if isinstance(before, PearlState) else None for before in old]
        inner = self.drafter.begin(requests, known)
        return [PearlState(*pair) for pair in zip(requests, inner, strict=True)]

    def propose(
        self, states: Sequence[PearlState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return the blocks that fit their texts, and hand the drafting of the next ones to the
        round."""
        meanwhile = next((b.meanwhile for b in budgets if b.meanwhile is not None), None)
        if meanwhile is None:
            return self.drafter.propose([state.inner for state in states], tails, budgets)
        drafts = [self._ready(*parts) for parts in zip(states, tails, budgets, strict=True)]
        asked = [
            plan
            for parts in zip(states, tails, budgets, drafts, strict=True)
            if (plan := self._plan(*parts)) is not None
        ]
        if asked:
            meanwhile(lambda: self._draft_ahead(asked))
        return drafts

    def observe(self, states: Sequence[PearlState], verified: Sequence[Verified]) -> None:
        """Do nothing: a drafter that learns is refused."""

    def commit(self, states: Sequence[PearlState], tokens: Sequence[IntArray]) -> None:
        """Commit to the wrapped drafter, which drops what the text does not contain."""
        self.drafter.commit([state.inner for state in states], tokens)

    def counters(self, state: PearlState) -> dict[str, Counters]:
        """Return the counters of the wrapped drafter, which include dropped blocks."""
        return self.drafter.counters(state.inner)

    def _ready(self, state: PearlState, tail: IntArray, budget: Budget) -> Draft:
        """Return what follows the text in the block of `state`; empty if the block assumed another
        text. The block is given up in both cases."""
        block, state.block = state.block, EMPTY_DRAFT
        if not len(block):
            return EMPTY_DRAFT
        text = as_ids([*state.request.output[state.written :], *tail.tolist()])
        assumed, new = np.split(text, [len(state.assumed)])
        if not np.array_equal(assumed, state.assumed):
            return EMPTY_DRAFT
        if not np.array_equal(new, block.tokens[: len(new)]):
            return EMPTY_DRAFT
        origin = block.origin or block.sources[0]
        room = min(budget.share(origin), budget.nodes_of(origin))
        return _part(block, len(new), room)

    def _plan(
        self, state: PearlState, tail: IntArray, budget: Budget, draft: Draft
    ) -> _Plan | None:
        """Return the block to draft after `tail` and `draft`; None if no round can use one."""
        assumed = np.concatenate((tail, draft.tokens))
        sampler = state.request.sampler
        if len(draft) and int(draft.tokens[-1]) in sampler.end_ids:
            return None
        written = len(state.request.output) + len(assumed)
        left = sampler.params.max_new_tokens - written - 1
        block = _block_of(budget).clipped(left)
        wanted = max((block.share(origin) for origin in self.origins), default=0)
        return _Plan(state, assumed, block) if wanted > 1 else None

    def _draft_ahead(self, plans: Sequence[_Plan]) -> None:
        """Draft the blocks; this runs on the thread."""
        drafts = self.drafter.propose(
            [plan.state.inner for plan in plans],
            [plan.assumed for plan in plans],
            [plan.budget for plan in plans],
        )
        for plan, draft in zip(plans, drafts, strict=True):
            state = plan.state
            state.block, state.assumed = _first_path(draft), plan.assumed
            state.written = len(state.request.output)


def _block_of(budget: Budget) -> Budget:
    """Return the budget of a block: one token longer than that of a draft, as a chain."""
    shares = budget.shares and {name: n + 1 if n else 0 for name, n in budget.shares.items()}
    depth = budget.depth + 1
    return replace(
        budget, depth=depth, nodes=depth, shares=shares, worth=None, forced=(), meanwhile=None
    )


def _first_path(draft: Draft) -> Draft:
    """Return the chain of first children."""
    path: list[int] = []
    while children := draft.children(path[-1] if path else -1):
        path.append(children[0])
    return draft if len(path) == len(draft) else draft.only(as_ids(path))


def _part(chain: Draft, start: int, length: int) -> Draft:
    """Return `length` tokens of a chain from `start`, as a draft of its own."""
    stop = min(start + length, len(chain))
    if stop <= start:
        return EMPTY_DRAFT
    kept = slice(start, stop)
    return replace(
        chain,
        tokens=chain.tokens[kept],
        parents=chain_parents(stop - start),
        sources=chain.sources[kept],
        probs=chain.probs and chain.probs[kept],
        reference=chain.reference and chain.reference[kept],
        probe=None,
        origin=chain.origin or chain.sources[0],
        score=None if chain.score is None else max(chain.score - start, 0.0),
        once=0.0,
        samples=None,
    )


def _reads_target(drafter: Drafter) -> bool:
    """Whether a drafter, or a part of it, runs layers of the target or a head on its states."""
    if isinstance(drafter, LayerSubsetDrafter):
        return True
    return any(
        isinstance(value, HeadModel) or (isinstance(value, Drafter) and _reads_target(value))
        for value in _values(drafter)
    )


def _values(drafter: Drafter) -> Iterator[object]:
    if is_dataclass(drafter):
        yield from (getattr(drafter, one.name) for one in fields(drafter) if one.init)


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Pearl:
    return Pearl(drafter=inner[0])


def _priors(drafter: Pearl, given: Given) -> tuple[Source, ...]:
    """Return the priors of the wrapped drafter; its tokens take no time of the round up to g, the
    time of the target divided by that of a drafted token."""
    target = given.measured.target.seconds(1)
    return tuple(_beside(source, target) for source in given.priors_of(drafter.drafter))


def _beside(source: Source, target: float) -> Source:
    block = ceil(target / source.seconds) if source.seconds > 0 else source.longest + 1
    longest = max(min(block - 1, source.longest), 1)
    return replace(source, seconds=0.0, longest=longest)


METHOD = DrafterMethod(
    name="pearl",
    cls=Pearl,
    summary="another drafter, which drafts the next block on a thread while the target verifies",
    paper=Paper("PEARL", "2408.11850"),
    needs="a processor for each of the two models, to be of use",
    memory="of its part",
    make=_make,
    priors=_priors,
    inner=1,
    parts=("model",),
)
