"""The queue of best-first search, and the ends of steps."""

import random

import pytest

from outrider.search.trees.frontier import Frontier
from outrider.search.trees.steps import StepEnd, unescaped

LETTERS = {0: "a", 1: "\n", 2: "\n\n", 3: " ", 4: "b", 5: "c\n"}


def decode(tokens) -> str:
    return "".join(LETTERS[token] for token in tokens)


def test_states_come_out_by_key_and_then_by_age() -> None:
    queue: Frontier[int] = Frontier(100)
    draw = random.Random(3)
    keys = [(float(draw.randrange(4)), float(draw.randrange(3))) for _ in range(60)]
    for number, key in enumerate(keys):
        queue.add(number, key)
    assert list(queue) == sorted(range(60), key=lambda number: keys[number])
    taken = [queue.take() for _ in range(60)]
    assert taken == sorted(range(60), key=lambda number: keys[number])
    with pytest.raises(IndexError):
        queue.take()


def test_the_worst_are_dropped() -> None:
    queue: Frontier[str] = Frontier(2)
    for state, key in (("c", 3.0), ("a", 1.0), ("d", 4.0), ("b", 2.0), ("late", 2.0)):
        queue.add(state, (key,))
    assert len(queue) == 2 and list(queue) == ["a", "b"]


@pytest.mark.parametrize(
    ("tokens", "count"),
    [
        ([0, 4], None),
        ([0, 2], 2),
        ([0, 1, 1], 3),
        ([0, 5, 1], 3),  # half of the delimiter belongs to another token
        ([1, 2, 3, 0, 4], None),  # what stands before the step does not count
        ([1, 2, 3, 0, 4, 2], 6),
        ([2], None),
        ([], None),
    ],
)
def test_a_step_ends_at_the_delimiter_in_its_text(tokens, count) -> None:
    end = StepEnd(decode, "\n\n")
    assert end(tokens) == count
    if count is not None:  # the same for any longer list
        assert end([*tokens, 0, 2, 4, 2]) == count


def test_text_forms_of_delimiters() -> None:
    assert unescaped(r"\n\n") == "\n\n" and unescaped(r"\t;") == "\t;"
