"""Labels without people (AutoJudge): splice a drafted token, finish the text, compare answers."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from outrider import kernels
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model
from outrider.models.sources.families import family
from outrider.protocols import LanguageModel, Segment
from outrider.training.judge.config import Answer, last_line, last_number, whole_text
from outrider.training.judge.labels import Ids, Splicer, Task

pytestmark = [
    pytest.mark.method("judge"),
    pytest.mark.skipif(not kernels.available(), reason="no compiled kernels"),
]

LONGEST = 24


@cache
def splicer() -> Splicer:
    folders = family("tiny")
    target, draft = load_model(folders["target"]), load_model(folders["draft"])
    tokenizer = Tokenizer.load(folders["target"])
    special = tokenizer.special_ids | frozenset(target.info.end_ids)
    return Splicer(target, draft, tokenizer, LONGEST, special)


def task(answer: Answer, question: str = "There are 41 birds and 9 fly. How many?") -> Task:
    return Task(0, splicer().tokenizer.chat([{"role": "user", "content": question}]), answer)


def next_state(model: LanguageModel, ids: Ids) -> tuple[torch.Tensor, int]:
    """The last hidden state and the best next token, from a fresh cache."""
    [cache] = model.start([Prompt(token_ids=ids)])
    [rows] = model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
    assert rows.hidden is not None
    return rows.hidden[0], int(rows.logits[0].argmax())


def greedy(model: LanguageModel, ids: Ids) -> Ids:
    """The rest of a text, token by token, up to its end."""
    text: Ids = ()
    while len(text) < LONGEST and (not text or text[-1] not in model.info.end_ids):
        text += (next_state(model, (*ids, *text))[1],)
    return text


def tried(prompt: Ids, keep: bool) -> list[torch.Tensor]:
    """The state after each token of the draft model that the target would not write; with `keep`,
    each of them stays in the text."""
    one = splicer()
    text, place, states = greedy(one.target, prompt), 0, []
    while place < len(text):
        token = next_state(one.draft, (*prompt, *text[:place]))[1]
        if token != text[place] and token not in one.special_ids:
            begun = (*prompt, *text[:place], token)
            states.append(next_state(one.target, begun)[0])
            if keep:
                text = (*text[:place], token, *greedy(one.target, begun))
        place += 1
    return states


QUESTIONS = (
    "There are 41 birds and 9 fly. How many are left?",
    "There are 77 birds and 9 fly. How many are left?",
)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("keep", [True, False])
def test_the_search_of_the_paper(keep: bool, question: str) -> None:
    """An answer that never changes makes no token important, and each one stays in the text. One
    that always changes makes each important, and the text stays as it was."""
    answers = iter(range(1000))
    one = task((lambda text: "same") if keep else (lambda text: str(next(answers))), question)
    found = splicer().label(one)
    assert found and {important for _, important in found} == {not keep}
    expected = tried(one.prompt, keep)
    assert len(found) == len(expected)
    for (state, _), other in zip(found, expected, strict=True):
        torch.testing.assert_close(state, other)


def test_a_text_without_an_answer_gives_no_labels() -> None:
    assert splicer().label(task(lambda text: None)) == []
    short = replace(splicer(), longest=2)
    assert short.finished(task(whole_text).prompt) is None
    assert short.label(task(whole_text)) == []


def test_special_tokens_are_never_tried() -> None:
    every = replace(splicer(), special_ids=frozenset(range(splicer().target.info.vocab_size)))
    assert every.label(task(whole_text)) == []


def test_where_the_final_answer_is() -> None:
    text = "6 * 7 = 41.\nThe answer is -42.5 kg, at 10:30.\n\n"
    assert last_number(text) == "10:30" and last_number("it is -42.5.") == "-42.5"
    assert last_line(text) == "The answer is -42.5 kg, at 10:30."
    assert whole_text(" a\n b ") == "a b"
    assert last_number("none") is last_line(" \n") is whole_text("") is None
