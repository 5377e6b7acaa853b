"""Token Recycling: a tree of the tokens that the target last ranked highest after each token.

Luo et al., "Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token
Recycling" (arXiv 2408.08696). For every token, an adjacency matrix stores the k best successors in
the newest row that the target computed for it, including rejected rows. A draft follows this matrix
along a fixed tree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.types import (
    EMPTY_DRAFT,
    BoolArray,
    Budget,
    Draft,
    Draw,
    IntArray,
    Verified,
    as_ids,
)
from outrider.drafters.given import Given
from outrider.drafters.method import MOST_NODES, DrafterMethod, tree_source
from outrider.drafters.statistics.new_prompt_parts import unread
from outrider.drafters.statistics.template import Template, recycling_template, template_reach
from outrider.drafters.statistics.tree_statistics import SHAPE, template_from
from outrider.memories.adjacency import Adjacency
from outrider.policies import Source
from outrider.protocols import Drafter, Needs, Request
from outrider.protocols.method import Paper, Value


@dataclass(slots=True)
class RecyclingState:
    """One request: its end ids, the prompt that the memory has read, the last token of its text."""

    ends: frozenset[int]
    prompt: tuple[int, ...]
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecycling:
    """Drafts trees from an adjacency matrix that every verified row of the target updates.

    The published code starts with a matrix of zeros and ignores the prompt. Here an unknown token
    has no children, and `begin` learns the token pairs of the prompt. Committed text adds nothing,
    because its rows were already learned. If one token is on several nodes, rows of accepted nodes
    have priority, and among the others the last in the order of the draft.

    Attributes:
        template: the shape, with nodes from most to least promising; a budget cuts it at the end.
        memory: the matrix, shared by all requests of this drafter and kept between them.
        warm: learn the pairs of each prompt.
        most_rows: rows of one verification that are learned; None, as published, learns all. If
            another drafter copies long passages, later rows add little information.
        name: the source its tokens are counted under.

    Raises:
        OptionError: the template needs more children than the memory stores.
    """

    template: Template = field(default_factory=recycling_template)
    memory: Adjacency = field(default_factory=Adjacency)
    warm: bool = True
    most_rows: int | None = None
    name: str = "recycling"

    draw = Draw.DETERMINISTIC
    gives = Needs(probs=True)
    """The distribution of a deterministic choice is a point mass; no model supplies a reference."""
    learns = True

    def __post_init__(self) -> None:
        if self.template.width > self.memory.k:
            raise OptionError(
                f"the template has up to {self.template.width} children per node, but the memory "
                f"stores {self.memory.k}",
                hint="Give a memory with a larger k, or a narrower template",
            )

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name only: all its drafts are counted under it."""
        return (self.name,)

    def bind(self, needs: Needs, tier: int) -> "TokenRecycling":
        """Return the drafter unchanged: distributions are point masses; references are not
        available."""
        return self

    def begin(
        self, requests: Sequence[Request], previous: Sequence[RecyclingState | None] | None = None
    ) -> list[RecyclingState]:
        """Learn each prompt; the part that `previous` shares with it is not read again."""
        if self.warm:
            old = previous or [None] * len(requests)
            known = [s.prompt if isinstance(s, RecyclingState) else () for s in old]
            for part in unread(requests, known, overlap=1):
                self.memory.learn_text(as_ids(part))
        return [_begin(request) for request in requests]

    def propose(
        self,
        states: Sequence[RecyclingState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """Return one tree per request; it is empty if the last token is unknown."""
        return [self._draft(*parts) for parts in zip(states, tails, budgets, strict=True)]

    def observe(self, states: Sequence[RecyclingState], verified: Sequence[Verified]) -> None:
        """Learn the rows of the target, including rows of rejected nodes."""
        for state, seen in zip(states, verified, strict=True):
            if seen.tier == "target" and seen.verdict.error is None:
                self._learn(state, seen)

    def commit(self, states: Sequence[RecyclingState], tokens: Sequence[IntArray]) -> None:
        """Store the last token."""
        for state, emitted in zip(states, tokens, strict=True):
            if len(emitted):
                state.last = int(emitted[-1])

    def counters(self, state: RecyclingState) -> dict[str, Counters]:
        """Empty: no model is called, and the verifying tier counts the drafts."""
        return {}

    def _draft(self, state: RecyclingState, tail: IntArray, budget: Budget) -> Draft:
        nodes = budget.nodes_of(self.name)
        last = int(tail[-1]) if len(tail) else state.last
        memory = self.memory
        if nodes < 1:
            return EMPTY_DRAFT
        memory.settle()
        if not 0 <= last < memory.vocab_size:
            return EMPTY_DRAFT
        cut, flat, k = self.template.cut(nodes, budget.depth), memory.flat, memory.k
        found = np.empty(len(cut) + 1, dtype=np.int64)
        found[0] = last
        for at, above, ranks in cut.gathers:  # -1 selects the row of unknown tokens
            found[at] = flat.take(found.take(above) * k + ranks)
        tokens, parents = found[1:], cut.parents
        keep = writable(tokens, parents, state.ends)
        if keep is not None:
            number = np.append(np.cumsum(keep) - 1, -1)
            tokens, parents = tokens[keep], number[parents[keep]]
            if not len(tokens):
                return EMPTY_DRAFT
        return Draft(
            tokens=tokens,
            parents=parents,
            sources=(self.name,) * len(tokens),
            origin=self.name,
        )

    def _learn(self, state: RecyclingState, seen: Verified) -> None:
        """Learn the rows of one verification, the first `most_rows` of them."""
        tail = seen.tail
        last = int(tail[-1]) if len(tail) else state.last
        if not len(seen.draft):
            self.memory.learn_later(last, seen.rows.logits)
            return
        tokens, logits = np.append(last, seen.draft.tokens), seen.rows.logits
        accepted = [0, *(node + 1 for node in seen.verdict.path)]
        if self.most_rows is not None and len(tokens) > self.most_rows:
            tokens, logits = tokens[: self.most_rows], logits[: self.most_rows]
            accepted = [row for row in accepted if row < self.most_rows]
        self.memory.learn(tokens, logits, accepted)


def _begin(request: Request) -> RecyclingState:
    prompt = request.prompt.token_ids
    return RecyclingState(request.sampler.end_ids, prompt, prompt[-1])


def writable(tokens: IntArray, parents: IntArray, ends: frozenset[int]) -> BoolArray | None:
    """Return a mask of the nodes that are known and do not follow an end token; None: all of
    them.
    """
    if tokens.min() >= 0 and ends.isdisjoint(tokens.tolist()):
        return None
    keep = tokens >= 0
    ended = np.isin(tokens, list(ends))
    for node, parent in enumerate(parents.tolist()):
        if parent >= 0 and (ended[parent] or not keep[parent]):
            keep[node] = False
    return keep


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> TokenRecycling:
    settings = dict(options)
    shape = settings.pop("shape", "")
    template = template_from(str(shape), MOST_NODES) if shape else recycling_template()
    return TokenRecycling(template=template, **settings)  # pyright: ignore[reportArgumentType]


def _priors(drafter: TokenRecycling, given: Given) -> tuple[Source, ...]:
    return (tree_source(drafter.name, template_reach(drafter.template, MOST_NODES)),)


METHOD = DrafterMethod(
    name="recycling",
    cls=TokenRecycling,
    summary="a tree of the tokens that the target ranked highest after each token before",
    paper=Paper("Token Recycling", "2408.08696"),
    memory="32V",
    tree=True,
    more=(SHAPE,),
    make=_make,
    priors=_priors,
)
