"""Counts of substrings: against counting by hand, whatever is added, evicted and compacted."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from outrider.core.errors import OptionError
from outrider.memories.frequent import grow_chain, grow_tree
from outrider.memories.trie import WIDE, Cursor, SuffixTrie, Text

SMALL = st.integers(0, 2)
DEPTH = 4
GRAMS = [g for n in range(1, DEPTH + 1) for g in itertools.product(range(3), repeat=n)]


def counted(texts: list[list[int]], depth: int = DEPTH) -> Counter[tuple[int, ...]]:
    counts: Counter[tuple[int, ...]] = Counter()
    for text in texts:
        for n in range(1, depth + 1):
            counts.update(tuple(text[i : i + n]) for i in range(len(text) - n + 1))
    return counts


def check(trie: SuffixTrie, texts: list[list[int]]) -> None:
    """Every substring has its count, and so has every follower of every substring."""
    expected = counted(texts)
    for gram in GRAMS:
        assert trie.count(gram) == expected[gram]
    for gram in (g for g in GRAMS if expected[g] and len(g) < DEPTH):
        [(node, _, count)] = itertools.islice(trie.suffixes(find(trie, gram)), 1)
        following = {token: n for token, n, _ in trie.children(node)}
        assert following == {
            token: expected[(*gram, token)] for token in range(3) if expected[(*gram, token)]
        }
        assert count == expected[gram] >= sum(following.values())


def find(trie: SuffixTrie, gram: tuple[int, ...]) -> Cursor:
    cursor = trie.follow(Cursor(edition=trie.edition), (), gram)
    assert cursor.length == len(gram)
    return cursor


class GrowingStore(RuleBasedStateMachine):
    """Texts that grow in turns, are evicted when the trie is full, and compacted at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.trie = SuffixTrie(depth=DEPTH, max_tokens=30)
        self.texts = [Text() for _ in range(3)]

    @rule(which=st.integers(0, 2), tokens=st.lists(SMALL, max_size=9))
    def grow(self, which: int, tokens: list[int]) -> None:
        before = list(self.texts[which].tokens) if self.texts[which].kept else []
        self.trie.append(self.texts[which], tokens)
        if self.texts[which].kept and len(self.texts[which].tokens) >= len(tokens):
            assert self.texts[which].tokens in (before + tokens, tokens)

    @rule(which=st.integers(0, 2))
    def begin_another(self, which: int) -> None:
        """The text is left behind, and stays until it is evicted."""
        self.texts[which] = Text()

    @precondition(lambda self: self.trie.texts)
    @rule()
    def evict(self) -> None:
        oldest = self.trie.texts[0]
        self.trie.evict()
        assert not oldest.kept and oldest not in self.trie.texts

    @rule()
    def compact(self) -> None:
        self.trie.compact()
        assert self.trie.num_states <= 4 * self.trie.max_tokens + 1

    @invariant()
    def counts_are_those_of_the_texts_that_are_there(self) -> None:
        """Spec B4 (d): counts equal brute force; evict restores counts."""
        texts = [text.tokens for text in self.trie.texts]
        assert self.trie.num_tokens == sum(map(len, texts)) <= self.trie.max_tokens
        assert self.trie.num_states <= 2 * 3 * self.trie.max_tokens + 2
        check(self.trie, texts)

    @invariant()
    def each_text_knows_its_end(self) -> None:
        """Evicted ones too, whose states are gone: nothing is found at their end."""
        for text in self.texts:
            cursor = self.trie.end(text)
            assert cursor.length == (min(len(text.tokens), DEPTH) if text.kept else 0)
            expected = counted([t.tokens for t in self.trie.texts])
            for _, length, count in self.trie.suffixes(cursor):
                assert count == expected[tuple(text.tokens[len(text.tokens) - length :])]


GrowingStore.TestCase.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
TestGrowingStore = GrowingStore.TestCase


@given(texts=st.lists(st.lists(SMALL, max_size=30), max_size=3))
def test_incremental_update_equals_rebuild(texts) -> None:
    """In turns, token by token, or one text after the other: the same counts."""
    turns, blocks = SuffixTrie(DEPTH), SuffixTrie(DEPTH)
    grown = [Text() for _ in texts]
    for tokens in itertools.zip_longest(*texts):
        for text, token in zip(grown, tokens, strict=True):
            if token is not None:
                turns.append(text, [token])
    for text in texts:
        blocks.append(Text(), text)
    check(turns, texts)
    check(blocks, texts)


