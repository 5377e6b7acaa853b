"""A smaller language model that drafts trees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range
from outrider.core.counters import Counters
from outrider.core.errors import LogitsError
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, Rows, Verified, as_ids
from outrider.drafters.given import Given
from outrider.drafters.method import MOST_NODES, DrafterMethod, even_reach
from outrider.drafters.neural.growth import (
    Eagle2,
    Growth,
    NextTokens,
    Picking,
    TreeBuilder,
    grow_all,
)
from outrider.drafters.neural.model_state import (
    ModelState,
    commit_states,
    head_chance,
    open_states,
    window,
)
from outrider.drafters.neural.reading import read_ahead, timed
from outrider.models.caches.attaching import attach
from outrider.policies import Source
from outrider.protocols import NO_NEEDS, Drafter, LanguageModel, Needs, Request, Segment
from outrider.protocols.method import Paper, Value
from outrider.sampling import NOT_FINITE, Sampler
from outrider.sampling.warps import Support

_WIDTH = 4
"""Width of the default growth, EAGLE-2."""
_SPREAD = Range(0.0, above=True, hint="Give a number above 0, such as 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeDrafter:
    """Drafts a tree with `growth`: one forward for each level (`DySpec`: for each node), shared by
    all requests.

    The way siblings are selected depends on the rule above. If it reads no distributions (`Match`),
    siblings are selected with the noise of the target's own choices. If it reads distributions,
    growths that draw use separate noise for each node (`Purpose.BRANCH`), since the place where a
    tree grows next must be independent of the draws in other branches. At temperature 0 the best
    tokens are taken, with their probability at temperature 1.

    Drafting is switched off for a request whose text exceeds the model's window, or for which the
    model returns NaN.

    Attributes:
        model: the draft model.
        growth: how trees grow.
        spread: scale, in nats, of the disagreement between the two models; smaller values make
            trees narrower (`NextTokens.of`).
        name: the source its tokens are counted under.
        origin: the origin its drafts are counted under.

    Raises:
        OptionError: a spread that is not above 0.
    """

    model: LanguageModel
    growth: Growth = field(default_factory=Eagle2)
    spread: float = 1.0
    name: str = "draft"
    origin: str = "draft-tree"
    needs: Needs = NO_NEEDS
    tier: int = 1

    gives = Needs(probs=True, reference=True)
    learns = False

    def __post_init__(self) -> None:
        _SPREAD.check("spread", self.spread)

    @property
    def draw(self) -> Draw:
        """How the growth selects siblings."""
        return self.growth.draw

    @property
    def origins(self) -> tuple[str, ...]:
        """The origin its drafts are counted under."""
        return (self.origin,)

    def bind(self, needs: Needs, tier: int) -> "TreeDrafter":
        """Configure drafts to carry distributions and references only if the rule above reads
        them."""
        return replace(self, needs=needs, tier=tier)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[ModelState | None] | None = None
    ) -> list[ModelState]:
        """Read each prompt that fits into the window; other requests get a state without a
        cache."""
        return open_states(self.model, requests, previous)

    def propose(
        self, states: Sequence[ModelState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return one tree per request, as large as its budget, its window and end tokens allow."""
        if not any(budget.nodes_of(self.origin) > 0 for budget in budgets):
            return [EMPTY_DRAFT] * len(states)
        reading = read_ahead(self.model, states, budgets)
        builders = [self._builder(*parts) for parts in zip(states, tails, budgets, strict=True)]
        if any(builder.depth for builder in builders):
            grow_all(self.growth, builders, _Reader(self, states, tails, builders))
        drafts = [self._draft(*pair) for pair in zip(states, builders, strict=True)]
        return timed(drafts, reading)

    def observe(self, states: Sequence[ModelState], verified: Sequence[Verified]) -> None:
        """Do nothing: the model is fixed."""

    def commit(self, states: Sequence[ModelState], tokens: Sequence[IntArray]) -> None:
        """Keep the rows that match the emitted tokens; the other tokens become pending."""
        commit_states(self.model, states, tokens)

    def counters(self, state: ModelState) -> dict[str, Counters]:
        """Return the forwards and drafted tokens of this model."""
        state.counters.off = state.off
        if state.cache is not None:
            state.counters.kv_bytes = state.cache.report.kv_bytes
        return {self.name: state.counters}

    def picking(self, sampler: Sampler) -> Picking:
        """Return how siblings are selected for this request."""
        if sampler.params.temperature == 0:
            return Picking.BEST
        if not self.needs.probs:
            return Picking.COUPLED
        return Picking.BEST if self.draw is Draw.DETERMINISTIC else Picking.DRAWN

    def _builder(self, state: ModelState, tail: IntArray, budget: Budget) -> TreeBuilder:
        nodes = budget.nodes_of(self.origin)
        depth = min(budget.depth, nodes)
        sampler = state.request.sampler
        return TreeBuilder(
            sampler=sampler,
            generated=state.written(tail),
            depth=min(depth, window(self.model, state, tail)) if depth > 0 else 0,
            nodes=nodes,
            picking=self.picking(sampler),
            tier=self.tier,
            stop=budget.stop,
        )

    def _draft(self, state: ModelState, builder: TreeBuilder) -> Draft:
        draft = builder.draft(
            self.name,
            origin=self.origin,
            draw=self.draw if builder.picking is not Picking.BEST else Draw.DETERMINISTIC,
            distributions=self.needs.probs,
            references=self.needs.reference,
        )
        state.counters.drafted += len(draft)
        return draft if len(draft) else EMPTY_DRAFT


