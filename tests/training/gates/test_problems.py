"""Problems whose answers stand earlier in their text, and those that a model solves."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.llama.decoder import Decoder
from outrider.training.gates.gated import Gated
from outrider.training.gates.problems import (
    TASKS,
    Problem,
    draw_problem,
    make_problem,
    of_equal_length,
    solved,
)
from tests.models.setups.make_checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("problems") / "a", tokenizer=True)


@pytest.fixture(scope="module")
def tokenizer(source: Path) -> Tokenizer:
    return Tokenizer.load(source)


def facts_of(text: str) -> list[str]:
    """The facts of a text, which end in a comma or a full stop."""
    return [part.strip() for part in text.replace(",", ".").split(".") if part.strip()]


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_stands_twice_before_and_not_near(task: str, tokenizer: Tokenizer) -> None:
    for seed in range(20):
        one = make_problem(task, 6, tokenizer, random.Random(seed))
        *facts, asked = facts_of(tokenizer.decode(one.prompt.tolist()))
        answer = tokenizer.decode(one.answer.tolist()).strip(" .,")
        assert len(facts) == 12 and sorted(facts[:6]) == sorted(facts[6:])
        places = [i for i, fact in enumerate(facts) if fact == f"{asked} {answer}"]
        assert len(places) == 2
        assert places[0] < 3 and 6 <= places[1] < 9


@pytest.mark.parametrize("task", TASKS)
def test_the_rows_predict_the_answers_of_the_second_pass(task: str, tokenizer: Tokenizer) -> None:
    one = make_problem(task, 4, tokenizer, random.Random(1))
    next_ids = one.ids[one.rows + 1].tolist()
    spans = np.split(one.rows, np.flatnonzero(np.diff(one.rows) > 1) + 1)
    assert len(spans) == 5 and len(next_ids) == sum(map(len, spans))
    texts = facts_of(tokenizer.decode(one.ids.tolist()))
    answers = [fact.split()[-1] for fact in texts[4:]]
    assert facts_of(tokenizer.decode(next_ids)) == answers
    assert np.array_equal(spans[-1] + 1, np.arange(len(one.prompt), len(one.ids)))


@pytest.mark.parametrize("task", TASKS)
def test_filler_stands_between_the_facts_and_changes_none(task: str, tokenizer: Tokenizer) -> None:
    plain, longer = (
        make_problem(task, 4, tokenizer, random.Random(3), filler) for filler in (0, 90)
    )
    assert np.array_equal(longer.answer, plain.answer)
    added = len(longer.ids) - len(plain.ids)
    assert 90 <= added < 90 + 60
    rest = iter(longer.ids.tolist())
    assert all(token in rest for token in plain.ids.tolist())  # the same tokens in the same order
    found, expected = (one.ids[one.rows + 1].tolist() for one in (longer, plain))
    assert found == expected
    places = np.split(longer.rows, np.flatnonzero(np.diff(longer.rows) > 1) + 1)
    before = np.split(plain.rows, np.flatnonzero(np.diff(plain.rows) > 1) + 1)
    moved = [int(a[0] - b[0]) for a, b in zip(places, before, strict=True)]
    assert 0 < moved[0] <= moved[-1] <= added
    assert len({*moved}) > 1 or task == "places"  # whose facts may stand in one sentence


def test_a_problem_is_drawn_by_its_name(tokenizer: Tokenizer) -> None:
    def text(name: str) -> str:
        return tokenizer.decode(draw_problem(list(TASKS), 5, tokenizer, name).ids.tolist())

    assert text("0/1") == text("0/1") != text("0/2")
    kinds = {draw_problem(list(TASKS), 5, tokenizer, f"{i}").task for i in range(20)}
    assert kinds == set(TASKS)
    named = [draw_problem(list(TASKS), 5, tokenizer, "0/1", filler) for filler in (0, 20)]
    assert len(named[1].ids) >= len(named[0].ids) + 20
    assert make_problem("places", 99, tokenizer, random.Random(0)).prompt.size  # eight people


def test_solved_are_the_problems_whose_whole_answer_is_written(source: Path) -> None:
    model = Gated(Decoder.load(source), 2, 4)
    full, problems = torch.ones(model.shape), list[Problem]()
    for length in (9, 9, 7, 9):
        prompt = np.array([(5 * i * i + len(problems)) % 280 for i in range(length)])
        answer = model.write(torch.from_numpy(prompt)[None], full, 3)[0].numpy()
        problems.append(Problem("a", prompt, answer, np.array([length - 1])))
    wrong = problems[1].answer.copy()
    wrong[2] = (wrong[2] + 1) % 280  # the last token alone
    problems[1] = Problem("a", problems[1].prompt, wrong, problems[1].rows)
    assert solved(model, problems, full) == [True, False, True, True]
    assert list(of_equal_length(problems)) == [[0, 1, 3], [2]]
    assert not all(solved(model, problems, torch.zeros(model.shape)))