@given(text=st.lists(SMALL, max_size=30), tail=st.lists(st.integers(0, 3), max_size=6))
def test_the_longest_known_suffix_equals_brute_force(text, tail) -> None:
    trie = SuffixTrie(DEPTH)
    trie.append(Text(), text)
    cursor = Cursor(edition=trie.edition)
    for i in range(len(tail)):
        cursor = trie.follow(cursor, (), tail[i : i + 1])
        seen = tail[: i + 1]
        best = next(
            (n for n in range(min(len(seen), DEPTH), 0, -1) if counted([text])[tuple(seen[-n:])]), 0
        )
        assert cursor.length == best
    found = {length: count for _, length, count in trie.suffixes(cursor)}
    for length, count in found.items():
        assert count == counted([text])[tuple(tail[len(tail) - length :])]


def test_after_compacting_a_text_is_looked_up_again() -> None:
    trie = SuffixTrie(DEPTH, max_tokens=8)
    old, new = Text(), Text()
    trie.append(old, [0, 0, 0, 0, 0, 0])
    cursor = trie.follow(Cursor(edition=trie.edition), (), [0, 0])
    trie.append(new, [1, 2, 1, 2, 1, 2])
    assert not old.kept and trie.count([0]) == 0
    states = trie.num_states
    trie.append(new, [1])
    trie.evict()
    trie.append(new, [1, 2])
    trie.compact()
    assert trie.num_states < states and trie.edition == 1
    assert trie.follow(cursor, [7, 1], [2]).length == 2


def test_a_text_that_never_ends_is_bounded_too() -> None:
    trie, text = SuffixTrie(DEPTH, max_tokens=50), Text()
    for i in range(40):
        trie.append(text, [(i * i + j * j * i) % 3 for j in range(20)])
        assert trie.num_tokens <= 50 and trie.num_states <= 2 * 150 + 2
        check(trie, [text.tokens])


def test_memory_is_bounded_and_reported() -> None:
    trie = SuffixTrie(max_tokens=1000)
    for seed in range(20):
        trie.append(Text(), [(seed * 7919 + i * i) % 151_936 for i in range(300)])
        trie.compact()
        assert trie.num_tokens <= 1000
        assert trie.nbytes < 2200 * 600
    assert len(trie.texts) == 3
    with pytest.raises(OptionError, match="max_tokens"):
        SuffixTrie(max_tokens=0)


# -- growing trees ---------------------------------------------------------------------------


def twin_tree(texts, context: list[int], nodes: int, depth: int, least: float, ends) -> list:
    """All continuations of `context` by their counts, cut to the most frequent ones."""
    counts = counted(texts, len(context) + depth)
    total = counts[tuple(context)]
    known = []
    for gram, count in counts.items():
        path = gram[len(context) :]
        if gram[: len(context)] != tuple(context) or not path or count < least * total:
            continue
        if not any(t in ends for t in path[:-1]):
            known.append((count, path))
    return sorted((count for count, _ in known), reverse=True)[:nodes]


@given(
    text=st.lists(SMALL, min_size=2, max_size=40),
    nodes=st.integers(0, 12),
    depth=st.integers(0, 4),
    least=st.sampled_from([0.0, 0.2, 0.5]),
    ends=st.sampled_from([(), (0,)]),
)
def test_best_first_growth_takes_the_most_frequent_nodes(text, nodes, depth, least, ends) -> None:
    trie = SuffixTrie()
    trie.append(Text(), text)
    [(node, _, total)] = itertools.islice(trie.suffixes(find(trie, (text[0],))), 1)
    grown = grow_tree(node, total, trie.children, nodes=nodes, depth=depth, least=least, ends=ends)
    assert grown.counts == twin_tree([text], [text[0]], nodes, depth, least, ends)
    assert grown.counts == sorted(grown.counts, reverse=True)
    assert all(-1 <= p < i for i, p in enumerate(grown.parents))
    paths = []
    for i, parent in enumerate(grown.parents):
        paths.append((*(paths[parent] if parent >= 0 else ()), grown.tokens[i]))
    assert len(set(paths)) == len(paths)
    everything = counted([text], 6)
    assert [everything[(text[0], *path)] for path in paths] == grown.counts
    chain = grow_chain(node, total, trie.children, size=depth, least=least, ends=ends)
    if depth and nodes:
        assert chain.counts[:1] == grown.counts[:1]
    assert chain.parents == list(range(-1, len(chain.tokens) - 1))


def test_a_context_with_very_many_followers_predicts_nothing() -> None:
    trie = SuffixTrie(2)
    trie.append(Text(), [t for i in range(1, WIDE + 2) for t in (0, i)])
    [(node, _, _)] = itertools.islice(trie.suffixes(find(trie, (0,))), 1)
    assert trie.children(node) == []
    [(node, _, _)] = itertools.islice(trie.suffixes(find(trie, (1,))), 1)
    assert trie.children(node) != []
