"""Items: seeded, disjoint splits, answers that fit."""

import random

import pytest

from outrider.core.errors import OptionError
from outrider.diffusion.parallel.catalogue import PARALLEL_TASKS, TASKS, items, task_named
from outrider.diffusion.parallel.item import TEST, TRAIN, draw


def test_there_are_seventeen_tasks() -> None:
    assert len(PARALLEL_TASKS) == 17 and {*TASKS} - {*PARALLEL_TASKS} == {"json"}


@pytest.mark.parametrize("name", TASKS)
def test_answers_of_items_are_correct(name: str) -> None:
    for split in (TRAIN, TEST):
        for item in items(name, 20, split=split):
            answer = item.answer(random.Random(item.key))
            assert item.score(answer) == 1
            assert item.score("") == 0 and item.score(f"{answer} {answer}") == 0


@pytest.mark.parametrize("name", TASKS)
def test_splits_are_disjoint(name: str) -> None:
    """Seeds differ between the splits, and the keys of both never meet."""
    train = {item.key for seed in range(3) for item in items(name, 60, seed=seed, split=TRAIN)}
    test = {item.key for seed in range(3) for item in items(name, 20, seed=seed, split=TEST)}
    assert not train & test


def test_items_depend_on_the_seed_only() -> None:
    one, again, other = ([i.prompt for i in items("copy", 5, seed=s)] for s in (1, 1, 2))
    assert one == again != other
    assert len(set(one)) == 5


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(OptionError, match="too few items"):
        list(items("words-easy", 100_000))
    with pytest.raises(OptionError, match="copi"):
        task_named("copi")
    with pytest.raises(ValueError, match="split"):
        draw(TASKS["copy"], random.Random(0), "other")
