"""In-context navigation, with a template of letters: `dAAAb` is an item, `g` opens the list."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from outrider.core.errors import OptionError
from outrider.models.tabular import TabularModel
from outrider.search import Limits, run_search
from outrider.search.samples.icn import Icn
from outrider.testing.searches import END, LetterCodec, check_search, searched, task

pytestmark = pytest.mark.method("icn")

MODEL = TabularModel.random(vocab_size=20, order=3, seed=4)
PROMPT = (1, 2, 3)
INTRO, OPEN, CLOSE = "g", "d", "b"
FORM: dict[str, Any] = {"intro": INTRO, "opening": OPEN, "closing": CLOSE, "separator": ""}
CODEC = LetterCodec()


def icn(**options: Any) -> Icn:
    return Icn(**{"runs": 3, "each": 4, "length": 6, **FORM, **options})


def completed(prefix: tuple[int, ...], first: int, length: int) -> tuple[int, ...]:
    """The greedy answer after a prefix, up to the closing letter or the end."""
    own = [first]
    while len(own) < length and own[-1] not in (END, CODEC.encode(CLOSE)[0]):
        own.append(int(MODEL.logits_after((*prefix, *own)).argmax()))
    return tuple(own)


def firsts(prefix: tuple[int, ...], count: int, probed: set[int]) -> list[int]:
    """The best tokens that may begin an answer."""
    order = torch.argsort(MODEL.logits_after(prefix), descending=True).tolist()
    banned = probed | {END, CODEC.encode(CLOSE)[0]}
    return [token for token in order if token not in banned][:count]


def by_hand(runs: int, each: int, length: int, base: bool, listed: bool) -> list[tuple[int, ...]]:
    """The whole algorithm, without a cache."""
    found: list[tuple[int, ...]] = []
    probed: set[int] = set()
    start = (*PROMPT, *CODEC.encode(INTRO + OPEN))
    for _ in range(runs):
        items = [CODEC.decode(one).removesuffix(CLOSE) for one in found] if listed else []
        text = INTRO + "".join(OPEN + item + CLOSE for item in items) + OPEN
        prefix = (*PROMPT, *CODEC.encode(text))
        new = firsts(prefix, each, probed)
        probed |= set(new)
        found += [completed(start if base else prefix, token, length) for token in new]
    return found


@pytest.mark.parametrize("drafted", [False, True])
@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_it_is_the_algorithm_by_hand(listed: bool, base: bool, drafted: bool) -> None:
    found = searched(icn(base=base, listed=listed), MODEL, PROMPT, drafted=drafted)
    assert [one.token_ids for one in found.candidates] == by_hand(3, 4, 6, base, listed)


def test_drafts_beyond_the_closing_text_change_nothing() -> None:
    """The prompt contains an answer and what the model would write after it."""
    start = CODEC.encode(INTRO + OPEN)
    closing = CODEC.encode(CLOSE)[0]
    places = set()
    for first in firsts(start, 18, set()):
        text = [*start, first]
        while len(text) < 20:
            text.append(int(MODEL.logits_after(tuple(text)).argmax()))
        answer = text[len(start) :]
        if closing not in answer[:12] or END in answer:
            continue
        form = {"runs": 1, "each": 18, "length": 14}
        own = [searched(icn(**form), MODEL, text, drafted=drafted) for drafted in (False, True)]
        assert own[0].candidates == own[1].candidates
        assert own[0].tokens < own[1].tokens  # there are drafts
        places.add(answer.index(closing) % 4)
    assert places & {1, 2, 3}  # of a round of four tokens, some are beyond the closing text


def test_the_list_and_the_base_make_a_difference() -> None:
    """Otherwise the test above would compare equal things."""
    kinds = {tuple(by_hand(3, 4, 6, base, listed)) for base in (0, 1) for listed in (0, 1)}
    assert len(kinds) == 3  # without a list there is nothing but the base


def test_first_tokens_are_distinct_and_all_answers_are_there() -> None:
    found = searched(icn(), MODEL, PROMPT)
    assert len(found.candidates) == 12
    assert len({one.token_ids[0] for one in found.candidates}) == 12
    assert [one.about["run"] for one in found.candidates] == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("each", [1, 5, 9])
def test_one_run_is_the_best_first_tokens_and_then_greedy(each: int) -> None:
    start = (*PROMPT, *CODEC.encode(INTRO + OPEN))
    expected = [completed(start, token, 6) for token in firsts(start, each, set())]
    for options in ({}, {"base": False}, {"listed": False}):
        found = searched(icn(runs=1, each=each, **options), MODEL, PROMPT)
        assert [one.token_ids for one in found.candidates] == expected


def test_it_is_deterministic_whatever_the_seed() -> None:
    results = [searched(icn(), MODEL, PROMPT, seed=seed, temperature=1.0) for seed in (1, 2)]
    assert results[0].candidates == results[1].candidates


def test_only_the_best_tokens_begin_an_answer() -> None:
    found = searched(icn(runs=1, each=9, within=3), MODEL, PROMPT)
    start = (*PROMPT, *CODEC.encode(INTRO + OPEN))
    best = torch.argsort(MODEL.logits_after(start), descending=True)[:3].tolist()
    assert {one.token_ids[0] for one in found.candidates} <= set(best)


@pytest.mark.parametrize("kinds", [2, 3, 4])
def test_a_vote_orders_by_answers_and_then_by_place(kinds: int) -> None:
    def vote(text: str) -> str | None:
        return str(ord(text[0]) % kinds) if text[0] < "p" else None

    found = searched(icn(vote=vote), MODEL, PROMPT)
    answers = [one.about["answer"] for one in found.candidates]
    places = [int(str(one.about["place"])) for one in found.candidates]
    for one, answer in zip(found.candidates, answers, strict=True):
        assert one.score == pytest.approx(answers.count(answer) / 12 if answer else 0)
    earliest = {
        answer: min(p for p, a in zip(places, answers, strict=True) if a == answer)
        for answer in answers
    }
    keys = [
        (-one.score, earliest[one.about["answer"]], place)
        for one, place in zip(found.candidates, places, strict=True)
    ]
    assert keys == sorted(keys) and len(set(answers)) > 2


def test_tokens_with_the_same_text_begin_one_answer() -> None:
    """Such as a word with and without the space before it."""

    class Twins(LetterCodec):
        def decode(self, ids: Any) -> str:
            return super().decode([i - 10 if i >= 12 else i for i in ids])

    own = task(MODEL, PROMPT)
    own.codec = Twins()
    found = run_search(icn(runs=4, each=3), own, "test")
    texts = [Twins().decode(one.token_ids[:1]) for one in found.candidates]
    assert len(texts) == len(set(texts))


def test_the_window_ends_the_search() -> None:
    """A list that leaves no space is not read; what was found before it is the result."""
    whole = searched(icn(runs=5), MODEL, PROMPT)
    small = TabularModel(MODEL.table, context_length=40)
    found = searched(icn(runs=5), small, PROMPT)
    assert 0 < len(found.candidates) < len(whole.candidates) == 18
    assert found.stopped == ""


def test_the_template() -> None:
    assert Icn().prompt_after([]) == '1. "'
    assert Icn().prompt_after(["Oslo", "Rome"]) == '1. "Oslo"\n2. "Rome"\n3. "'
    ways = Icn(opening="Way {number}: ", closing="", separator="\n\n")
    assert ways.prompt_after(["a"]) == "Way 1: a\n\nWay 2: "


def test_the_contract() -> None:
    check_search(lambda: icn(runs=2, each=2))


def test_a_limit_keeps_the_answers_that_are_done() -> None:
    """Those of whole runs, and those of the run that was stopped that had ended before."""
    whole = searched(icn(), MODEL, PROMPT)
    texts = [one.token_ids for one in whole.candidates]
    counts: set[int] = set()
    for tokens in range(whole.tokens // 3, whole.tokens, 2):
        found = searched(icn(), MODEL, PROMPT, limits=Limits(tokens=tokens))
        own = [one.token_ids for one in found.candidates]
        runs = len(own) // 4 * 4
        assert "limit" in found.stopped or own == texts
        assert own[:runs] == texts[:runs] and own == [one for one in texts if one in own]
        assert len(set(own)) == len(own)
        counts.add(len(own) % 4)
    assert counts > {0}


def test_options() -> None:
    for wrong in ({"runs": 0}, {"each": 0}, {"length": 0}, {"within": 0}, {"vote": "no"}):
        with pytest.raises(OptionError):
            icn(**wrong)
    with pytest.raises(OptionError, match="nothing stands between"):
        replace(icn(), opening="", closing="", separator="")
