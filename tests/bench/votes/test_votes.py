"""The rules by which samples answer, and the overlap of texts, of the benchmarks of searches."""

import pytest
from benchmarks.search.votes.coherence import overlap
from benchmarks.search.votes.pools import (
    Outcome,
    Sample,
    first_of,
    longest_of,
    rules,
    vote,
    vote_of,
    vote_within,
)
from benchmarks.search.votes.questions import Question, small

RIGHT, WRONG = "5", "7"


def sample(tokens: int, answer: str | None = RIGHT, *, ended: bool = True) -> Sample:
    return Sample(tokens, answer, ended, ended and answer == RIGHT)


def test_first_is_the_shortest_that_ended_and_all_rows_until_then_count() -> None:
    samples = [sample(9, WRONG), sample(4), sample(6, WRONG), sample(3, ended=False)]
    assert first_of(samples) == Outcome(1.0, 4 + 4 + 4 + 3, 4)
    assert longest_of(samples) == Outcome(0.0, 22, 9)


def test_a_few_vote_and_the_rest_is_cut() -> None:
    samples = [sample(4), sample(9, WRONG), sample(5, WRONG), sample(7, WRONG)]
    assert first_of(samples, 3) == Outcome(0.0, 4 + 7 + 5 + 7, 7)
    assert first_of(samples, 2) == Outcome(1.0, 4 + 5 + 5 + 5, 5)  # a tie: the shortest


def test_without_enough_ends_all_is_written() -> None:
    samples = [sample(4), sample(9, ended=False)]
    assert first_of(samples, 2) == Outcome(1.0, 13, 9)
    assert first_of([sample(8, ended=False)] * 2) == Outcome(0.0, 16, 8)


@pytest.mark.parametrize(
    ("earliest", "right"), [(True, 0.0), (False, 0.5)], ids=["shortest", "drawn"]
)
def test_ties_of_a_vote(earliest: bool, right: float) -> None:
    samples = [sample(4, WRONG), sample(9), sample(9), sample(8, WRONG), sample(2, "3")]
    assert vote(samples, earliest=earliest) == right


def test_texts_without_an_answer_or_an_end_have_no_vote() -> None:
    silent = [sample(1, None), sample(1, None), sample(2, WRONG, ended=False)]
    assert vote([*silent, sample(9)], earliest=True) == 1.0
    assert vote(silent, earliest=False) == 0.0
    assert vote_of([*silent, sample(9)]) == Outcome(1.0, 13, 9)


def test_tokens_pay_for_a_part_of_the_last_sample() -> None:
    samples = [sample(10, WRONG), sample(10), sample(20)]
    assert vote_within(samples, 10) == Outcome(0.0, 10, 10)
    assert vote_within(samples, 12).right == pytest.approx(0.1)
    assert vote_within(samples, 15) == Outcome(0.25, 15, 10)  # half of the tie of two
    assert vote_within(samples, 30) == Outcome(0.75, 30, 15)
    assert vote_within(samples, 40) == Outcome(1.0, 40, 20)
    assert vote_within(samples, 99) == Outcome(1.0, 40, 20)
    assert vote_within(samples, 1) == Outcome(0.0, 10, 10)


def test_rows_of_a_pool_are_means_over_draws() -> None:
    found = rules([sample(4), sample(8, WRONG), sample(8, WRONG), sample(8, WRONG)], 2, 2, seed=1)
    assert found["first of 2"].right == pytest.approx(0.5, abs=0.1)  # the right one is drawn
    assert found["one sample"].right == pytest.approx(0.25, abs=0.1)
    assert found["vote of 2, ties drawn"].right == pytest.approx(0.25, abs=0.05)
    assert found["longest of 2 (ablation)"].right == 0.0
    first, equal = found["first of 2"], found["vote, tokens of the first of 2"]
    assert equal.tokens == pytest.approx(first.tokens, abs=0.5)


def test_questions_with_small_numbers() -> None:
    assert small({"question": "2 and 20 apples?", "answer": "22"}, 20)
    assert not small({"question": "2 and 21 apples?", "answer": "23"}, 20)
    assert not small({"question": "2 and 20 and 3 apples?", "answer": "25"}, 20)
    assert not small({"question": "9 by 19 apples?", "answer": "171"}, 20)


def test_solved_problems_stand_before_the_question() -> None:
    messages = Question("How many?", "3").messages("Way 1:\n")
    assert messages[-1] == {"role": "user", "content": "How many?"}
    assert [one["role"] for one in messages[:2]] == ["user", "assistant"]
    assert all(one["content"].startswith("Way 1:\n") for one in messages[1:-1:2])


def test_overlap_counts_words_as_often_as_they_occur() -> None:
    assert overlap("The CAT, The CAT!", "the cat sat", 1) == pytest.approx(2 * 2 / 7)
    assert overlap("The CAT, The CAT!", "the cat sat", 2) == pytest.approx(2 * 1 / 5)
    assert overlap("", "the cat", 1) == 0.0