class _Reader:
    """The model's next-token candidates for the nodes of the trees of one proposal
    (`NextProbs`)."""

    def __init__(
        self,
        drafter: TreeDrafter,
        states: Sequence[ModelState],
        tails: Sequence[IntArray],
        builders: Sequence[TreeBuilder],
    ) -> None:
        self._drafter = drafter
        self._states, self._tails, self._builders = states, tails, builders
        self._rows: list[dict[int, int]] = [{} for _ in builders]

    def __call__(self, asked: Sequence[tuple[int, Sequence[int]]]) -> list[list[NextTokens | None]]:
        """Run one forward over the requested nodes."""
        model = self._drafter.model
        pairs = [self._segment(i, nodes) for i, nodes in asked]
        rows = model.forward([s for s, _ in pairs], [w for _, w in pairs])
        return [
            self._next_tokens(i, nodes, own) for (i, nodes), own in zip(asked, rows, strict=True)
        ]

    def _segment(self, i: int, nodes: Sequence[int]) -> tuple[Segment, IntArray]:
        """Return the segment to feed for these nodes and the rows to return; records where the rows
        will be.
        """
        cache, builder, rows = self._states[i].cache, self._builders[i], self._rows[i]
        if nodes[0] < 0:
            segment, want = attach(cache, self._tails[i], EMPTY_DRAFT)
            rows[-1] = int(want[0])
            return segment, want
        first = cache.num_speculative
        for place, node in enumerate(nodes):
            rows[node] = first + place
        parents = as_ids([rows[builder.parents[node]] for node in nodes])
        tokens = as_ids([builder.tokens[node] for node in nodes])
        return Segment(cache, tokens, parents), first + torch.arange(len(nodes)).numpy()

    def _next_tokens(self, i: int, nodes: Sequence[int], rows: Rows) -> list[NextTokens | None]:
        """Return the candidates after the nodes. NaN gives None and switches drafting off for the
        request.
        """
        builder, state, drafter = self._builders[i], self._states[i], self._drafter
        state.counters.forwards += 1
        params = builder.sampler.params
        if not all_in_play(builder.sampler, len(builder.generated)):
            return [self._following(i, node, rows, place) for place, node in enumerate(nodes)]
        logits = rows.logits.float() if rows.logits.dtype != torch.float64 else rows.logits
        next_tokens = NextTokens.of_rows(
            (logits / params.temperature if params.temperature else logits).cpu(),
            builder.picking,
            keys=[builder.key(node) for node in nodes],
            most=drafter.growth.breadth,
            spread=drafter.spread,
            logits=rows.logits,
            kept=[self._kept(i, node, rows, place) for place, node in enumerate(nodes)],
        )
        if None in next_tokens:
            state.off = f"model {drafter.model.info.name}: {NOT_FINITE}"
        return next_tokens

    def _following(self, i: int, node: int, rows: Rows, place: int) -> NextTokens | None:
        builder, state, drafter = self._builders[i], self._states[i], self._drafter
        logits = rows.logits[place]
        try:
            support = in_play(builder.sampler, logits, [*builder.generated, *builder.path(node)])
        except LogitsError as error:
            state.off = f"model {drafter.model.info.name}: {error.problem}"
            return None
        return NextTokens.of(
            support,
            builder.picking,
            key=builder.key(node),
            most=drafter.growth.breadth,
            spread=drafter.spread,
            logits=logits,
            kept=self._kept(i, node, rows, place),
        )

    def _kept(self, i: int, node: int, rows: Rows, place: int) -> float | None:
        """Return the prediction of a trained head for the node itself."""
        stop = self._builders[i].stop
        if stop is None or stop.head is None or node < 0:
            return None
        return head_chance(stop, rows, place, self._drafter.model.info.name)


def all_in_play(sampler: Sampler, index: int) -> bool:
    """Whether the distribution at generated index `index` and later equals the softmax of the
    logits divided by the temperature, with no token excluded."""
    p = sampler.params
    cut = p.temperature > 0 and (p.top_k > 0 or p.top_p < 1.0 or p.min_p > 0.0)
    return sampler.plain(index) and not cut


def in_play(sampler: Sampler, logits: Float[Tensor, " vocab"], generated: Sequence[int]) -> Support:
    """Return the support of the warped distribution; at temperature 0, where that is one token, the
    support of the distribution at temperature 1. Raises `LogitsError`.
    """
    if sampler.params.temperature > 0:
        return sampler.support(logits, generated)
    scores = sampler.process(logits, generated).cpu()
    ids = torch.nonzero(scores > -torch.inf).flatten()
    return Support(ids, scores[ids])


_FIRST, _DEPTH = 0.6, 5
"""Prior chance of a tree's first node; number of levels of a tree."""


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> TreeDrafter:
    growth = given.growth if isinstance(given.growth, Growth) else Eagle2(width=_WIDTH)
    model = given.draft_model("tree")
    return TreeDrafter(model=model, growth=growth, **options)  # pyright: ignore[reportArgumentType]


def _priors(drafter: TreeDrafter, given: Given) -> tuple[Source, ...]:
    return (
        Source(
            name=drafter.origin,
            reach=even_reach(_FIRST),
            longest=MOST_NODES,
            depth=_DEPTH,
            fixed=_DEPTH * given.draft_seconds(drafter.model),
        ),
    )


METHOD = DrafterMethod(
    name="tree",
    cls=TreeDrafter,
    summary="the draft model, as a tree; --growth says how it grows",
    paper=Paper("SpecInfer", "2305.09781"),
    needs="a draft model",
    memory="the draft model and its cache",
    tree=True,
    grown=True,
    make=_make,
    priors=_priors,
    models=1,
)
