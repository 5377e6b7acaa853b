"""The readers of the benchmarks on real models, with the tiny family."""

import pytest
from benchmarks.real_models.readers import DENSE, Readers, cut_to
from benchmarks.real_models.summaries import repeated

from outrider.models.sources.families import family

STORY = "Tom had a red ball. He went to the park with Lily. " * 60


@pytest.fixture(scope="module")
def readers() -> Readers:
    context = {"chunk_size": 64}
    return Readers.open(str(family("tiny")["target"]), (0.5,), threads=1, context=context)


def ask(readers: Readers, setting: str, instruction: str, *, fresh: bool):
    return readers.answer(setting, instruction, STORY, max_new_tokens=6, fresh=fresh)


@pytest.mark.parametrize("setting", (DENSE, "0.5"))
def test_rows_that_are_used_again_do_not_change_an_answer(readers, setting):
    ask(readers, setting, "What did Tom have?", fresh=True)
    again = ask(readers, setting, "Where did Lily go?", fresh=False)
    assert again["text"] == ask(readers, setting, "Where did Lily go?", fresh=True)["text"]


def test_a_share_of_the_chunks_is_read_and_reported(readers):
    dense, half = (ask(readers, s, "What did Tom have?", fresh=True) for s in (DENSE, "0.5"))
    assert "".join(dense["read"]) == STORY
    assert 0.4 < half["kept_tokens"] / dense["kept_tokens"] < 0.6
    assert all(chunk in STORY for chunk in half["read"])
    assert 0 < half["ttft"] <= half["total"]
    assert 0 < half["ttft_cpu"] <= half["total_cpu"]


def test_a_text_is_cut_at_the_end_of_a_line(readers):
    text = "One line.\nAnother line.\nA third line."
    assert cut_to(readers.tokenizer, text, 9) in ("One line.", "One line.\nAnother line.")
    assert cut_to(readers.tokenizer, text, 1000) == text


def test_repeated_groups_of_words():
    assert repeated("a b c d e") == 0
    assert repeated("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated("too short") == 0
