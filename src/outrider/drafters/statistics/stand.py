"""STAND: drafts drawn from stored distributions.

Song et al., "Accelerated Test-Time Scaling with Model-Free Speculative Sampling" (arXiv
2506.04708): n-grams that store the distributions that a target computed after them, and Gumbel
noise that draws several children of a node without replacement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.counters import Counters
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, Verified, as_ids
from outrider.drafters.given import Given
from outrider.drafters.method import MOST_NODES, DrafterMethod, tree_source
from outrider.drafters.statistics.template import Cut, Template, recycling_template, template_reach
from outrider.drafters.statistics.tree_statistics import SHAPE, template_from
from outrider.memories.distributions import Context, Distributions
from outrider.memories.rows import best_probabilities
from outrider.policies import Source
from outrider.protocols import NO_NEEDS, Drafter, Needs, Request
from outrider.protocols.method import Paper, Value
from outrider.sampling import Sampler
from outrider.sampling.noise import Purpose, gumbel_arrays, stream_key


@dataclass(slots=True)
class StandState:
    """One request: its sampler, the last tokens of its text, and the number of generated tokens."""

    sampler: Sampler
    recent: Context
    written: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Draws trees of a fixed shape from an n-gram memory of distributions.

    At each node the longest known key gives a distribution q: the mean of the stored rows,
    sharpened to the request's temperature and normalised over its ten tokens. Children are the best
    of log q plus Gumbel noise, in order, which is drawing without replacement; at temperature 0
    there is no noise. For a rule that reads no distributions (`Match`), the noise of the target's
    own choices is best: if q is the target's distribution, the first child *is* its choice. A rule
    that reads distributions (`RecursiveRejection`) needs each node's draws to be independent of all
    other numbers, so there every node has a separate stream. The shape never depends on the noise.

    Attributes:
        template: the shape, with nodes from most to least promising; a budget cuts it at the end.
        memory: shared by all requests of this drafter and kept between them, because much of the
            gain comes from several samples of one prompt.
        name: the source its tokens are counted under.
    """

    template: Template = field(default_factory=recycling_template)
    memory: Distributions = field(default_factory=Distributions)
    name: str = "stand"
    needs: Needs = NO_NEEDS
    tier: int = 1

    draw = Draw.WITHOUT_REPLACEMENT
    gives = Needs(probs=True)
    learns = True

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name only: all its drafts are counted under it."""
        return (self.name,)

    def bind(self, needs: Needs, tier: int) -> "Stand":
        """Use independent noise and supply distributions if the rule above reads them."""
        return replace(self, needs=needs, tier=tier)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[StandState | None] | None = None
    ) -> list[StandState]:
        """Create the states. Nothing is learned from prompts, because their rows are not
        available."""
        longest = self.memory.longest
        return [StandState(r.sampler, r.prompt.token_ids[-longest:]) for r in requests]

    def propose(
        self, states: Sequence[StandState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return one tree per request; it is empty if the last tokens are unknown."""
        return [self._draft(*parts) for parts in zip(states, tails, budgets, strict=True)]

    def observe(self, states: Sequence[StandState], verified: Sequence[Verified]) -> None:
        """Learn the rows of the target, including rows of rejected nodes."""
        for state, seen in zip(states, verified, strict=True):
            if seen.tier == "target" and seen.verdict.error is None:
                logits = seen.rows.logits
                best = best_probabilities(logits, self.memory.entries)
                self.memory.learn(self._contexts(state, seen), best, logits.shape[1])

    def commit(self, states: Sequence[StandState], tokens: Sequence[IntArray]) -> None:
        """Store the last tokens."""
        for state, emitted in zip(states, tokens, strict=True):
            state.recent = (*state.recent, *emitted.tolist())[-self.memory.longest :]
            state.written += len(emitted)

    def counters(self, state: StandState) -> dict[str, Counters]:
        """Empty: no model is called, and the verifying tier counts the drafts."""
        return {}

    def _contexts(self, state: StandState, seen: Verified) -> list[Context]:
        """Return the context of each row: the last tokens up to the end of the text, then up to
        each node.
        """
        longest = self.memory.longest
        contexts = [(*state.recent, *seen.tail.tolist())[-longest:]]
        pairs = zip(seen.draft.parents.tolist(), seen.draft.tokens.tolist(), strict=True)
        for parent, token in pairs:
            contexts.append((*contexts[parent + 1], token)[-longest:])
        return contexts

    def _draft(self, state: StandState, tail: IntArray, budget: Budget) -> Draft:
        nodes = budget.nodes_of(self.name)
        if nodes < 1:
            return EMPTY_DRAFT
        recent = (*state.recent, *tail.tolist())[-self.memory.longest :]
        tree = _Tree(self, state.sampler, state.written + len(tail))
        return tree.grow(self.template.cut(nodes, budget.depth), recent)


