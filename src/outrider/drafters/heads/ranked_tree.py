"""Static trees of heads that state how often the token of each rank is right."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.counters import Counters
from outrider.core.errors import LogitsError, OptionError
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, Verified, as_ids
from outrider.drafters.given import Given
from outrider.drafters.heads.static_tree import (
    assumed_accuracies,
    chain_tree,
    greedy_tree,
    reach_of,
)
from outrider.drafters.method import MOST_NODES
from outrider.drafters.neural.growth.next_tokens import NextTokens, Picking
from outrider.drafters.neural.model_state import ModelState, commit_states, open_states, window
from outrider.drafters.neural.reading import read_ahead, timed
from outrider.drafters.neural.tree import all_in_play, in_play
from outrider.drafters.statistics.recycling import writable
from outrider.drafters.statistics.template import Cut, Template
from outrider.drafters.statistics.tree_statistics import template_from
from outrider.models.heads.chimera.model import ChimeraModel
from outrider.models.heads.medusa.model import MedusaModel
from outrider.policies import Source
from outrider.protocols import NO_NEEDS, Needs, Request
from outrider.sampling import NOT_FINITE, Sampler
from outrider.sampling.noise import Purpose, stream_key
from outrider.sampling.warps import Support

SeveralHeads = MedusaModel | ChimeraModel
"""Models with one head for each of the next tokens."""
D = TypeVar("D", bound="RankedTree")
M = TypeVar("M", MedusaModel, ChimeraModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedTree:
    """Drafts a static tree: the token of rank r after a node stands on its child of rank r.

    Where the rule above reads no distributions, ranks are those after the noise of the target's own
    choices is added; else the most likely tokens come first, as a point mass.

    Drafting is switched off for a request for which the heads return NaN.

    Attributes:
        model: the heads.
        template: the shape of the tree, most promising nodes first; a budget cuts it at the end.
        name: the source its tokens are counted under.
    """

    model: SeveralHeads
    template: Template
    name: str
    needs: Needs = NO_NEEDS

    draw = Draw.DETERMINISTIC
    gives = Needs(probs=True)
    """The distribution of a deterministic choice is a point mass; there is no reference."""
    learns = False

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name only: all its drafts are counted under it."""
        return (self.name,)

    def bind(self: D, needs: Needs, tier: int) -> D:
        """Note whether the rule above reads distributions: tokens are then ranked without noise."""
        return replace(self, needs=needs)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[ModelState | None] | None = None
    ) -> list[ModelState]:
        """Follow the cache of the target of each request."""
        return open_states(self.model, requests, previous)

    def propose(
        self, states: Sequence[ModelState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return one tree per request, no deeper than there are heads after its tail."""
        if not any(budget.nodes_of(self.name) > 0 for budget in budgets):
            return [EMPTY_DRAFT] * len(states)
        reading = read_ahead(self.model, states, budgets)
        drafts = [self._tree(*parts) for parts in zip(states, tails, budgets, strict=True)]
        return timed(drafts, reading)

    def observe(self, states: Sequence[ModelState], verified: Sequence[Verified]) -> None:
        """Do nothing: the heads are fixed."""

    def commit(self, states: Sequence[ModelState], tokens: Sequence[IntArray]) -> None:
        """Follow the text of the target."""
        commit_states(self.model, states, tokens)

    def counters(self, state: ModelState) -> dict[str, Counters]:
        """Return how often the heads were computed, and their tokens."""
        state.counters.off = state.off
        return {self.name: state.counters}

    def _tree(self, state: ModelState, tail: IntArray, budget: Budget) -> Draft:
        nodes = budget.nodes_of(self.name)
        depth = min(budget.depth, nodes)
        if depth > 0:
            depth = min(depth, window(self.model, state, tail))
        if depth < 1:
            return EMPTY_DRAFT
        cut = self.template.cut(nodes, depth)
        tokens, parents = self._tokens(state, tail, cut), cut.parents
        if tokens is None:
            return EMPTY_DRAFT
        keep = writable(tokens, parents, state.request.sampler.end_ids)
        if keep is not None:
            number = np.append(np.cumsum(keep) - 1, -1)
            tokens, parents = tokens[keep], number[parents[keep]]
            if not len(tokens):
                return EMPTY_DRAFT
        state.counters.drafted += len(tokens)
        return Draft(
            tokens=as_ids(tokens),
            parents=as_ids(parents),
            sources=(self.name,) * len(tokens),
            origin=self.name,
        )

    @abstractmethod
    def _tokens(self, state: ModelState, tail: IntArray, cut: Cut) -> IntArray | None:
        """Return the token of each node of a tree, -1 where there is none; None after NaN."""

    def _best(
        self,
        state: ModelState,
        logits: Float[Tensor, "rows draft"],
        generated: Sequence[Sequence[int]],
        ahead: Sequence[int],
    ) -> list[IntArray] | None:
        """Return the best tokens of each row, -1 where there are no more; None after NaN.

        Args:
            state: the request.
            logits: of the draft vocabulary.
            generated: the generated tokens that the penalties of each row see.
            ahead: how many tokens lie between them and the token of each row.
        """
        if not bool((logits == logits).all()):
            state.off = f"model {self.model.info.name}: {NOT_FINITE}"
            return None
        sampler = state.request.sampler
        most = min(self.template.width, logits.shape[1])
        temperature = sampler.params.temperature
        plain = all_in_play(sampler, min(map(len, generated), default=0))
        picking = Picking.BEST if temperature == 0 or self.needs.probs else Picking.COUPLED
        if plain and picking is Picking.BEST:
            return list(self.model.ids[logits.topk(most, dim=-1).indices].numpy())
        found: list[IntArray] = []
        for row, text, more in zip(logits, generated, ahead, strict=True):
            try:
                support = self._support(sampler, row, text, plain=plain)
            except LogitsError as error:
                state.off = f"model {self.model.info.name}: {error.problem}"
                return None
            index = len(text) + more
            key = stream_key(sampler.seed, sampler.sample, index, Purpose.CHOICE)
            tokens = NextTokens.of(support, picking, key=key, most=most).tokens
            found.append(np.pad(tokens, (0, most - len(tokens)), constant_values=-1))
        return found

    def _support(
        self, sampler: Sampler, row: Tensor, generated: Sequence[int], *, plain: bool
    ) -> Support:
        """Return the tokens that one head may draft."""
        if plain:
            return Support(self.model.ids, row.double() / (sampler.params.temperature or 1.0))
        logits = torch.full((self.model.info.vocab_size,), -torch.inf)
        logits[self.model.ids] = row
        return in_play(sampler, logits, generated)


def ranked_tree(
    cls: type[D],
    model: SeveralHeads,
    nodes: int,
    shape: str = "",
    *,
    chain: bool = False,
) -> D:
    """Return the drafter of some heads.

    Args:
        cls: its class, whose default of `name` is the name of the method.
        model: the heads.
        nodes: the largest number of nodes of the tree, which is searched with the accuracies that
            the files of the heads state, else with assumed ones.
        shape: a file with a template, or with counts of nodes, in place of the search.
        chain: draft the best token of each head only.

    Raises:
        OptionError: nodes below 1 or above 64, or a file that holds no tree.
    """
    if not 1 <= nodes <= MOST_NODES:
        raise OptionError(
            f"option nodes of {cls.__name__.lower()!r} is {nodes}",
            hint=f"Give a number from 1 to {MOST_NODES}",
        )
    if chain:
        template = chain_tree(min(model.heads, nodes))
    elif shape:
        template = template_from(shape, nodes)
    else:
        template = greedy_tree(_accuracies(model), nodes)
    return cls(model=model, template=template)  # pyright: ignore[reportCallIssue]


def given_heads(given: Given, name: str, kind: type[M]) -> M:
    """Return the heads among the given models. Raises `OptionError` if there are none.

    Args:
        given: the inputs for building drafters.
        name: name of the drafter and of its kind of heads.
        kind: the class of the model.
    """
    model = given.below[-1] if given.below else None
    if not isinstance(model, kind):
        found = "no draft model is given" if model is None else f"{model.info.name} is not one"
        raise OptionError(
            f"drafter {name!r} needs heads of kind {name}, and {found}",
            hint="Give draft=FOLDER with such heads; see docs/heads.md",
        )
    return model


def ranked_priors(drafter: RankedTree, given: Given, draft: float) -> tuple[Source, ...]:
    """Return the expected results of the tree before the first measurement.

    Args:
        drafter: the drafter.
        given: the inputs for building drafters.
        draft: seconds of a whole draft.
    """
    return (
        Source(
            name=drafter.name,
            reach=reach_of(drafter.template, _accuracies(drafter.model)),
            longest=len(drafter.template),
            depth=drafter.template.depth,
            fixed=draft + given.measured.overhead,
        ),
    )


def _accuracies(model: SeveralHeads) -> np.ndarray:
    known = model.accuracies
    return assumed_accuracies(model.heads) if known is None else known
