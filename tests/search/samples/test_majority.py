"""Self-consistency."""

from collections import Counter

import pytest

from outrider.core.errors import OptionError
from outrider.search import Limits
from outrider.search.samples.majority import Majority
from outrider.testing.rigs import tabular_family
from outrider.testing.searches import searched

pytestmark = pytest.mark.method("majority")

MODEL = tabular_family(seed=1).target
PROMPT = (1, 2, 3)
WARM = {"temperature": 1.3, "max_new_tokens": 60}


def last(text: str) -> str | None:
    """The last letter; c is no answer."""
    return None if text[-1:] in ("", "c") else text[-1]


@pytest.mark.parametrize("seed", range(8))
def test_the_most_frequent_answer_is_first(seed: int) -> None:
    found = searched(Majority(samples=9, answer=last), MODEL, PROMPT, **WARM, seed=seed)
    answers = [last(one.text) for one in found.candidates]
    votes = Counter(answer for answer in answers if answer)
    for one, answer in zip(found.candidates, answers, strict=True):
        assert one.about["answer"] == answer
        assert one.score == pytest.approx(votes[answer] / len(answers) if answer else 0)
    assert len(answers) == 9 and votes[answers[0]] == max(votes.values())
    groups = [answer for i, answer in enumerate(answers) if i == 0 or answers[i - 1] != answer]
    assert len(groups) == len(set(groups))  # texts with one answer stand together


def test_equal_votes_go_to_the_text_that_ended_first() -> None:
    found = searched(Majority(samples=9, answer="text"), MODEL, PROMPT, **WARM, seed=3)
    once = [
        len(one.token_ids) for one in found.candidates if one.score == found.candidates[-1].score
    ]
    assert len(once) > 2 and once == sorted(once)


def test_texts_without_an_end_do_not_vote() -> None:
    few = {"temperature": 1.3, "max_new_tokens": 6}
    found = searched(Majority(samples=9, answer="text"), MODEL, PROMPT, **few)
    assert 0 < len(found.candidates) < 9
    assert {one.finish_reason for one in found.candidates} == {"stop"}


def test_drafts_change_nothing_but_the_forwards() -> None:
    plain = searched(Majority(answer="text"), MODEL, PROMPT, **WARM)
    drafted = searched(Majority(answer="text"), MODEL, PROMPT, drafted=True, **WARM)
    assert [one.to_dict() for one in plain.candidates] == [
        one.to_dict() for one in drafted.candidates
    ]


def test_a_limit_keeps_the_texts_that_have_ended() -> None:
    found = searched(Majority(answer="text"), MODEL, PROMPT, **WARM, limits=Limits(tokens=50))
    assert found.stopped and found.candidates[0].finish_reason == "stop"


def test_options() -> None:
    with pytest.raises(OptionError, match="samples is 0"):
        Majority(samples=0)
    with pytest.raises(OptionError, match="answer is"):
        Majority(answer="none")
