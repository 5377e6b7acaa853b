"""Suffix automata against looking at every place, over small alphabets."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import StoreError, VocabularyError
from outrider.memories.automaton import ROOT, Automaton, TextAutomaton
from outrider.memories.frozen import FrozenAutomaton
from outrider.memories.store import StorePage

TEXTS = st.lists(st.integers(0, 2), max_size=60)


def occurs(text: list[int], gram: list[int]) -> int:
    """The place after the first occurrence of `gram`, 0 if there is none."""
    n = len(gram)
    return next((p for p in range(n, len(text) + 1) if text[p - n : p] == gram), 0)


def longest_earlier(text: list[int]) -> int:
    """Length of the longest suffix that also ends before the end."""
    return next(n for n in range(len(text), -1, -1) if n == 0 or occurs(text[:-1], text[-n:]))


@given(text=TEXTS)
def test_longest_match_equals_brute_force(text: list[int]) -> None:
    """Spec B3 (d)."""
    automaton = TextAutomaton()
    for i, token in enumerate(text):
        automaton.extend([token])
        seen = text[: i + 1]
        assert automaton.length == longest_earlier(seen)
        if automaton.length:
            assert automaton.firsts[automaton.state] == occurs(seen, seen[-automaton.length :])
    whole = TextAutomaton()
    whole.extend(text)
    assert (whole.edges, whole.links, whole.lengths) == (
        automaton.edges,
        automaton.links,
        automaton.lengths,
    )


@given(text=TEXTS, tail=st.lists(st.integers(0, 3), max_size=8))
def test_a_tail_is_matched_and_not_learned(text: list[int], tail: list[int]) -> None:
    automaton = TextAutomaton()
    automaton.extend(text)
    before = automaton.num_states
    whole = text + tail
    expected = longest_earlier(text) if text and not tail else 0
    if tail:
        sizes = range(len(whole), 0, -1)
        expected = next((n for n in sizes if occurs(text, whole[-n:])), 0)
    state, length = automaton.match(tail)
    assert length == expected
    if length:
        assert automaton.firsts[state] == occurs(text, whole[-length:])
    assert automaton.num_states == before and automaton.text == text


@given(text=TEXTS)
def test_states_are_at_most_twice_the_tokens(text: list[int]) -> None:
    """Spec B3 (d)."""
    automaton = TextAutomaton()
    automaton.extend(text)
    assert automaton.num_states <= max(2 * len(text), 1)
    assert automaton.num_edges == sum(map(len, automaton.edges)) <= 3 * len(text)


@given(texts=st.lists(TEXTS, max_size=4))
def test_an_automaton_of_several_texts_knows_their_substrings_and_no_others(texts) -> None:
    automaton = Automaton()
    place = 0
    for text in texts:
        last = ROOT
        for token in text:
            place += 1
            last = automaton.grow(last, token, place)
    for gram in itertools.chain.from_iterable(
        itertools.product(range(3), repeat=n) for n in range(1, 5)
    ):
        _, length = automaton.walk(ROOT, 0, gram)
        state = ROOT
        for token in gram:
            state = automaton.target(state, token) if state >= 0 else -1
        known = any(occurs(text, list(gram)) for text in texts)
        assert (state >= 0) == known
        assert length == len(gram) if known else length < len(gram)


def test_links_lead_to_an_earlier_occurrence_with_enough_behind_it() -> None:
    """Spec B3: where fewer than n tokens remain, climb. `1 2` stood at 2 and at 9."""
    text = [1, 2, 3, 4, 5, 6, 0, 9, 1, 2, 7, 9, 1, 2]
    automaton = TextAutomaton()
    automaton.extend(text)

    def place(wanted: int, least: int = 1) -> tuple[int, int]:
        return automaton.occurrence(
            automaton.state, automaton.length, wanted=wanted, known=len(text), least=least
        )

    assert automaton.length == 3
    assert place(4) == (10, 3)
    assert place(5) == (2, 2)
    assert place(12) == (2, 2)
    assert place(13) == (10, 3), "nothing has as many behind it"
    assert place(5, least=3) == (10, 3)


def test_a_loop_is_kept_for_the_copy_goes_on_with_itself() -> None:
    automaton = TextAutomaton()
    automaton.extend([1, 2, 3, 1, 2, 3])
    assert automaton.occurrence(automaton.state, automaton.length, wanted=9, known=6) == (3, 3)


@pytest.mark.parametrize(("least", "expected"), [(1, (3, 1)), (2, (9, 2))])
def test_a_match_one_shorter_than_a_loop_gives_way(least: int, expected: tuple[int, int]) -> None:
    """`2 9` stood at 7 with two tokens behind it: a loop. With one it is none, and `9` at 2 is
    copied from, unless a single token will not do."""
    loop, text = TextAutomaton(), TextAutomaton()
    loop.extend([8, 7, 9, 4, 5, 6, 2, 9, 2, 9])
    assert loop.occurrence(loop.state, loop.length, wanted=3, known=10) == (8, 2)
    text.extend([8, 7, 9, 4, 5, 6, 0, 2, 9, 3, 2, 9])
    assert text.length == 2
    found = text.occurrence(text.state, text.length, wanted=4, known=12, least=least)
    assert found == expected


def test_the_shortest_suffix_that_will_do_is_used() -> None:
    automaton = TextAutomaton()
    automaton.extend([1, 2, 3, 4, 5, 6, 0, 9, 1, 2, 7, 9, 1, 2])
    state, length = automaton.state, automaton.length
    assert automaton.occurrence(state, length, wanted=5, known=14, least=2) == (2, 2)


@given(text=TEXTS, more=TEXTS, limit=st.integers(0, 40))
def test_a_full_automaton_goes_on_matching(text, more, limit) -> None:
    automaton = TextAutomaton(max_tokens=limit)
    automaton.extend(text)
    automaton.extend(more)
    whole = text + more
    assert automaton.text == whole
    assert automaton.num_states <= max(2 * limit, 1)
    known = whole[:limit]
    if len(whole) > limit:
        sizes = range(min(len(whole), limit), 0, -1)
        best = next((n for n in sizes if occurs(known, whole[-n:])), 0)
        assert automaton.length == best


def test_memory_is_reported_and_grows_with_the_text() -> None:
    automaton = TextAutomaton()
    automaton.extend([(i * i + i // 7) % 151_936 for i in range(5000)])
    assert 200 * 5000 < automaton.nbytes < 1000 * 5000


# -- frozen ----------------------------------------------------------------------------------


PAGE = StorePage(kind="sam", fingerprint="f" * 64, vocab_size=3, tokens=0, documents=0)


@given(
    documents=st.lists(TEXTS, min_size=1, max_size=4).filter(any),
    text=st.lists(st.integers(0, 3), max_size=30),
)
def test_frozen_walks_as_brute_force(documents, text) -> None:
    frozen = FrozenAutomaton.build(documents)
    state, length = ROOT, 0
    flat = frozen.text.tolist()
    for i, token in enumerate(text):
        state, length = frozen.walk(state, length, [token])
        seen = text[: i + 1]
        best = next(
            (n for n in range(len(seen), 0, -1) if any(occurs(d, seen[-n:]) for d in documents)), 0
        )
        assert length == best
        if length:
            place = frozen.firsts[state]
            assert place == occurs(flat, seen[-length:])
            following = frozen.continuation(place, 4)
            assert following == list(itertools.takewhile(lambda t: t >= 0, flat[place : place + 4]))
    assert frozen.num_states <= 2 * sum(map(len, documents))


def test_written_and_mapped_it_is_the_same(tmp_path: Path) -> None:
    frozen = FrozenAutomaton.build([[1, 2, 255_999, 1, 2, 151_935], [1, 2]])
    frozen.write(tmp_path / "store", PAGE)
    opened = FrozenAutomaton.open(tmp_path / "store", fingerprint=PAGE.fingerprint)
    for name, array in frozen.arrays.items():
        assert np.array_equal(array, opened.arrays[name])
        assert not opened.arrays[name].flags.writeable
    state, length = opened.walk(ROOT, 0, [7, 255_999, 1, 2])
    assert length == 3 and opened.continuation(opened.firsts[state], 9) == [151_935]
    assert opened.nbytes == frozen.nbytes
    with pytest.raises(VocabularyError, match="another tokenizer"):
        FrozenAutomaton.open(tmp_path / "store", fingerprint="0" * 64)


def test_a_corpus_without_tokens_or_with_too_many_is_refused() -> None:
    with pytest.raises(StoreError, match="no token"):
        FrozenAutomaton.build([[], []])
    with pytest.raises(StoreError, match="more than 3"):
        FrozenAutomaton.build([[1, 2], [3, 4]], max_tokens=3)
    told: list[int] = []
    FrozenAutomaton.build([[1] * 20_000, [2]], progress=told.append)
    assert sum(told) == 20_001 and len(told) == 3
