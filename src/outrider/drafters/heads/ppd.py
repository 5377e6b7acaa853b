"""Parallel prompt decoding: trained embeddings after the text make the target guess further tokens.

Chen et al., "Hardware-Aware Parallel Prompt Decoding for Memory-Efficient Acceleration of LLM
Inference" (arXiv 2405.18628).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from outrider.core.checks import Range, check_ranges
from outrider.core.counters import Counters
from outrider.core.errors import StrategyError
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, Verified, as_ids
from outrider.drafters.given import Given
from outrider.drafters.heads.ppd_plan import PromptPlan, RankPath, best_plan, fastest_plan
from outrider.drafters.heads.prompt_tokens import PromptTokens
from outrider.drafters.method import DrafterMethod
from outrider.memories.rows import best_tokens
from outrider.policies import FixedTree
from outrider.protocols import Drafter, DrafterState, Needs, Request
from outrider.protocols.method import Paper, Value

_ROWS = 16
"""Rows of a plan where no costs are measured."""
_RANGES: Mapping[str, Range] = {
    "nodes": Range(1, 512, whole=True, optional=True, hint="Give 1 to 512 nodes")
}


@dataclass(slots=True)
class PpdState:
    """One request: the ranked guesses for each place after the next token."""

    ends: frozenset[int]
    guesses: list[list[int]] = field(default_factory=list[list[int]])


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
class Ppd:
    """Drafts what the target itself guesses behind trained prompt tokens.

    A draft is a tree of guesses. Prompt tokens, which are embeddings and no text, hang below some
    of its nodes as probes: the target reads them in the forward that verifies the tree. The rows
    of those below the last kept node are the guesses of the next round, for the tokens after its
    first one. No row of a token reads a prompt token, and none is ever committed, so the rows of
    tokens are those of the target alone. The first draft of a request has prompt tokens only.

    Attributes:
        prompts: the folder that `outrider train ppd` has written, or the prompt tokens.
        nodes: rows of a draft, prompt tokens included; None: what is fastest with the measured
            costs of the target, which may be no draft, and 16 where nothing is measured.
        plan: the trees; None: planned for `nodes`.
        name: the source its tokens are counted under.

    Raises:
        CheckpointError: the files of the prompt tokens are missing or damaged.
        OptionError: a number outside its range.
    """

    prompts: PromptTokens | str | Path
    nodes: int | None = None
    plan: PromptPlan | None = None
    name: str = "ppd"

    draw = Draw.DETERMINISTIC
    gives = Needs(probs=True)
    """The distribution of a deterministic choice is a point mass; no model supplies a reference."""
    learns = True

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if not isinstance(self.prompts, PromptTokens):
            object.__setattr__(self, "prompts", PromptTokens.read(self.prompts))
        if self.plan is None:
            plan = best_plan(self.trained.rates.tolist(), self._share(self.nodes or _ROWS))
            object.__setattr__(self, "plan", plan)

    @property
    def trained(self) -> PromptTokens:
        """The prompt tokens, also if the option is a folder."""
        assert isinstance(self.prompts, PromptTokens)
        return self.prompts

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name only: all its drafts are counted under it."""
        return (self.name,)

    def bind(self, needs: Needs, tier: int) -> "Ppd":
        """Return the drafter itself.

        Raises:
            StrategyError: below a qualifier, since prompt tokens belong to the target.
        """
        if tier != 1:
            raise StrategyError(
                "drafter ppd drafts for the target, and a qualifier would verify its drafts",
                hint="Use ppd without a qualifier",
            )
        return self

    def begin(
        self, requests: Sequence[Request], previous: Sequence[DrafterState | None] | None = None
    ) -> list[PpdState]:
        """Return states without guesses: they come from the first forward with prompt tokens."""
        return [PpdState(request.sampler.end_ids) for request in requests]

    def propose(
        self,
        states: Sequence[PpdState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """Return the tree of the state of each request, with prompt tokens below its nodes."""
        return [self._draft(*parts) for parts in zip(states, tails, budgets, strict=True)]

    def observe(self, states: Sequence[PpdState], verified: Sequence[Verified]) -> None:
        """Read the guesses of the next round from the rows of prompt tokens."""
        for state, seen in zip(states, verified, strict=True):
            if seen.tier == "target":
                state.guesses = self._read(seen)

    def commit(self, states: Sequence[PpdState], tokens: Sequence[IntArray]) -> None:
        """Nothing to do: guesses belong to the end of the text, which `observe` knows."""

    def counters(self, state: PpdState) -> dict[str, Counters]:
        """Empty: no model is called, and the verifying tier counts the drafts."""
        return {}

    def _share(self, nodes: int) -> int:
        """Return the rows of a plan, in which the copies of a prompt token are one row."""
        return max(nodes // self.trained.copies, 1)

    def _draft(self, state: PpdState, tail: IntArray, budget: Budget) -> Draft:
        guesses, state.guesses = state.guesses, []
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

    def _read(self, seen: Verified) -> list[list[int]]:
        """Return the ranked guesses below the last kept node; none where a row is unusable."""
        draft, verdict = seen.draft, seen.verdict
        if verdict.error is not None or draft.prompts is None or verdict.next_token is None:
            return []
        ranks = self.trained.rates.shape[1]
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
        if not rows:
            return []
        logits = seen.rows.logits[torch.tensor(rows)].float().mean(dim=1)
        best: NDArray[np.int32] = best_tokens(logits.contiguous(), ranks).ids
        usable = int(np.cumprod(best[:, 0] >= 0).sum())
        return best[:usable].tolist()


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


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Ppd:
    found = Ppd(**options)  # pyright: ignore[reportArgumentType]
    found.trained.check_target(given.target)
    if found.nodes is not None or given.costs is None:
        return found
    tokens, surface = found.trained, given.costs.target
    plan = fastest_plan(
        tokens.rates.tolist(), lambda rows: surface.seconds(1 + (rows - 1) * tokens.copies)
    )
    none = PromptPlan((), (), 0.0, 0)
    return Ppd(prompts=tokens, plan=plan or none, name=found.name)


METHOD = DrafterMethod(
    name="ppd",
    cls=Ppd,
    summary="guesses of the target itself, read behind trained prompt tokens in the same forward",
    paper=Paper("Parallel prompt decoding", "2405.18628"),
    needs="prompt tokens of the target, from `outrider train ppd`",
    memory="a few embeddings",
    make=_make,
    tree=True,
    # Prompt tokens must be verified every round, so the size is that of the plan.
    policy=FixedTree(depth=8, nodes=64),
)
