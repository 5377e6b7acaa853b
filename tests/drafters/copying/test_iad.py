"""Input-guided aggressive decoding: what the spec says must hold."""

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.drafters.copying.iad import Aggressive
from outrider.models.tabular import TabularModel
from tests.drafters.copying.copy_rigs import begin, check_equality, propose, tokens
from tests.exactness.setups.rigs import run, stage

pytestmark = pytest.mark.method("iad")


def twin(source: list[int], output: list[int]) -> int | None:
    """The place in the source, by the published loop: j moves while the output agrees."""
    place: int | None = 0
    for i, token in enumerate(output):
        if place is not None and source[place : place + 1] == [token]:
            place += 1
            continue
        place = None
        for n in (1, 2, 3):
            if n > i + 1:
                break
            gram = output[i + 1 - n : i + 1]
            hits = [p for p in range(n, len(source)) if source[p - n : p] == gram]
            if not hits:
                break
            if len(hits) == 1:
                place = hits[0]
                break
    return place


@given(
    source=st.lists(st.integers(0, 2), min_size=1, max_size=20),
    pieces=st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=4),
    tail=st.lists(st.integers(0, 2), max_size=5),
    size=st.integers(1, 9),
)
def test_equals_its_brute_force_twin(source, pieces, tail, size) -> None:
    drafter = Aggressive()
    state = begin(drafter, source)
    for piece in pieces:
        drafter._commit(state, piece)
    place = twin(source, list(chain.from_iterable(pieces)) + tail)
    expected = [] if place is None else source[place : place + size]
    assert tokens(propose(drafter, state, tail, size)) == expected


def test_the_walk_widens_to_three_tokens_and_no_further() -> None:
    """`3` and `2 3` stand twice in the source, `1 2 3` once."""
    drafter = Aggressive()
    state = begin(drafter, [1, 2, 3, 4, 1, 2, 6, 0, 2, 3, 5, 9])
    for token in (7, 1, 2):
        drafter._commit(state, [token])
        assert not len(propose(drafter, state))
    drafter._commit(state, [3])
    assert tokens(propose(drafter, state, size=2)) == [4, 1]
    state = begin(drafter, [1, 2, 3, 4, 1, 2, 3, 5, 9])
    drafter._commit(state, [7, 1, 2, 3])
    assert not len(propose(drafter, state))


SOURCE = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3]
END, WRITE = 10, 11
"""The end token, and the mark behind the source after which the target writes."""


def writer(output: list[int]) -> TabularModel:
    """A target that goes by the last three tokens, writes `output` and ends."""
    text = [*SOURCE, WRITE, *output, END]
    table = torch.full((12,) * 4, -30.0, dtype=torch.float64)
    for i in range(len(SOURCE) + 1, len(text)):
        table[(*text[i - 3 : i], text[i])] = 30.0
    return TabularModel(table)


def can_be_spelt(output: list[int]) -> bool:
    """Whether no three tokens are followed by different ones."""
    text = [*SOURCE[-2:], WRITE, *output, END]
    grams = {tuple(text[i : i + 4]) for i in range(len(text) - 3)}
    return len(grams) == len({gram[:3] for gram in grams})


def rounds(output: list[int]) -> int:
    whole = stage(writer(output), Aggressive(span=(0, -1)), window=64)
    [g] = run(whole, [[*SOURCE, WRITE]], end_ids=(END,), max_new_tokens=80)
    assert g.output == [*output, END]
    return g.counters.rounds


def test_output_equal_to_input_finishes_in_one_verify_step() -> None:
    """Spec A5 (d)."""
    assert rounds(SOURCE) == 1


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("at", range(1, 20))
def test_one_edit_realigns_within_three_normal_tokens(at: int) -> None:
    """Spec A5 (d): deleting, inserting or changing one word. The round of the edit, then at most
    three without a draft, then the rest at once."""
    outputs = [
        SOURCE[:at] + SOURCE[at + 1 :],
        [*SOURCE[:at], 0, *SOURCE[at:]],
        [*SOURCE[:at], 0, *SOURCE[at + 1 :]],
    ]
    spelt = [output for output in outputs if can_be_spelt(output)]
    assert len(spelt) >= 2
    assert max(rounds(output) for output in spelt) <= 5


def test_a_source_within_the_prompt() -> None:
    drafter = Aggressive(span=(2, -1), longest=3)
    state = begin(drafter, [9, 9, 1, 2, 3, 4, 5, 9])
    assert tokens(propose(drafter, state)) == [1, 2, 3]
    drafter._commit(state, [1, 2, 7, 4])
    assert tokens(propose(drafter, state)) == [5]
    assert not len(propose(drafter, state, tail=[5]))
    assert tokens(propose(drafter, state)) == [5], "the tail was not kept"
    assert not len(propose(Aggressive(span=(5, None)), begin(Aggressive(span=(5, None)), [1])))


def test_nothing_follows_an_end_token() -> None:
    assert tokens(propose(Aggressive(), begin(Aggressive(), [1, 0, 2], end_ids=[0]))) == [1, 0]


def test_the_next_turn_begins_at_the_beginning() -> None:
    drafter = Aggressive()
    old = begin(drafter, SOURCE)
    drafter._commit(old, [3, 1, 4])
    again = begin(drafter, SOURCE, previous=old)
    assert again.source is old.source and again.place == 0 and again.recent == []
    other = begin(drafter, [7, 8], previous=old)
    assert tokens(propose(drafter, other)) == [7, 8]


@pytest.mark.usefixtures("unchecked")
def test_drafted_equals_undrafted() -> None:
    assert check_equality(Aggressive()) > 10


def test_bad_options_are_refused() -> None:
    with pytest.raises(OptionError, match="longest"):
        Aggressive(longest=0)
