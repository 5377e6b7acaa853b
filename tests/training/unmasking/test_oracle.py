"""Answers of denoisers whose predictions are known, and the rounds in which an oracle writes them
again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from outrider.core.types import IntArray
from outrider.protocols import Reading, RowStore
from outrider.protocols.info import ModelInfo
from outrider.training.unmasking.oracle import replayed, written

MASK, VOCAB = 0, 64
PROMPT = np.array([1, 2, 3])

Predicts = Callable[[list[int]], list[tuple[int, float]]]
"""From an answer with masks to the most likely token of each slot and its probability."""


@dataclass
class Known:
    """A denoiser whose predictions are a function of the answer."""

    predicts: Predicts
    mask_id: int = MASK
    reads: int = 0
    info: ModelInfo = field(
        default_factory=lambda: ModelInfo(
            name="known", vocab_size=VOCAB, context_length=99, find_fingerprint=lambda: "known"
        )
    )

    def new_store(self, length: int) -> RowStore:
        raise NotImplementedError

    def read(self, readings: Sequence[Reading]) -> list[Tensor]:
        self.reads += 1
        (one,) = readings
        assert one.ids[: len(PROMPT)].tolist() == PROMPT.tolist()
        found = self.predicts(one.ids[len(PROMPT) :].tolist())
        logits = torch.empty(len(found), VOCAB)
        for row, (token, chance) in enumerate(found):
            logits[row] = np.log((1 - chance) / (VOCAB - 2))
            logits[row, token] = np.log(chance)
        logits[:, MASK] = -torch.inf
        return [logits[torch.from_numpy(one.want - len(PROMPT))]]


def chained(group: int) -> Predicts:
    """Slot i is 10 + i once all groups of slots before that of i are written, else 9.

    Slots further to the left are surer.
    """

    def predicts(answer: list[int]) -> list[tuple[int, float]]:
        return [
            (10 + i if MASK not in answer[: i // group * group] else 9, 0.95 - i / 100)
            for i in range(len(answer))
        ]

    return predicts


def test_the_answer_is_written_from_the_surest_slot_on() -> None:
    """Each slot is predicted as the number of tokens written so far."""
    order = [0.5, 0.9, 0.3, 0.9, 0.4]
    count = 5

    def predicts(answer: list[int]) -> list[tuple[int, float]]:
        return [(10 + count - answer.count(MASK), chance) for chance in order]

    model = Known(predicts)
    assert written(model, PROMPT, 5, 5).tolist() == [12, 10, 14, 11, 13]
    assert model.reads == 5
    assert written(Known(predicts), PROMPT, 5, 2).tolist() == [11, 10, 13, 12, 14]
    assert written(Known(predicts), PROMPT, 5, 1).tolist() == [10, 11, 12, 13, 14]


def test_sure_tokens_are_written_together() -> None:
    chances = [0.5, 0.9, 0.3, 0.9, 0.4]

    def predicts(answer: list[int]) -> list[tuple[int, float]]:
        return [(10 + 5 - answer.count(MASK), chance) for chance in chances]

    for sure, expected, rounds in (
        (0.95, [12, 10, 14, 11, 13], 5),
        (0.45, [10, 10, 14, 10, 13], 3),
        (0.0, [10] * 5, 1),
    ):
        model = Known(predicts)
        assert written(model, PROMPT, 5, 5, sure).tolist() == expected
        assert model.reads == rounds


@pytest.mark.parametrize(("group", "rounds"), [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_the_oracle_needs_one_round_for_each_link(group: int, rounds: int) -> None:
    model = Known(chained(group))
    answer = written(model, PROMPT, 6, 8)
    assert answer.tolist() == [10, 11, 12, 13, 14, 15]
    found = replayed(model, PROMPT, answer, 8)
    assert len(found) == rounds
    for number, seen in enumerate(found):
        ready = (number + 1) * group
        assert seen.correct.tolist() == [i < ready for i in range(6)] + [False] * 2
        assert seen.masked.tolist() == [i >= ready - group for i in range(6)] + [False] * 2
        assert seen.within.tolist() == [True] * 6 + [False] * 2
        expected = torch.tensor([*(0.95 - i / 100 for i in range(6)), 1.0, 1.0])
        torch.testing.assert_close(seen.confidences, expected)


def test_blocks_are_written_one_after_the_other() -> None:
    model = Known(chained(3))
    answer = written(model, PROMPT, 6, 2)
    found = replayed(model, PROMPT, answer, 2)
    # Slot 3 is in the second block with slot 2, and waits for it.
    assert [seen.masked.tolist() for seen in found] == [
        [True, True],
        [True, True],
        [False, True],
        [True, True],
    ]


def test_a_round_that_would_repeat_fills_the_block() -> None:
    """The first answer needs an order that the oracle never has: it is stuck, and is helped."""

    def predicts(answer: list[int]) -> list[tuple[int, float]]:
        others = [0 if answer[i] == MASK else answer[i] for i in range(4)]
        first = 20 if others[1] == 0 and others[2] == 0 else 21
        return [(first, 0.99), (11, 0.9), (12, 0.8), (13 if others[0] else 9, 0.7)]

    model = Known(predicts)
    answer = np.array([20, 11, 12, 13])
    assert written(model, PROMPT, 4, 4).tolist() == answer.tolist()
    assert len(replayed(model, PROMPT, answer, 4)) == 2
    other = np.array([22, 11, 12, 13])  # slot 0 is never predicted so
    found = replayed(model, PROMPT, other, 4)
    assert [seen.masked.tolist() for seen in found] == [
        [True, True, True, True],
        [True, False, False, True],
    ]
    assert not found[1].correct[0]


@pytest.mark.parametrize("block", [3, 4, 12])
@pytest.mark.parametrize("seed", range(4))
def test_any_model_ends_on_its_answer_in_at_most_as_many_rounds(block: int, seed: int) -> None:
    def predicts(answer: list[int]) -> list[tuple[int, float]]:
        random = np.random.default_rng([seed, *answer])
        pairs = zip(random.integers(10, 13, len(answer)), random.random(len(answer)), strict=True)
        return [(int(token), 0.5 + chance / 3) for token, chance in pairs]

    model, seen = Known(predicts), list[IntArray]()
    answer = written(model, PROMPT, 12, block)
    model.reads = 0

    def watched(ids: list[int]) -> list[tuple[int, float]]:
        seen.append(np.array(ids))
        return predicts(ids)

    found = replayed(Known(watched), PROMPT, answer, block)
    assert 1 <= len(found) == len(seen) <= 12
    for ids in seen:  # what was written is the answer, and no label is about a mask
        assert ((ids == MASK) | (ids == answer)).all()
    assert MASK not in answer
