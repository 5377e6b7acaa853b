"""Counts of all substrings of several texts, stored as a compressed trie.

SuffixDecoding (arXiv 2411.04975) uses a compressed trie of all suffixes with a count for each node.
Substrings that always end at the same positions have the same counts and the same followers. Here
they share a node: the trie is a suffix automaton with counts. A token then costs a few steps, where
a trie of depth 64 needs 64, and a text is removed by decreasing its counts.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from outrider.core.errors import OptionError
from outrider.memories.automaton import ROOT, Automaton

WIDE = 256
"""A context with more different followers than this has little predictive value, so its followers
are ignored."""


class _Counted(Automaton):
    """Counts at how many positions the substrings of each state end, up to a given length."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = [0]

    def _add(self, edges: dict[int, int], length: int, first: int) -> int:
        self.counts.append(0)
        return super()._add(edges, length, first)

    def _copied(self, old: int) -> None:
        self.counts[-1] = self.counts[old]


@dataclass(slots=True, eq=False)
class Text:
    """One text in the trie, which may continue to grow.

    Attributes:
        tokens: all of its tokens.
        kept: whether it is counted; an evicted text starts again when it grows.
    """

    tokens: list[int] = field(default_factory=list)
    kept: bool = False
    last: int = ROOT
    state: int = ROOT
    length: int = 0


@dataclass(slots=True)
class Cursor:
    """The position in the trie of the longest known suffix of a text."""

    state: int = ROOT
    length: int = 0
    edition: int = 0


class SuffixTrie:
    """Counts of all substrings of at most `depth` tokens, of several texts.

    Above `max_tokens`, whole texts are evicted, the oldest first, and the counts are as if these
    texts had never been added. Counts are updated immediately; memory is released by `compact`, if
    more than half is unused. `compact` takes about 4 microseconds per token (half a second for 2^17
    tokens, once per as many new tokens), so it is best called between two requests. It runs
    automatically before the memory exceeds three times the limit.

    Args:
        depth: longest substring that is counted: a match and the draft grown from it.
        max_tokens: total number of tokens of all texts; about 520 bytes each.

    Raises:
        OptionError: a depth or limit below 1.
    """

    def __init__(self, depth: int = 128, max_tokens: int = 1 << 17) -> None:
        if min(depth, max_tokens) < 1:
            raise OptionError(
                f"depth is {depth} and max_tokens {max_tokens}", hint="Give at least 1 for both"
            )
        self.depth = depth
        self.max_tokens = max_tokens
        self.texts: deque[Text] = deque()
        self.num_tokens = 0
        self.edition = 0
        self._states = _Counted()
        self._gone = 0

    @property
    def nbytes(self) -> int:
        """Estimated bytes of memory; evicted texts are included until `compact` removes them."""
        return self._states.nbytes + 8 * self._states.num_states + 40 * self.num_tokens

    @property
    def num_states(self) -> int:
        """Number of states, including states of evicted texts."""
        return self._states.num_states

    def is_like(self, other: "SuffixTrie") -> bool:
        """Whether both tries have the same depth and the same token limit."""
        return (self.depth, self.max_tokens) == (other.depth, other.max_tokens)

    # -- texts ------------------------------------------------------------------------------

    def append(self, text: Text, tokens: Sequence[int]) -> None:
        """Append tokens to `text`; a new or evicted text starts here."""
        for token in tokens:
            if not text.kept:
                self._open(text)
            text.last = self._states.grow(text.last, token, 0)
            text.state, text.length = self._step(text.state, text.length, token)
            text.tokens.append(token)  # only after `grow`: eviction needs tokens with states
            self._count(text.state, 1)
            self.num_tokens += 1
            while self.num_tokens > self.max_tokens:
                self.evict()
            if self._gone > 2 * self.max_tokens:
                self.compact()

    def evict(self) -> None:
        """Remove the oldest text with all of its counts."""
        text = self.texts.popleft()
        text.kept = False
        text.last = text.state = state = ROOT
        text.length = length = 0
        for token in text.tokens:
            state, length = self._step(state, length, token)
            self._count(state, -1)
        self.num_tokens -= len(text.tokens)
        self._gone += len(text.tokens)

    def compact(self) -> None:
        """Rebuild the trie without evicted texts, if they are more than half of it."""
        if self._gone <= self.num_tokens:
            return
        texts, self.texts = self.texts, deque()
        self._states, self._gone, self.num_tokens = _Counted(), 0, 0
        self.edition += 1
        for text in texts:
            tokens, text.kept = text.tokens, False
            self.append(text, tokens)

    # -- queries ----------------------------------------------------------------------------

    def count(self, gram: Sequence[int]) -> int:
        """Return how often `gram`, of at most `depth` tokens, occurs."""
        state = ROOT
        for token in gram:
            state = self._states.target(state, token)
            if state < 0:
                return 0
        return self._states.counts[state] if len(gram) else self.num_tokens

    def children(self, node: int) -> list[tuple[int, int, int]]:
        """Return `(token, count, node)` of each follower; empty for a context with too many
        followers (`WIDE`).
        """
        edges, counts = self._states.edges[node], self._states.counts
        if len(edges) > WIDE:
            return []
        return [(token, counts[to], to) for token, to in edges.items() if counts[to]]

    def end(self, text: Text) -> Cursor:
        """Return the cursor at the end of a text that is in the trie."""
        return Cursor(text.state, text.length, self.edition)

    def follow(self, cursor: Cursor, before: Sequence[int], tokens: Sequence[int]) -> Cursor:
        """Return the longest known suffix after `tokens`, given the one after `before`.

        If the trie was compacted since then, `before` is looked up again.
        """
        if cursor.edition != self.edition:
            recent = before[max(len(before) - self.depth, 0) :]
            cursor = self.follow(Cursor(edition=self.edition), (), recent)
        state, length = cursor.state, cursor.length
        for token in tokens:
            state, length = self._settled(state, length)
            state, length = self._states.walk(state, length, (token,))
            state, length = self._settled(state, min(length, self.depth))
        return Cursor(state, length, self.edition)

    def suffixes(
        self, cursor: Cursor, longest: int | None = None
    ) -> Iterator[tuple[int, int, int]]:
        """Yield `(node, length, count)` of the suffixes at the cursor, up to `longest`, longest
        first.

        Shorter suffixes that end at the same positions as a longer one have the same followers, and
        are skipped.
        """
        links, lengths, counts = self._states.links, self._states.lengths, self._states.counts
        most = cursor.length if longest is None else min(cursor.length, longest)
        state, length = self._settled(cursor.state, most)
        while state != ROOT:
            if counts[state]:
                yield state, length, counts[state]
            state = links[state]
            length = lengths[state]

    # -- internals --------------------------------------------------------------------------

    def _open(self, text: Text) -> None:
        text.tokens, text.kept = [], True
        text.last = text.state = ROOT
        text.length = 0
        self.texts.append(text)

    def _step(self, state: int, length: int, token: int) -> tuple[int, int]:
        """Advance by one token of a text in the trie; the match is limited to `depth` tokens."""
        state, length = self._settled(state, length)
        state = self._states.edges[state][token]
        return self._settled(state, min(length + 1, self.depth))

    def _settled(self, state: int, length: int) -> tuple[int, int]:
        """Return the current state of the substring of this length, because states are split as
        texts are added.
        """
        links, lengths = self._states.links, self._states.lengths
        while state != ROOT and lengths[links[state]] >= length:
            state = links[state]
        return state, length

    def _count(self, state: int, change: int) -> None:
        links, counts = self._states.links, self._states.counts
        while state != ROOT:
            counts[state] += change
            state = links[state]
