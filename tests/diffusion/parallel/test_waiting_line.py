"""Scores of the waiting line: right answers pass, each kind of wrong answer fails."""

import random

import pytest

from outrider.diffusion.parallel.catalogue import items
from outrider.diffusion.parallel.item import TEST, TRAIN
from outrider.diffusion.parallel.waiting_line import CHANGES, Line, line_text, make_item, read_line
from outrider.diffusion.parallel.words import NAMES, TEST_NAMES

LINE = ("Tom", "Ann", "Bob", "Sam")

RIGHT: list[tuple[str, Line]] = [
    ("copy", ("Tom", "Ann", "Bob", "Sam")),
    ("reverse", ("Sam", "Bob", "Ann", "Tom")),
    ("sort", ("Ann", "Bob", "Sam", "Tom")),
    ("shuffle", ("Ann", "Tom", "Bob", "Sam")),
    ("insert-index", ("Tom", "Joe", "Ann", "Bob", "Sam")),
    ("insert-random", ("Tom", "Ann", "Bob", "Sam", "Joe")),
    ("insert-random", ("Joe", "Tom", "Ann", "Bob", "Sam")),
    ("remove-index", ("Tom", "Bob", "Sam")),
    ("remove-random", ("Ann", "Bob", "Sam")),
    ("replace-index", ("Tom", "Joe", "Bob", "Sam")),
    ("replace-random", ("Tom", "Ann", "Bob", "Joe")),
]
WRONG: list[tuple[str, Line]] = [
    ("copy", ("Tom", "Ann", "Sam", "Bob")),
    ("copy", ("Tom", "Ann", "Bob")),
    ("reverse", LINE),
    ("sort", ("Ann", "Bob", "Tom", "Sam")),
    ("shuffle", LINE),  # the same order
    ("shuffle", ("Ann", "Tom", "Bob", "Bob")),  # another multiset
    ("shuffle", ("Ann", "Tom", "Bob")),
    ("insert-index", ("Joe", "Tom", "Ann", "Bob", "Sam")),  # at another place
    ("insert-random", LINE),  # nothing is inserted
    ("insert-random", ("Tom", "Joe", "Ann", "Joe", "Bob", "Sam")),  # twice
    ("insert-random", ("Joe", "Ann", "Bob", "Sam")),  # in place of a name
    ("insert-random", ("Tom", "Jim", "Ann", "Bob", "Sam")),  # another name
    ("remove-index", ("Ann", "Bob", "Sam")),
    ("remove-random", LINE),
    ("remove-random", ("Tom", "Ann")),
    ("remove-random", ("Bob", "Ann", "Sam")),
    ("replace-index", ("Joe", "Ann", "Bob", "Sam")),
    ("replace-random", LINE),
    ("replace-random", ("Joe", "Joe", "Bob", "Sam")),
    ("replace-random", ("Tom", "Ann", "Bob", "Jim")),
    ("replace-random", ("Tom", "Ann", "Bob", "Sam", "Joe")),
]


@pytest.mark.parametrize(("kind", "answer"), RIGHT)
def test_right_answers_pass(kind: str, answer: Line) -> None:
    assert CHANGES[kind].right(LINE, "Joe", 2, answer)


@pytest.mark.parametrize(("kind", "answer"), WRONG)
def test_wrong_answers_fail(kind: str, answer: Line) -> None:
    assert not CHANGES[kind].right(LINE, "Joe", 2, answer)


def test_lines_are_read_as_they_are_written() -> None:
    assert line_text(LINE) == " Tom, Ann, Bob, Sam"
    assert read_line(line_text(LINE)) == LINE
    assert read_line("Tom, Ann,") != ("Tom", "Ann")


def test_prompts_hold_a_worked_example() -> None:
    """The example is an answer to its own line, and the last line is the one that is scored."""
    item = make_item("reverse", random.Random(3), TEST)
    example, answer, line, end = item.prompt.split("\n")
    assert end == "->" and answer.startswith("->")
    told = read_line(example.removeprefix("Reverse the line."))
    assert read_line(answer[2:]) == told[::-1]
    names = read_line(line.removeprefix("Reverse the line."))
    assert item.score(line_text(names[::-1])) == 1 and item.score(line_text(names)) == 0


def test_some_test_lines_have_a_name_that_no_training_line_has() -> None:
    for kind in ("copy", "replace-index"):
        shown = [item.prompt.split("\n")[2] for item in items(kind, 40, split=TEST)]
        unseen = [any(f" {name}" in line for name in TEST_NAMES) for line in shown]
        assert 3 <= sum(unseen) <= 20
        trained = " ".join(item.prompt for item in items(kind, 40, split=TRAIN))
        assert not any(f" {name}," in trained for name in TEST_NAMES)
    assert not set(NAMES) & set(TEST_NAMES)
