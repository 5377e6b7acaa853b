"""Drafters that read guesses of the target behind embeddings in its own forward.

`Ppd` and `Lud` differ in what they train and in which guesses they draft; the trees, the rows of
embeddings and the reading of guesses are the same.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.counters import Counters
from outrider.core.errors import StrategyError
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, Verified, as_ids
from outrider.drafters.given import Given
from outrider.drafters.heads.ppd_plan import PromptPlan, RankPath, fastest_plan
from outrider.drafters.heads.prompt_tokens import PromptTokens
from outrider.memories.rows import best_tokens
from outrider.protocols import DrafterState, Needs, Request
from outrider.protocols.rule import NO_NEEDS

ROWS = 16
"""Rows of a plan where no costs are measured."""
NO_PLAN = PromptPlan((), (), 0.0, 0)
"""A plan that drafts nothing."""


@dataclass(slots=True)
class PromptState:
    """One request.

    Attributes:
        ends: its end tokens.
        guesses: the ranked guesses for each place after the next token.
        logits: `[guesses, vocab]` from which they are; None if no rule needs them.
        last: the last token of the text.
    """

    ends: frozenset[int]
    guesses: list[list[int]] = field(default_factory=list[list[int]])
    logits: Float[Tensor, "guesses vocab"] | None = None
    last: int = -1


@dataclass(slots=True)
class _Tree:
    """A draft under construction."""

    tokens: list[int] = field(default_factory=list[int])
    parents: list[int] = field(default_factory=list[int])
    depths: list[int] = field(default_factory=list[int])

    def add(self, token: int, parent: int) -> int:
        """Add a node and return its number."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depth_of(parent) + 1)
        return len(self.tokens) - 1

    def depth_of(self, node: int) -> int:
        """Return the number of nodes from the text to a node; 0 for the text (-1)."""
        return self.depths[node] if node >= 0 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptDrafter:
    """What `Ppd` and `Lud` share.

    Attributes:
        nodes: rows of a draft; see the subclasses.
        plan: the trees.
        needs: the fields that the rule above needs.
        name: the source its tokens are counted under.
    """

    nodes: int | None = None
    plan: PromptPlan | None = None
    needs: Needs = NO_NEEDS
    name: str = ""

    draw = Draw.DETERMINISTIC
    gives = Needs(probs=True)
    """The distribution of a deterministic choice is a point mass; no model supplies a reference."""
    learns = True

    @property
    @abstractmethod
    def trained(self) -> PromptTokens:
        """The embeddings."""

    def usable(
        self, state: PromptState, seen: Verified, logits: Tensor, best: NDArray[np.int32]
    ) -> int:
        """Return how many of the next guesses may be drafted.

        Args:
            state: the request; its text ends before the tokens of this round.
            seen: the round.
            logits: `[guesses, vocab]` of the rows of embeddings.
            best: `[guesses, ranks]` their best tokens.
        """
        return len(best)

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name only: all its drafts are counted under it."""
        return (self.name,)

    def bind(self, needs: Needs, tier: int) -> "PromptDrafter":
        """Return the same drafter, with a reference for each guess if `needs` names it.

        Raises:
            StrategyError: below a qualifier, since prompt tokens belong to the target.
        """
        if tier != 1:
            raise StrategyError(
                f"drafter {self.name} drafts for the target, and a qualifier would verify its "
                "drafts",
                hint=f"Use {self.name} without a qualifier",
            )
        return replace(self, needs=needs) if needs.reference else self

    def begin(
        self, requests: Sequence[Request], previous: Sequence[DrafterState | None] | None = None
    ) -> list[PromptState]:
        """Return states without guesses: they come from the first forward with prompt tokens."""
        return [
            PromptState(request.sampler.end_ids, last=request.prompt.token_ids[-1])
            for request in requests
        ]

    def propose(
        self,
        states: Sequence[PromptState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """Return the tree of the state of each request, with prompt tokens below its nodes."""
        return [self._draft(*parts) for parts in zip(states, tails, budgets, strict=True)]

    def observe(self, states: Sequence[PromptState], verified: Sequence[Verified]) -> None:
        """Read the guesses of the next round from the rows of prompt tokens."""
        for state, seen in zip(states, verified, strict=True):
            if seen.tier == "target":
                self._read(state, seen)

    def commit(self, states: Sequence[PromptState], tokens: Sequence[IntArray]) -> None:
        """Note the last token; guesses belong to the end of the text, which `observe` knows."""
        for state, emitted in zip(states, tokens, strict=True):
            if len(emitted):
                state.last = int(emitted[-1])

    def counters(self, state: PromptState) -> dict[str, Counters]:
        """Empty: no model is called, and the verifying tier counts the drafts."""
        return {}

    def rows_of_plan(self, nodes: int) -> int:
        """Return the rows of a plan, in which the copies of a prompt token are one row."""
        return max(nodes // self.trained.copies, 1)

    def _draft(self, state: PromptState, tail: IntArray, budget: Budget) -> Draft:
        guesses, state.guesses, logits = state.guesses, [], state.logits
        nodes = budget.nodes_of(self.name)
        if nodes < 1 or len(tail) or self.plan is None or not self.plan.rows:
            return EMPTY_DRAFT
        shape = self.plan.trees[min(len(guesses), len(self.plan.trees) - 1)]
        tree = _Tree()
        at: dict[RankPath, int] = {(): -1}
        for path in shape.paths:
            parent, token = at.get(path[:-1]), _guess(guesses, path)
            if parent is None or token < 0 or len(path) > budget.depth or len(tree.tokens) == nodes:
                continue
            if parent >= 0 and tree.tokens[parent] in state.ends:
                continue
            at[path] = tree.add(token, parent)
        drafted = len(tree.tokens)
        for path, count in zip([(), *shape.paths], shape.prompts, strict=True):
            if path in at:
                self._hang(tree, at[path], count, nodes, budget.depth)
        size = len(tree.tokens)
        return Draft(
            tokens=as_ids(tree.tokens),
            parents=as_ids(tree.parents),
            sources=(self.name,) * size,
            probe=np.arange(size) >= drafted,
            reference=None if logits is None else _references(logits, tree, drafted),
            prompts=self.trained.rows,
            origin=self.name,
        )

    def _hang(self, tree: _Tree, node: int, count: int, nodes: int, depth: int) -> None:
        """Add prompt tokens below a node: a chain for each copy, as far as the budget allows."""
        count = min(count, depth - tree.depth_of(node))
        last = [node] * self.trained.copies
        for prompt in range(count):
            if len(tree.tokens) + self.trained.copies > nodes:
                return
            for copy, parent in enumerate(last):
                last[copy] = tree.add(self.trained.row_id(prompt, copy), parent)

    def _read(self, state: PromptState, seen: Verified) -> None:
        """Read the ranked guesses below the last kept node; none where a row is unusable."""
        state.guesses, state.logits = [], None
        rows = self._rows_of_guesses(seen)
        if not rows:
            return
        logits = seen.rows.logits[torch.tensor(rows)].float().mean(dim=1)
        best: NDArray[np.int32] = best_tokens(logits.contiguous(), self.trained.rates.shape[1]).ids
        count = int(np.cumprod(best[:, 0] >= 0).sum())
        count = self.usable(state, seen, logits[:count], best[:count])
        state.guesses = best[:count].tolist()
        state.logits = logits[:count] if self.needs.reference else None

    def _rows_of_guesses(self, seen: Verified) -> list[list[int]]:
        """Return the rows of each embedding, one for each copy, below the last kept node."""
        draft, verdict = seen.draft, seen.verdict
        if verdict.error is not None or draft.prompts is None or verdict.next_token is None:
            return []
        last = [verdict.path[-1] if verdict.path else -1] * self.trained.copies
        rows: list[list[int]] = []
        for prompt in range(len(self.trained.table)):
            last = [
                _child(draft, parent, self.trained.row_id(prompt, copy))
                for copy, parent in enumerate(last)
            ]
            if min(last) < 0:
                break
            rows.append([node + 1 for node in last])
        return rows

    def fastest(self, given: Given) -> PromptPlan | None:
        """Return the plan for the measured costs; None: that of the drafter holds."""
        if self.nodes is not None or given.costs is None:
            return None
        tokens, surface = self.trained, given.costs.target
        plan = fastest_plan(
            tokens.rates.tolist(), lambda rows: surface.seconds(1 + (rows - 1) * tokens.copies)
        )
        return plan or NO_PLAN


def _references(logits: Tensor, tree: _Tree, drafted: int) -> tuple[Tensor | None, ...]:
    """Return the logits from which each guess is, None for embeddings."""
    depths = enumerate(tree.depths)
    return tuple(logits[depth - 1] if node < drafted else None for node, depth in depths)


def _guess(guesses: Sequence[Sequence[int]], path: Sequence[int]) -> int:
    """Return the token at the end of a rank path; -1 if there is none."""
    depth, rank = len(path) - 1, path[-1]
    return guesses[depth][rank] if depth < len(guesses) and rank < len(guesses[depth]) else -1


def _child(draft: Draft, parent: int, token: int) -> int:
    """Return the probe with this id below a node; -2 if there is none."""
    if parent < -1:
        return -2
    found = np.flatnonzero((draft.parents == parent) & (draft.tokens == token))
    return int(found[0]) if len(found) else -2
