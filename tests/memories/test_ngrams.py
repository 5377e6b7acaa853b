"""The index of n-grams: by whole arrays, token by token, and by looking at every place."""

from itertools import chain
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from outrider.core.errors import OptionError
from outrider.memories import ngrams
from outrider.memories.ngrams import Hit, NGramIndex, hash_of

SMALL = st.integers(0, 2)
WIDE = st.sampled_from([0, 1, 2, 151_935, 255_999, 2**18])


def places(text: list[int], gram: list[int]) -> list[int]:
    """Every place after an occurrence of `gram` that has a follower."""
    n = len(gram)
    return [p for p in range(n, len(text)) if text[p - n : p] == gram]


def twin(text: list[int], tail: list[int], lengths: list[int], occurrence: str) -> Hit | None:
    whole = text + tail
    for n in sorted(lengths, reverse=True):
        found = places(text, whole[len(whole) - n :]) if n <= len(whole) else []
        if found and (occurrence != "only" or len(found) == 1):
            return Hit(found[0] if occurrence == "first" else found[-1], n)
    return None


@given(
    pieces=st.lists(
        st.one_of(
            st.lists(SMALL, max_size=9),
            st.lists(WIDE, max_size=9),
            st.lists(SMALL, min_size=70, max_size=90),
        ),
        max_size=5,
    ),
    tail=st.lists(SMALL, max_size=4),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    occurrence=st.sampled_from(ngrams.OCCURRENCES),
)
def test_incremental_equals_rebuild_and_brute_force(pieces, tail, lengths, occurrence) -> None:
    """Spec A4: the index after incremental updates equals a rebuild."""
    grown, single = NGramIndex(lengths, occurrence), NGramIndex(lengths, occurrence)
    for piece in pieces:
        grown.extend(piece)
        for token in piece:
            single.extend([token])
    whole = NGramIndex(lengths, occurrence)
    whole.extend(text := list(chain.from_iterable(pieces)))
    assert grown.tables == single.tables == whole.tables
    assert grown.text == single.text == text
    for end in ([], tail):
        expected = twin(text, end, lengths, occurrence)
        assert grown.find(end) == single.find(end) == whole.find(end) == expected


class GrowingStore(RuleBasedStateMachine):
    """Any order of small and large additions and look-ups."""

    def __init__(self) -> None:
        super().__init__()
        self.index = NGramIndex((3, 2), "latest")
        self.text: list[int] = []

    @rule(tokens=st.lists(SMALL, max_size=5))
    def a_few(self, tokens: list[int]) -> None:
        self.index.extend(tokens)
        self.text += tokens

    @rule(token=SMALL, count=st.integers(64, 100))
    def many(self, token: int, count: int) -> None:
        tokens = [token, *([(token + 1) % 3, 5] * count)]
        self.index.extend(tokens)
        self.text += tokens

    @invariant()
    def finds_what_is_there(self) -> None:
        assert self.index.find() == twin(self.text, [], [2, 3], "latest")
        assert self.index.find([5, 0]) == twin(self.text, [5, 0], [2, 3], "latest")


GrowingStore.TestCase.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
TestGrowingStore = pytest.mark.usefixtures("unchecked")(GrowingStore.TestCase)


def test_a_collision_gives_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    """All n-grams with one and the same hash: found only where the tokens really are the same."""
    monkeypatch.setattr(ngrams, "_BASE", 0)
    index = NGramIndex((2,), "latest")
    index.extend([1, 2, 3, 4, 2])
    assert hash_of([1, 2]) == hash_of([4, 2])
    assert index.find() is None
    index.extend([9, 4, 2])
    assert index.find() == Hit(5, 2)


def test_the_walk_to_a_unique_place() -> None:
    """Spec A5: widen only while ambiguous, give up on absence or a still ambiguous trigram."""
    source = NGramIndex((1, 2, 3), "only")
    source.extend([1, 2, 3, 4, 2, 3, 5, 1, 2, 3, 6])
    assert source.unique([4]) == 4
    assert source.unique([7]) is None
    assert source.unique([2]) is None, "ambiguous, and there is nothing to widen it with"
    assert source.unique([4, 2]) == 5
    assert source.unique([9, 2]) is None
    assert source.unique([1, 2, 3]) is None, "ambiguous even so"
    assert source.unique([4, 2, 3]) == 6


@pytest.mark.parametrize("lengths", [(), (0,), (2, -1)])
def test_bad_lengths_are_refused(lengths) -> None:
    with pytest.raises(OptionError, match="lengths"):
        NGramIndex(lengths)
    with pytest.raises(OptionError, match="newest"):
        NGramIndex((1,), "newest")


def test_a_long_prompt_is_indexed_fast_and_its_size_is_told() -> None:
    index = NGramIndex((5, 4, 3, 2))
    tokens = [(i * i + i // 7) % 151_936 for i in range(64_000)]
    begun = perf_counter()
    index.extend(tokens)
    assert perf_counter() - begun < 1.0  # 0.1 s on an idle machine
    entries = sum(map(len, index.tables.values()))
    assert 90 * entries < index.nbytes < 300 * entries
