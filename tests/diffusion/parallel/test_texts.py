"""Scores of sentences, puzzles and JSON objects."""

import json
import random

import pytest

from outrider.diffusion.parallel.catalogue import items
from outrider.diffusion.parallel.item import Item
from outrider.diffusion.parallel.objects import draw_fields, object_schema
from outrider.diffusion.parallel.puzzles import (
    BLANKS,
    is_latin,
    is_sudoku,
    latin_squares,
    read_letters,
)
from outrider.diffusion.parallel.sentences import Scene, read_scene

SCENE = Scene(first="big", subject="king", verb="found", thing="stone", place="forest")


def first(name: str) -> Item:
    return next(iter(items(name, 1)))


def test_the_grammar_reads_what_it_writes() -> None:
    assert read_scene(SCENE.text()) == SCENE
    assert read_scene(SCENE.text(place_first=True)) == SCENE
    assert SCENE.text(place_first=True) == " In the forest, the big king found the stone."


@pytest.mark.parametrize(
    "text",
    [
        "the king found the stone.",  # no capital
        "The king found the stone",  # no end
        "The king found stone.",
        "The king the stone found.",
        "The king found the stone. The king found the ring.",
        "The king found the big big stone.",
        "The forest found the king.",
        "In the forest the king found the stone.",
    ],
)
def test_the_grammar_refuses(text: str) -> None:
    assert read_scene(text) is None


def test_sentences_must_hold_all_words() -> None:
    item = first("words-medium")
    words = item.key.split(",")
    answer = item.answer(random.Random(0))
    assert item.score(answer) == 1
    for word in words:
        assert item.score(answer.replace(f" {word}", " rose").replace("rose rose", "rose")) == 0


def test_a_paraphrase_keeps_the_meaning_and_changes_the_text() -> None:
    item = first("paraphrase")
    scene = read_scene(item.key)
    assert scene is not None
    assert item.score(item.key) == 0  # the sentence itself
    assert item.score(scene.text(place_first=True)) == 1
    other = next(verb for verb in ("found", "carried") if verb != scene.verb)
    assert item.score(item.key.replace(scene.verb, other)) == 0
    assert {item.score(item.answer(random.Random(seed))) for seed in range(20)} == {1.0}


def test_a_summary_names_each_thing_once() -> None:
    item = first("summary")
    answer = item.answer(random.Random(0)).strip()
    head, *things = answer.rstrip(".").replace(" and the ", ", the ").split(", the ")
    name, verb, _, one = head.split()
    assert item.score(answer) == 1
    assert item.score(f"{name} {verb} the {things[0]}, the {things[1]} and the {one}.") == 1
    assert item.score(f"{name} {verb} the {one}, the {one} and the {things[0]}.") == 0
    assert item.score(f"{name} {verb} the {one} and the {things[0]}.") == 0
    assert item.score(answer.replace(name, "Nobody")) == 0


def test_latin_squares() -> None:
    assert len(latin_squares()) == 576
    item = first("latin-square")
    answer = item.answer(random.Random(2))
    rows = read_letters(answer)
    symbols = tuple(item.key)
    assert item.score(answer) == 1 and is_latin(rows, symbols)
    assert not is_latin((rows[0], rows[0], rows[2], rows[3]), symbols)  # columns repeat
    assert not is_latin(rows[:3], symbols)
    assert item.score(answer.replace(symbols[0], "a")) == 0
    swapped = "\n".join(" " + " ".join(row[::-1] if i == 0 else row) for i, row in enumerate(rows))
    assert item.score(swapped) == 0


def test_sudokus_have_corners_and_keep_what_is_given() -> None:
    digits = ("1", "2", "3", "4")
    latin = tuple(tuple(row) for row in ("1234", "2341", "3412", "4123"))
    sudoku = tuple(tuple(row) for row in ("1234", "3412", "2143", "4321"))
    assert is_latin(latin, digits) and not is_sudoku(latin, digits)
    assert is_sudoku(sudoku, digits)
    item = first("sudoku")
    assert item.key.count("0") == BLANKS
    answer = item.answer(random.Random(0))
    assert item.score(answer) == 1
    other = answer.translate(str.maketrans("1234", "2143"))  # a sudoku, but not of this item
    assert item.score(other) == 0
    assert item.score(answer[:-1]) == 0 and item.score("\n".join(["1234"] * 4)) == 0


def test_objects_follow_their_schema() -> None:
    item = first("json")
    answer = json.loads(item.answer(random.Random(0)))
    assert item.score(json.dumps(answer)) == 1
    assert item.score(json.dumps(answer)[:-1]) == 0
    assert item.score(json.dumps({**answer, "more": 1})) == 0
    fields = draw_fields(random.Random(1))
    schema = object_schema(fields)
    assert schema["required"] == [field.name for field in fields]
