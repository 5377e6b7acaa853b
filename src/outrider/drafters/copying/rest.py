"""REST: propose the most frequent continuations of the end of the text in a corpus.

He et al., arXiv 2311.08252. The suffix array of the corpus is searched for the longest suffix of
the text that occurs in the corpus. The continuations of its occurrences are counted as a tree, and
the most frequent nodes are proposed. The corpus is built once (`outrider datastore build`),
memory-mapped and shared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.core.errors import OptionError
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, IntArray, as_ids
from outrider.drafters.copying.copies import Copier, check_levels, level, origin_of
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod, by_match
from outrider.memories.corpus import SORTED_DEPTH, Corpus
from outrider.memories.frequent import grow_tree
from outrider.memories.store import SEPARATOR
from outrider.policies import Source
from outrider.protocols import Drafter, Request
from outrider.protocols.method import Paper, Value

LEVELS = (2, 3, 5, 9)
"""Match lengths at which the confidence in a draft rises."""

_FEW = 24
"""Up to this number of rows, rows are compared one by one; more are compared as an array."""

Rows = tuple[int, int, int]
"""Continuations with a common prefix: the first row, the row after the last, and the prefix
length."""


@dataclass(slots=True)
class RestState:
    """The last tokens of one text."""

    ends: frozenset[int]
    recent: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest(Copier[RestState]):
    """Proposes the most frequent continuations of the end of the text in a corpus, as a tree.

    Attributes:
        corpus: the datastore; `Corpus.open` raises an error for another tokenizer.
        longest: longest suffix looked up; 16 in the published code.
        shortest: shortest suffix looked up.
        hits: largest number of occurrences read, evenly spaced over all; 5000 in the published
            code.
        following: number of tokens read at each occurrence.
        nodes: largest number of nodes of a draft.
        levels: shortest matches of each origin (`rest3` for 3 and 4, ...).
        name: the source its tokens are counted under.

    Raises:
        OptionError: lengths that are not 1 <= shortest <= longest, more tokens than the corpus is
            sorted by, a number below 1, or levels that are not ascending.
    """

    corpus: Corpus
    longest: int = 16
    shortest: int = 2
    hits: int = 512
    following: int = 10
    nodes: int = 64
    levels: tuple[int, ...] = LEVELS
    name: str = "rest"

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise OptionError(
                f"shortest is {self.shortest} and longest {self.longest}",
                hint="Give 1 <= shortest <= longest",
            )
        if self.longest + self.following > SORTED_DEPTH:
            raise OptionError(
                f"longest is {self.longest} and following {self.following}",
                hint=f"Give at most {SORTED_DEPTH} in total: a corpus is sorted by so many tokens",
            )
        if min(self.hits, self.following, self.nodes) < 1:
            raise OptionError(
                f"hits is {self.hits}, following {self.following}, nodes {self.nodes}",
                hint="Give at least 1 for each",
            )
        check_levels(self.levels)

    @property
    def origins(self) -> tuple[str, ...]:
        """One origin per level of match length."""
        return tuple(self.origins_by_match.values())

    @property
    def origins_by_match(self) -> dict[int, str]:
        """Maps the shortest match length of each level to the origin of the draft, longest
        first."""
        return {n: origin_of(self.name, n) for n in reversed(self.levels)}

    def _begin(self, request: Request, old: RestState | None) -> RestState:
        recent = list(request.prompt.token_ids[-self.longest :])
        return RestState(request.sampler.end_ids, recent)

    def _draft(self, state: RestState, tail: IntArray, budget: Budget) -> Draft:
        recent = [*state.recent, *tail.tolist()] if len(tail) else state.recent
        match = self.corpus.longest(recent, most=self.longest, least=self.shortest)
        if match is None:
            return EMPTY_DRAFT
        origin = origin_of(self.name, level(match.length, self.levels) or self.levels[0])
        nodes = min(budget.nodes_of(origin), budget.nodes, self.nodes)
        depth = min(budget.depth, self.following)
        if nodes < 1:
            return EMPTY_DRAFT
        found = self.corpus.continuations(match, most=self.hits, size=depth)
        grown = grow_tree(
            (0, len(found), 0),
            len(found),
            followers(found),
            nodes=nodes,
            depth=depth,
            ends=state.ends,
        )
        if not grown.tokens:  # the documents end at all occurrences
            return EMPTY_DRAFT
        return Draft(
            tokens=as_ids(grown.tokens),
            parents=as_ids(grown.parents),
            sources=(self.name,) * len(grown.tokens),
            origin=origin,
            match=match.length,
            score=grown.score,
        )

    def _commit(self, state: RestState, tokens: list[int]) -> None:
        state.recent = [*state.recent, *tokens][-self.longest :]


def followers(
    continuations: NDArray[np.int32],
) -> Callable[[Rows], list[tuple[int, int, Rows]]]:
    """Return a function that counts the tokens that follow rows of `continuations` with a common
    prefix.

    The rows, `[places, size]`, are sorted, so rows with a common prefix are adjacent.
    """
    cells: Any = memoryview(np.ascontiguousarray(continuations))  # pyright: ignore[reportArgumentType]

    def bounds(begin: int, end: int, column: int) -> list[int]:
        """Return the row indices at which the token in `column` changes, including `end`."""
        if end - begin > _FEW:
            tokens = continuations[begin:end, column]
            return [*(np.flatnonzero(tokens[1:] != tokens[:-1]) + begin + 1).tolist(), end]
        row = range(begin + 1, end)
        return [*(i for i in row if cells[i, column] != cells[i - 1, column]), end]

    def children(rows: Rows) -> list[tuple[int, int, Rows]]:
        begin, end, column = rows
        found: list[tuple[int, int, Rows]] = []
        for stop in bounds(begin, end, column):
            token = cells[begin, column]
            if token != SEPARATOR:
                found.append((token, stop - begin, (begin, stop, column + 1)))
            begin = stop
        return found

    return children


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Rest:
    return Rest(corpus=given.datastore, **options)  # pyright: ignore[reportArgumentType]


def _priors(drafter: Rest, given: Given) -> tuple[Source, ...]:
    return by_match(drafter.origins_by_match, tree=True)


METHOD = DrafterMethod(
    name="rest",
    cls=Rest,
    summary="continuations retrieved from a corpus",
    paper=Paper("REST", "2311.08252"),
    needs="a datastore (`outrider datastore build`)",
    memory="8 bytes a token of the corpus, on disk",
    tree=True,
    make=_make,
    priors=_priors,
    store=Corpus,
    needs_store=True,
)
