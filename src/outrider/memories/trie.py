"""Counts of everything that was said: a trie of all substrings of several texts, folded up.

SuffixDecoding (arXiv 2411.04975) keeps a compressed trie of all suffixes with a count for each
node. Substrings that always end at the same places have the same counts and the same followers, so
here they share a node: the trie is a suffix automaton with counts. A token then costs a handful of
steps where a trie of depth 64 needs 64, and a text is taken out again by counting down.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from outrider.core.errors import OptionError
from outrider.memories.automaton import ROOT, Automaton

WIDE = 256
"""A context with more different followers than this predicts nothing; they are not looked at."""


class _Counted(Automaton):
    """Counts at how many places the substrings of each state end, up to a given length."""

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
    """One text in the trie, which may go on growing.

    Attributes:
        tokens: all of it.
        kept: whether it is counted; an evicted text begins anew when it grows.
    """

    tokens: list[int] = field(default_factory=list)
    kept: bool = False
    last: int = ROOT
    state: int = ROOT
    length: int = 0


@dataclass(slots=True)
class Cursor:
    """Where the end of some text, of which the trie may know a part, is found in it."""

    state: int = ROOT
    length: int = 0
    edition: int = 0


class SuffixTrie:
    """Counts of all substrings of at most `depth` tokens, of several texts.

    Full, at `max_tokens`, it evicts whole texts, the oldest first, and the counts are as if they
    had never been there. Counts are taken back at once, memory by `compact`, where more than half
    is empty: it takes about 4 microseconds a token (half a second for 2^17 of them, once for as
    many that were written), so it is best called between two requests. It comes by itself before
    three times the limit is held.

    Args:
        depth: longest substring that is counted: a match, and what grows from it.
        max_tokens: tokens of all texts; about 520 bytes each.

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
        """Bytes held, by formula, evicted texts included until they are compacted away."""
        return self._states.nbytes + 8 * self._states.num_states + 40 * self.num_tokens

    @property
    def num_states(self) -> int:
        """Classes of substrings, those of evicted texts included."""
        return self._states.num_states

    def is_like(self, other: "SuffixTrie") -> bool:
        """Whether both have the same limits."""
        return (self.depth, self.max_tokens) == (other.depth, other.max_tokens)

    # -- texts ------------------------------------------------------------------------------

    def append(self, text: Text, tokens: Sequence[int]) -> None:
        """Let `text` grow; one that is new, or was evicted, begins here."""
        for token in tokens:
            if not text.kept:
                self._open(text)
            text.last = self._states.grow(text.last, token, 0)
            text.state, text.length = self._step(text.state, text.length, token)
            text.tokens.append(token)  # only now: what is evicted must be known to the states
            self._count(text.state, 1)
            self.num_tokens += 1
            while self.num_tokens > self.max_tokens:
                self.evict()
            if self._gone > 2 * self.max_tokens:
                self.compact()

    def evict(self) -> None:
        """Take out the oldest text, all of its counts with it."""
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
        """Build anew without what was evicted, where that is more than what is left."""
        if self._gone <= self.num_tokens:
            return
        texts, self.texts = self.texts, deque()
        self._states, self._gone, self.num_tokens = _Counted(), 0, 0
        self.edition += 1
        for text in texts:
            tokens, text.kept = text.tokens, False
            self.append(text, tokens)

    # -- reading ----------------------------------------------------------------------------

    def count(self, gram: Sequence[int]) -> int:
        """How often `gram`, of at most `depth` tokens, occurs."""
        state = ROOT
        for token in gram:
            state = self._states.target(state, token)
            if state < 0:
                return 0
        return self._states.counts[state] if len(gram) else self.num_tokens

    def children(self, node: int) -> list[tuple[int, int, int]]:
        """What follows: `(token, count, node)` of each follower; none of a context that is wide."""
        edges, counts = self._states.edges[node], self._states.counts
        if len(edges) > WIDE:
            return []
        return [(token, counts[to], to) for token, to in edges.items() if counts[to]]

    def end(self, text: Text) -> Cursor:
        """Where the end of a text of the trie itself is found: in its own counts."""
        return Cursor(text.state, text.length, self.edition)

    def follow(self, cursor: Cursor, before: Sequence[int], tokens: Sequence[int]) -> Cursor:
        """The longest known suffix after `tokens`, given the one after `before`.

        Where the trie was compacted in between, `before` is looked up again.
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
        """`(node, length, count)` of the suffixes at the cursor, up to `longest`, longest first.

        Shorter suffixes that end at the same places as a longer one have the same followers, and
        are passed over.
        """
        links, lengths, counts = self._states.links, self._states.lengths, self._states.counts
        most = cursor.length if longest is None else min(cursor.length, longest)
        state, length = self._settled(cursor.state, most)
        while state != ROOT:
            if counts[state]:
                yield state, length, counts[state]
            state = links[state]
            length = lengths[state]

    # -- inside -----------------------------------------------------------------------------

    def _open(self, text: Text) -> None:
        text.tokens, text.kept = [], True
        text.last = text.state = ROOT
        text.length = 0
        self.texts.append(text)

    def _step(self, state: int, length: int, token: int) -> tuple[int, int]:
        """Follow a text of the trie by one token, reading at most `depth` back."""
        state, length = self._settled(state, length)
        state = self._states.edges[state][token]
        return self._settled(state, min(length + 1, self.depth))

    def _settled(self, state: int, length: int) -> tuple[int, int]:
        """The state that has the substring of this length now: states part as texts are added."""
        links, lengths = self._states.links, self._states.lengths
        while state != ROOT and lengths[links[state]] >= length:
            state = links[state]
        return state, length

    def _count(self, state: int, change: int) -> None:
        links, counts = self._states.links, self._states.counts
        while state != ROOT:
            counts[state] += change
            state = links[state]