class _Tree:
    """A draft under construction."""

    def __init__(self, drafter: Stand, sampler: Sampler, index: int) -> None:
        self._drafter, self._memory, self._sampler = drafter, drafter.memory, sampler
        self._index = index
        self._sampled = sampler.params.temperature > 0
        self._distributions: dict[int, Tensor] = {}

    def grow(self, cut: Cut, recent: Context) -> Draft:
        """Fill the shape level by level; branches end at unknown contexts and at end tokens."""
        tokens = [-1] * len(cut)
        contexts: dict[int, Context] = {-1: recent}
        ends, find, level = self._sampler.end_ids, self._memory.find, [-1]
        while level:
            slots = [find(contexts[node]) for node in level]
            known = [(n, s) for n, s in zip(level, slots, strict=True) if s >= 0]
            if not known:
                break
            level = []
            drawn = self._children([n for n, _ in known], [s for _, s in known], cut)
            for (node, _), ids in zip(known, drawn, strict=True):
                for child, token in zip(cut.children[node + 1], ids, strict=False):
                    if token < 0:
                        break
                    tokens[child] = token
                    if cut.children[child + 1] and token not in ends:
                        contexts[child] = (*contexts[node], token)[-self._memory.longest :]
                        level.append(child)
            self._index += 1
        return self._finish(tokens, cut)

    def _children(self, nodes: list[int], slots: list[int], cut: Cut) -> list[list[int]]:
        """Return the possible children of each node in draw order, padded with -1."""
        ids, means = self._memory.ids(slots), self._memory.means(slots)
        if not self._sampled:
            return ids.tolist()
        with np.errstate(divide="ignore"):
            scores = np.log(means.astype(np.float64)) / self._sampler.params.temperature
        keys = self._keys([cut.codes[node + 1] for node in nodes])
        order = np.argsort(-(scores + gumbel_arrays(keys, ids)), axis=1, kind="stable")
        if self._drafter.needs.probs:
            for node, own, score in zip(nodes, ids, scores, strict=True):
                self._distributions[node] = _probs(own, score, self._memory.vocab_size)
        return np.take_along_axis(ids, order, axis=1).tolist()

    def _keys(self, codes: list[int]) -> list[int]:
        """Return the noise streams of the draws at nodes with these codes; a single one is used for
        all.
        """
        place = self._sampler.seed, self._sampler.sample, self._index
        if not self._drafter.needs.probs:
            return [stream_key(*place, Purpose.CHOICE)]
        tier = self._drafter.tier
        return [stream_key(*place, Purpose.BRANCH, tier, code) for code in codes]

    def _finish(self, tokens: list[int], cut: Cut) -> Draft:
        kept = [node for node, token in enumerate(tokens) if token >= 0]
        if not kept:
            return EMPTY_DRAFT
        parents = cut.parents.tolist()
        number = {old: new for new, old in enumerate(kept)} | {-1: -1}
        return Draft(
            tokens=as_ids([tokens[node] for node in kept]),
            parents=as_ids([number[parents[node]] for node in kept]),
            sources=(self._drafter.name,) * len(kept),
            draw=Draw.WITHOUT_REPLACEMENT,
            probs=tuple(self._distributions.get(parents[node]) for node in kept)
            if self._drafter.needs.probs
            else None,
            origin=self._drafter.name,
        )


def _probs(ids: NDArray[np.int32], scores: NDArray[np.float64], vocab_size: int) -> Tensor:
    """Return the normalised distribution over the whole vocabulary given by `scores` (-inf for
    probability zero).
    """
    probs = torch.zeros(vocab_size, dtype=torch.float64)
    known = scores > -np.inf
    weights = np.exp(scores[known] - scores[known].max())
    probs[torch.from_numpy(ids[known].astype(np.int64))] = torch.from_numpy(weights / weights.sum())
    return probs


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Stand:
    settings = dict(options)
    shape = settings.pop("shape", "")
    template = template_from(str(shape), MOST_NODES) if shape else recycling_template()
    return Stand(template=template, **settings)  # pyright: ignore[reportArgumentType]


def _priors(drafter: Stand, given: Given) -> tuple[Source, ...]:
    reach = template_reach(drafter.template, MOST_NODES)
    return (tree_source(drafter.name, reach, opportunistic=True),)


METHOD = DrafterMethod(
    name="stand",
    cls=Stand,
    summary="a tree sampled from the target's earlier distributions after the same n-gram",
    paper=Paper("STAND", "2506.04708"),
    memory="bounded; old n-grams are dropped",
    tree=True,
    more=(SHAPE,),
    make=_make,
    priors=_priors,
)
