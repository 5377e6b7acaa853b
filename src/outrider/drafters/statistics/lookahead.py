"""Lookahead decoding: guesses for several future positions, refined while the target verifies.

Fu et al., "Break the Sequential Dependency of LLM Inference Using Lookahead Decoding" (arXiv
2402.02057). A window of guesses is verified together with each draft (Jacobi iteration). The
n-grams in its columns go to a pool. Drafts are pooled n-grams that begin with the last token of the
text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, Verified, as_ids
from outrider.drafters.method import DrafterMethod
from outrider.drafters.statistics.lookahead_window import Window
from outrider.drafters.statistics.new_prompt_parts import unread
from outrider.memories.pool import Ngram, NgramPool
from outrider.memories.rows import best_tokens
from outrider.policies import FixedTree
from outrider.protocols import Needs, Request
from outrider.protocols.method import Paper


@dataclass(slots=True)
class LookaheadState:
    """One request: its end ids, the prompt that the pool has read, the last tokens of its text, and
    its window of guesses."""

    ends: frozenset[int]
    prompt: tuple[int, ...]
    recent: list[int]
    window: Window


@dataclass(slots=True)
class _Nodes:
    """A draft under construction."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    def add(self, token: int, parent: int) -> int:
        """Add a node and return its number."""
        self.tokens.append(token)
        self.parents.append(parent)
        return len(self.tokens) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookahead:
    """Drafts pooled n-grams, and verifies a window of guesses beside them.

    The window is a tree of probes: guess i of the first row is a child of guess i - 1, the first
    one is a child of the text, and the guess in row r of a column is a child of the one in row r -
    1. Draft and window therefore do not attend to each other. The target's choices after the last
    row form the next row. Drafts have priority: with a small budget the window has fewer columns,
    and with a budget too shallow for the rows there is no window. There is also none below a
    qualifier, since only rows of the target are learned; the pool is then filled from the text
    alone.

    Attributes:
        ngram: length of the n-grams, first token included (N); the window has N - 1 rows.
        window: number of columns (W); with 0, only pooled n-grams are drafted.
        memory: the pool, at most G n-grams for each first token; shared by all requests of this
            drafter and kept between them.
        text: the n-grams of prompt and output also go to the pool.
        seed: of the initial guesses of a window, which are copied from the prompt.
        name: the source its tokens are counted under.

    Raises:
        OptionError: n-grams of fewer than 2 tokens, or a window of fewer than 0 columns.
    """

    ngram: int = 5
    window: int = 7
    memory: NgramPool = field(default_factory=NgramPool)
    text: bool = True
    seed: int = 0
    name: str = "lookahead"
    tier: int = 1

    draw = Draw.DETERMINISTIC
    gives = Needs(probs=True)
    """The distribution of a deterministic choice is a point mass; no model supplies a reference."""
    learns = True

    def __post_init__(self) -> None:
        if self.ngram < 2 or self.window < 0:
            raise OptionError(
                f"ngram is {self.ngram} and window {self.window}",
                hint="Give an ngram of at least 2 and a window of at least 0",
            )

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name only: all its drafts are counted under it."""
        return (self.name,)

    def bind(self, needs: Needs, tier: int) -> "Lookahead":
        """Store the tier, because there is no window below a qualifier."""
        return replace(self, tier=tier)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[LookaheadState | None] | None = None
    ) -> list[LookaheadState]:
        """Add each prompt's n-grams to the pool, without the part that `previous` already contains,
        and fill each window with tokens of the prompt."""
        if self.text:
            old = previous or [None] * len(requests)
            known = [s.prompt if isinstance(s, LookaheadState) else () for s in old]
            for part in unread(requests, known, overlap=self.ngram - 1):
                self.memory.add_text(part, self.ngram)
        return [self._begin(request) for request in requests]

    def propose(
        self,
        states: Sequence[LookaheadState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """Return the pooled n-grams after the last token, followed by the window."""
        return [self._draft(*parts) for parts in zip(states, tails, budgets, strict=True)]

    def observe(self, states: Sequence[LookaheadState], verified: Sequence[Verified]) -> None:
        """Read the next row of each window, and add the n-grams of its columns to the pool."""
        for state, seen in zip(states, verified, strict=True):
            if seen.tier == "target" and seen.verdict.error is None and state.window.shown:
                self._learn(state, seen)

    def commit(self, states: Sequence[LookaheadState], tokens: Sequence[IntArray]) -> None:
        """Add the n-grams of the committed text to the pool, and shift each window."""
        for state, emitted in zip(states, tokens, strict=True):
            state.recent = [*state.recent[1 - self.ngram :], *emitted.tolist()]
            if self.text:
                self.memory.add_text(state.recent, self.ngram)
            state.window.move(len(emitted))

    def counters(self, state: LookaheadState) -> dict[str, Counters]:
        """Empty: no model is called, and the verifying tier counts the drafts."""
        return {}

    def _begin(self, request: Request) -> LookaheadState:
        prompt = request.prompt.token_ids
        columns = self.window if self.tier == 1 else 0
        window = Window(self.ngram - 1, columns, prompt, Random(self.seed))
        recent = list(prompt[1 - self.ngram :])
        return LookaheadState(request.sampler.end_ids, prompt, recent, window)

    def _draft(self, state: LookaheadState, tail: IntArray, budget: Budget) -> Draft:
        nodes, last = budget.nodes_of(self.name), int(tail[-1]) if len(tail) else state.recent[-1]
        state.window.shown = 0
        if nodes < 1:
            return EMPTY_DRAFT
        columns = 0 if len(tail) else state.window.columns_within(budget.depth, nodes)
        tree = _Nodes()
        room = max(nodes // 2, min(nodes, self.ngram - 1)) if columns else nodes
        self._hang_ngrams(tree, last, state.ends, room, budget.depth)
        drafted = len(tree.tokens)
        columns = min(columns, state.window.columns_within(budget.depth, nodes - drafted))
        state.window.shown = columns
        _hang_window(tree, state.window, columns)
        size = len(tree.tokens)
        if not size:
            return EMPTY_DRAFT
        return Draft(
            tokens=as_ids(tree.tokens),
            parents=as_ids(tree.parents),
            sources=(self.name,) * size,
            probe=np.arange(size) >= drafted if size > drafted else None,
            origin=self.name,
        )

    def _hang_ngrams(
        self, tree: _Nodes, last: int, ends: frozenset[int], room: int, depth: int
    ) -> None:
        """Add the pooled n-grams after `last`, newest first; shared prefixes are drafted once."""
        known: dict[Ngram, int] = {(): -1}
        for ngram in self.memory.after(last):
            for size in range(1, min(len(ngram), depth) + 1):
                if ngram[:size] not in known:
                    if len(tree.tokens) >= room:
                        return
                    known[ngram[:size]] = tree.add(ngram[size - 1], known[ngram[: size - 1]])
                if ngram[size - 1] in ends:
                    break

    def _learn(self, state: LookaheadState, seen: Verified) -> None:
        window = state.window
        nodes = _last_row(seen.draft, window)
        if not nodes:
            return
        written = best_tokens(seen.rows.logits[[node + 1 for node in nodes]], 1).ids[:, 0].tolist()
        if -1 in written:
            written = written[: written.index(-1)]
        full = window.full
        window.take(written)
        if full:
            for column, token in enumerate(written):
                first = window.rows[0][column] if column else state.recent[-1]
                self.memory.add(first, (*(row[column] for row in window.rows[1:]), token))


def _hang_window(tree: _Nodes, window: Window, columns: int) -> None:
    above = -1
    for column in range(columns):
        if column:
            above = tree.add(window.rows[0][column], above)
        node = above
        for row in window.rows[1:]:
            node = tree.add(row[column], node)


def _last_row(draft: Draft, window: Window) -> list[int]:
    """Return the nodes in the window's last row, by column, as far as they were verified.

    They are found by the tokens on their path, because merging or cutting drafts renumbers nodes;
    nodes with equal paths are interchangeable. -1 is the text itself, the first column of a window
    of one row.
    """
    known: dict[tuple[int, int], int] = {}
    same = {-1: -1}
    for node in np.flatnonzero(draft.probe).tolist() if draft.probe is not None else ():
        parent = same.get(int(draft.parents[node]))
        if parent is not None:
            same[node] = known.setdefault((parent, int(draft.tokens[node])), node)
    found: list[int] = []
    above: int | None = -1
    for column in range(window.shown):
        if column and above is not None:
            above = known.get((above, window.rows[0][column]))
        node = above
        for row in window.rows[1:]:
            node = None if node is None else known.get((node, row[column]))
        if node is None:
            break
        found.append(node)
    return found


METHOD = DrafterMethod(
    name="lookahead",
    cls=Lookahead,
    summary="n-grams that the target computes ahead in a window of the same forward",
    paper=Paper("Lookahead decoding", "2402.02057"),
    memory="bounded: a few n-grams a token",
    tree=True,
    defaults={"ngram": 4, "window": 4},
    # The window must be verified every round, so its size is fixed.
    policy=FixedTree(depth=8, nodes=24),
)
