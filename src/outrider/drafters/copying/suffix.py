"""SuffixDecoding: propose the most frequent continuations, in the text and in earlier requests.

Oliaro et al., arXiv 2411.04975. One trie of counts belongs to the request (prompt and output), and
one is shared by all requests (outputs only). Outputs for one user therefore speed up similar
requests of others. The longer the match, the more is drafted.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from outrider.core.errors import OptionError
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, IntArray, as_ids
from outrider.drafters.copying.copies import Copier, check_levels, goes_on, level, origin_of
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod, by_match
from outrider.memories.frequent import Grown, grow_chain, grow_tree
from outrider.memories.trie import Cursor, SuffixTrie, Text
from outrider.policies import Source
from outrider.protocols import Request
from outrider.protocols.method import Paper

LEVELS = (1, 2, 3, 5, 9, 17)
"""Match lengths at which the confidence in a draft rises."""

SHAPES = ("tree", "chain")

_ENOUGH = 0.9
"""A draft is kept if its score reaches this share of the largest score possible for a shorter
match."""

_TRIES = 8
"""The largest number of matches from which drafts are grown; in a loop, every suffix matches."""


class _Best(NamedTuple):
    """The best draft so far, and the match it was grown from."""

    grown: Grown
    match: int
    score: float


_NOTHING = _Best(Grown(0), 0, 0.0)


@dataclass(slots=True)
class SuffixState:
    """The state of one request: its own trie, its output in the shared trie, and its position in
    both."""

    ends: frozenset[int]
    own: SuffixTrie
    text: Text
    output: Text
    cursor: Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Suffix(Copier[SuffixState]):
    """Grows a draft from the counts after each suffix of the text, and proposes the best one.

    For a match of p tokens, at most `factor * p + offset` nodes are grown, the most likely first,
    and none with a chance below `least`. The draft with the largest sum of chances (`Draft.score`:
    the expected number of kept tokens) is proposed; among nearly equal drafts, the one with the
    longer match. The paper uses another drafter if this sum is small; `Draft.score` makes that
    possible. The end of the text itself has no follower yet and does not count as an occurrence.

    Attributes:
        memory: outputs of all requests, bounded, the oldest evicted first; None uses only the text.
        factor: nodes for each token of the match (alpha).
        offset: nodes in addition, independent of the match.
        least: the smallest chance of a node.
        shape: `tree`, or `chain` for the most frequent follower only.
        depth: longest match; suffixes of twice this length are counted, so that drafts can be
            grown.
        max_tokens: largest number of tokens of the request's own text that are counted.
        levels: shortest matches of each origin (`suffix3` for 3 and 4, ...); a match below the
            first level is not used.
        name: the source its tokens are counted under.

    Raises:
        OptionError: a number out of range, levels that are not ascending, or an unknown shape.
    """

    memory: SuffixTrie | None = field(default_factory=SuffixTrie)
    factor: float = 1.0
    offset: float = 0.0
    least: float = 0.1
    shape: str = "tree"
    depth: int = 64
    max_tokens: int = 1 << 18
    levels: tuple[int, ...] = LEVELS
    name: str = "suffix"

    def __post_init__(self) -> None:
        if self.factor < 0 or not 0.0 <= self.least <= 1.0 or min(self.depth, self.max_tokens) < 1:
            raise OptionError(
                f"factor is {self.factor}, least {self.least}, depth {self.depth}, max_tokens "
                f"{self.max_tokens}",
                hint="Give a factor from 0, a chance from 0 to 1, and at least 1 for the others",
            )
        if self.shape not in SHAPES:
            raise OptionError(f"unknown shape {self.shape!r}", hint="Give 'tree' or 'chain'")
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

    def _begin(self, request: Request, old: SuffixState | None) -> SuffixState:
        prompt = request.source_ids
        own, text = SuffixTrie(2 * self.depth, self.max_tokens), Text()
        ours = isinstance(old, SuffixState) and old.own.is_like(own)  # same drafter
        if ours and old and old.text.kept and goes_on(prompt, old.text.tokens):
            own, text = old.own, old.text
        own.append(text, prompt[len(text.tokens) :])
        cursor = Cursor(edition=-1)
        if self.memory is not None:
            self.memory.compact()  # between requests, where it delays no token
            cursor = self.memory.follow(cursor, prompt, ())
        return SuffixState(request.sampler.end_ids, own, text, Text(), cursor)

    def _commit(self, state: SuffixState, tokens: list[int]) -> None:
        if self.memory is not None:
            for i, token in enumerate(tokens):  # each token is looked up before it is learned
                before = [*state.text.tokens, *tokens[:i]] if self._stale(state) else ()
                state.cursor = self.memory.follow(state.cursor, before, (token,))
                self.memory.append(state.output, (token,))
        state.own.append(state.text, tokens)

    def _draft(self, state: SuffixState, tail: IntArray, budget: Budget) -> Draft:
        rest = tail.tolist() if len(tail) else []
        cursor = state.own.follow(state.own.end(state.text), (), rest)
        best = self._best(state.own, cursor, 0 if rest else len(state.text.tokens), state, budget)
        if self.memory is not None:
            before = state.text.tokens if self._stale(state) else ()
            cursor = self.memory.follow(state.cursor, before, rest)
            output = state.output
            written = len(output.tokens) if output.kept and not rest else 0
            best = self._best(self.memory, cursor, written, state, budget, best)
        return self._grown(best)

    def _stale(self, state: SuffixState) -> bool:
        return self.memory is not None and state.cursor.edition != self.memory.edition

    def _best(
        self,
        trie: SuffixTrie,
        cursor: Cursor,
        written: int,
        state: SuffixState,
        budget: Budget,
        best: _Best = _NOTHING,
    ) -> _Best:
        """Return the better of `best` and the draft grown from the suffixes at the cursor.

        Suffixes of up to `written` tokens include the end of the text itself as an occurrence.
        """
        tries = 0
        for node, match, count in trie.suffixes(cursor, min(self.depth, trie.depth - 1)):
            if match < self.levels[0] or tries == _TRIES:
                break
            size = self._size(match, budget)
            if best.score >= _ENOUGH * size:
                if budget.shares is None:
                    break  # shorter matches may draft even fewer nodes
                continue
            tries += 1
            total = count - (match <= written)
            if total < 1:
                continue
            deepest = min(budget.depth, trie.depth - match)  # longer continuations are not counted
            grown = self._grow(trie, node, total, size, deepest, state.ends)
            if (grown.score, match) > (best.score, best.match):
                best = _Best(grown, match, grown.score)
        return best

    def _size(self, match: int, budget: Budget) -> int:
        """Return the number of nodes that may be drafted after a match."""
        least = level(match, self.levels)
        if not least:
            return 0
        origin = origin_of(self.name, least)
        allowed = budget.nodes_of(origin) if self.shape == "tree" else budget.share(origin)
        return max(min(allowed, budget.nodes, int(self.factor * match + self.offset)), 0)

    def _grow(
        self,
        trie: SuffixTrie,
        node: int,
        total: int,
        size: int,
        depth: int,
        ends: frozenset[int],
    ) -> Grown:
        if self.shape == "chain":
            size = min(size, depth)
            return grow_chain(node, total, trie.children, size=size, least=self.least, ends=ends)
        return grow_tree(
            node, total, trie.children, nodes=size, depth=depth, least=self.least, ends=ends
        )

    def _grown(self, best: _Best) -> Draft:
        grown = best.grown
        if not grown.tokens:
            return EMPTY_DRAFT
        return Draft(
            tokens=as_ids(grown.tokens),
            parents=as_ids(grown.parents),
            sources=(self.name,) * len(grown.tokens),
            origin=origin_of(self.name, level(best.match, self.levels)),
            match=best.match,
            score=best.score,
        )


def _priors(drafter: Suffix, given: Given) -> tuple[Source, ...]:
    return by_match(drafter.origins_by_match, tree=drafter.shape == "tree")


METHOD = DrafterMethod(
    name="suffix",
    cls=Suffix,
    summary="the most frequent continuations in this text and in earlier requests",
    paper=Paper("SuffixDecoding", "2411.04975"),
    memory="about 550n, up to 2^17 tokens of all requests, then the oldest are dropped",
    tree=True,
    # 1 in the paper; 4 had a higher accepted length on dialogues and on prose.
    defaults={"factor": 4.0},
    priors=_priors,
)
