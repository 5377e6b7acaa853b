"""ADED: a table of trigrams that adapts to the text, and a tree search that selects the draft.

Liu et al., "Adaptive Draft-Verification for Efficient Large Language Model Decoding" (arXiv
2407.12021), with the constants of the published code.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, Verified, as_ids
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod, even_reach, tree_source
from outrider.drafters.statistics.new_prompt_parts import unread
from outrider.drafters.statistics.puct import Puct, PuctNode
from outrider.memories.trigrams import Trigrams
from outrider.policies import Source
from outrider.protocols import Needs, Request
from outrider.protocols.method import Paper

_WINDOW = 16
"""Number of tokens at the end of the text whose trigrams gain weight in every round."""


@dataclass(slots=True)
class AdedState:
    """One request: its end ids, the prompt that the memory has read, the last tokens of its text,
    and the number of generated tokens."""

    ends: frozenset[int]
    prompt: tuple[int, ...]
    recent: list[int]
    written: int = 0


@dataclass(slots=True)
class _Leaf:
    """A node of a draft under construction; `worth` never increases from parent to child."""

    path: tuple[int, ...]
    worth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Aded:
    """Drafts trees found by PUCT search in a table of trigrams.

    `commit` adapts the table: each trigram of the last 16 tokens gains a little weight, several
    times while it passes through that window. Rejected tokens are not learned. The random
    continuations of the search come from a generator seeded by `seed`, the position in the text and
    its last two tokens, so equal tables give equal drafts. The cost of the search is limited by
    `search.iterations` (150 take about 1 ms), and by `search.max_seconds` as a last resort, which
    makes drafts depend on the clock.

    Attributes:
        memory: the table, shared by all requests of this drafter and kept between them.
        search: iterations, depth, exploration and time limit.
        paths: number of most visited paths that are drafted.
        nodes: largest number of nodes drafted.
        warm: learn the trigrams of each prompt, each occurrence once.
        seed: of the search.
        name: the source its tokens are counted under.

    Raises:
        OptionError: a search of no iterations, no depth or no nodes.
    """

    memory: Trigrams = field(default_factory=Trigrams)
    search: Puct = field(default_factory=lambda: Puct(max_seconds=0.05))
    paths: int = 24
    nodes: int = 64
    warm: bool = True
    seed: int = 0
    name: str = "aded"

    draw = Draw.DETERMINISTIC
    gives = Needs(probs=True)
    """The distribution of a deterministic choice is a point mass; no model supplies a reference."""
    learns = False

    def __post_init__(self) -> None:
        if min(self.search.iterations, self.search.depth, self.paths, self.nodes) < 1:
            raise OptionError(
                f"the search has {self.search.iterations} iterations, depth {self.search.depth}, "
                f"{self.paths} paths and {self.nodes} nodes",
                hint="Give at least 1 of each",
            )

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name only: all its drafts are counted under it."""
        return (self.name,)

    def bind(self, needs: Needs, tier: int) -> "Aded":
        """Return the drafter unchanged: distributions are point masses; references are not
        available."""
        return self

    def begin(
        self, requests: Sequence[Request], previous: Sequence[AdedState | None] | None = None
    ) -> list[AdedState]:
        """Learn each prompt; the part that `previous` shares with it is not read again."""
        if self.warm:
            old = previous or [None] * len(requests)
            known = [s.prompt if isinstance(s, AdedState) else () for s in old]
            for part in unread(requests, known, overlap=2):
                self.memory.bump(part)
        return [_begin(request) for request in requests]

    def propose(
        self, states: Sequence[AdedState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return one tree per request; it is empty if the table does not contain the last two
        tokens."""
        return [self._draft(*parts) for parts in zip(states, tails, budgets, strict=True)]

    def observe(self, states: Sequence[AdedState], verified: Sequence[Verified]) -> None:
        """Do nothing: rejected tokens are not part of the text."""

    def commit(self, states: Sequence[AdedState], tokens: Sequence[IntArray]) -> None:
        """Increase the weights of the committed text and of the text directly before it."""
        for state, emitted in zip(states, tokens, strict=True):
            state.recent = [*state.recent, *emitted.tolist()]
            fresh = max(_WINDOW, len(emitted) + 2)  # includes every trigram of a long run
            self.memory.bump(state.recent[-fresh:])
            state.recent = state.recent[-_WINDOW:]
            state.written += len(emitted)

    def counters(self, state: AdedState) -> dict[str, Counters]:
        """Empty: no model is called, and the verifying tier counts the drafts."""
        return {}

    def _draft(self, state: AdedState, tail: IntArray, budget: Budget) -> Draft:
        nodes = min(budget.nodes_of(self.name), self.nodes)
        if nodes < 1:
            return EMPTY_DRAFT
        text = [*state.recent, *tail.tolist()][-2:]
        if len(text) < 2 or not self.memory.after(*text):
            return EMPTY_DRAFT
        walk = _Walk(self, tuple(text), state.ends, state.written + len(tail), budget.depth)
        return self._tree(walk.leaves(), nodes)

    def _tree(self, leaves: list[_Leaf], nodes: int) -> Draft:
        leaves.sort(key=lambda leaf: (-leaf.worth, len(leaf.path)))
        number: dict[tuple[int, ...], int] = {(): -1}
        for leaf in leaves[:nodes]:
            number[leaf.path] = len(number) - 1
        del number[()]
        return Draft(
            tokens=as_ids([path[-1] for path in number]),
            parents=as_ids([number.get(path[:-1], -1) for path in number]),
            sources=(self.name,) * len(number),
            origin=self.name,
        )


def _begin(request: Request) -> AdedState:
    prompt = request.prompt.token_ids
    return AdedState(request.sampler.end_ids, prompt, list(prompt[-_WINDOW:]))


class _Walk:
    """One search: the table applied to one position in a text."""

    def __init__(
        self, drafter: Aded, key: tuple[int, ...], ends: frozenset[int], place: int, depth: int
    ) -> None:
        self._drafter, self._memory = drafter, drafter.memory
        self._key, self._ends, self._deepest = key, ends, depth
        self._limit = min(drafter.search.depth, depth)
        self._random = Random(hash((drafter.seed, place, *key)))

    def leaves(self) -> list[_Leaf]:
        """Return the most visited nodes, each with its best successor, which may be one level
        deeper.
        """
        search, drafter = self._drafter.search, self._drafter
        if self._limit < search.depth:
            search = Puct(
                iterations=search.iterations,
                depth=self._limit,
                base=search.base,
                growth=search.growth,
                max_seconds=search.max_seconds,
            )
        visited = list(_visited(search.search(self._expand, self._reward), ()))
        visited.sort(key=lambda leaf: (-leaf.worth, len(leaf.path)))
        kept = {leaf.path: leaf for leaf in visited[: drafter.paths]}
        for leaf in list(kept.values()):
            known = self._after(leaf.path)
            if known and len(leaf.path) < self._deepest:
                best = max(known, key=known.__getitem__)
                share = known[best] / sum(known.values())
                path = (*leaf.path, best)
                kept.setdefault(path, _Leaf(path, leaf.worth * min(share, 1.0)))
        return list(kept.values())

    def _after(self, path: Sequence[int]) -> dict[int, float]:
        if path and path[-1] in self._ends:
            return {}
        a, b = (*self._key, *path)[-2:]
        return self._memory.after(a, b)  # pyright: ignore[reportReturnType]

    def _expand(self, path: Sequence[int]) -> Sequence[tuple[int, float]]:
        return list(self._after(path).items())

    def _reward(self, path: Sequence[int]) -> float:
        """Return 1 + the weights along the path, which is continued at random to its full
        length.
        """
        text, total = [*self._key, *path], 1.0
        for i in range(2, len(text)):
            total += self._memory.after(text[i - 2], text[i - 1]).get(text[i], 0.0)
        while len(text) < 2 + self._limit:
            known = self._after(text[2:])
            if not known:
                break
            token = self._drawn(known)
            total += known[token]
            text.append(token)
        return total

    def _drawn(self, known: dict[int, float]) -> int:
        """Return a random successor, with probability proportional to its weight."""
        left = self._random.random() * sum(known.values())
        for token, weight in known.items():
            left -= weight
            if left < 0:
                return token
        return next(iter(known))  # reached only through rounding


def _visited(node: PuctNode, path: tuple[int, ...]) -> Iterator[_Leaf]:
    for child in node.children or ():
        if child.visits:
            own = (*path, child.token)
            yield _Leaf(own, float(child.visits))
            yield from _visited(child, own)


def _priors(drafter: Aded, given: Given) -> tuple[Source, ...]:
    return (tree_source(drafter.name, even_reach(0.3)),)


METHOD = DrafterMethod(
    name="aded",
    cls=Aded,
    summary="a tree search over a table of trigrams that adapts to the text",
    paper=Paper("ADED", "2407.12021"),
    memory="bounded; old trigrams are dropped",
    tree=True,
    priors=_priors,
)
