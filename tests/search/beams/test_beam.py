"""Beam search."""

import itertools

import pytest
import torch

from outrider.models.tabular import TabularModel
from outrider.search.beams.beam import BeamSearch
from outrider.testing.searches import searched

pytestmark = pytest.mark.method("beam")

MODEL = TabularModel.random(vocab_size=5, seed=2)
PROMPT = (1, 2)


def best_of_all(length: int) -> tuple[tuple[int, ...], float]:
    """The most probable text of a length without an end, by trying all of them."""
    found = []
    for text in itertools.product(range(1, 5), repeat=length):
        total = 0.0
        for i, token in enumerate(text):
            row = MODEL.logits_after((*PROMPT, *text[:i])).clone()
            row[0] = -torch.inf  # banned below
            total += float(torch.log_softmax(row, -1)[token])
        found.append((text, total))
    return max(found, key=lambda pair: pair[1])


def test_a_beam_of_all_branches_is_exact() -> None:
    text, logprob = best_of_all(4)
    found = searched(BeamSearch(num_beams=300), MODEL, PROMPT, max_new_tokens=4, banned_tokens=(0,))
    assert found.best.token_ids == text
    assert found.best.score == pytest.approx(logprob / 4)


def test_one_beam_is_greedy_decoding() -> None:
    found = searched(BeamSearch(num_beams=1), MODEL, PROMPT, max_new_tokens=8)
    own: list[int] = []
    while len(own) < 8 and own[-1:] != [0]:
        own.append(int(MODEL.logits_after((*PROMPT, *own)).argmax()))
    assert list(found.best.token_ids) == own


def test_one_forward_a_step() -> None:
    found = searched(BeamSearch(num_beams=3), MODEL, PROMPT, max_new_tokens=9, banned_tokens=(0,))
    assert found.forwards == 10
