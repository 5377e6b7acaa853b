"""Medusa heads in training: the fit, the loss, and how often the token of each rank is right."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.heads.medusa.config import RANKS
from outrider.models.heads.medusa.module import MedusaModule
from outrider.training.heads.kinds.medusa import (
    fit_mixes,
    fresh_medusa,
    medusa_loss,
    rank_accuracies,
    soften_mixes,
)
from outrider.training.heads.start import Teacher
from outrider.training.heads.unroll import Texts
from tests.models.heads.setups import LAYERS, VOCAB, make_target

pytestmark = pytest.mark.method("medusa")

HEADS, LENGTH, PROMPT = 3, 14, 3


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return Teacher.of(open_checkpoint(make_target(tmp_path_factory.mktemp("target"))))


def heads_of(teacher: Teacher) -> MedusaModule:
    ids = torch.arange(VOCAB).numpy()
    config, tensors = fresh_medusa(teacher, LAYERS, ids, HEADS)
    return MedusaModule(config, tensors, teacher.lm_head.clone())


class Made:
    """Texts whose final state turns by one fixed matrix at each place."""

    def __init__(self, width: int, count: int) -> None:
        drawn = torch.Generator().manual_seed(1)
        self.turn = torch.linalg.qr(torch.randn(width, width, generator=drawn)).Q
        self.texts: list[Texts] = []
        for _ in range(count):
            states = [torch.randn(width, generator=drawn)]
            while len(states) < LENGTH:
                states.append(self.turn @ states[-1])
            self.texts.append(self._text(torch.stack(states), drawn))

    def _text(self, states: Tensor, drawn: torch.Generator) -> Texts:
        starts = LENGTH - PROMPT
        none = torch.zeros(1, LENGTH, HEADS, dtype=torch.int64)
        return Texts(
            states=torch.stack((states, states), 1)[None],
            tokens=torch.randint(0, VOCAB, (1, LENGTH), generator=drawn),
            rows=(PROMPT - 1 + torch.arange(starts))[None],
            counts=torch.tensor([starts]),
            hints=none,
            levels=none,
        )

    def batch(self, places: Sequence[Any]) -> Texts:
        [place] = places
        return self.texts[place.number]


def test_the_fit_finds_the_state_of_each_place(teacher: Teacher) -> None:
    """Head k maps a state to that of k + 1 places later."""
    made, head = Made(teacher.config.hidden_size, 400), heads_of(teacher)
    places: Any = [SimpleNamespace(number=i, prompt=PROMPT) for i in range(400)]
    fit_mixes(head, made, places)  # pyright: ignore[reportArgumentType]
    for number in range(HEADS):
        expected = torch.linalg.matrix_power(made.turn, number + 1)
        found = head.part(f"heads.{number}.mix.weight").detach()
        assert float((found - expected).norm() / expected.norm()) < 0.05, number


def test_the_loss_is_that_of_the_true_tokens(teacher: Teacher) -> None:
    """Token t + 1 + k for head k from 1 on, with weights that fall by 0.8."""
    [text] = Made(teacher.config.hidden_size, 1).texts
    head, ids = heads_of(teacher), torch.arange(VOCAB)
    for part in head.parts.values():
        part.data += 0.05 * torch.randn(part.shape)
    found = float(medusa_loss(head, text, ids).detach())
    total = 0.0
    for number in range(HEADS):
        losses = []
        for row in range(PROMPT - 1, LENGTH - 1 - number):
            # `tokens[t]` is the token after state t, so head 0 drafts `tokens[t + 1]`
            label = int(text.tokens[0, row + 1 + number])
            logits = head.logits(text.states[0, row, -1], number).detach()
            losses.append(-float(logits.log_softmax(-1)[label]))
        total += 0.8**number * sum(losses) / len(losses)
    assert found == pytest.approx(total / (1 + 0.8 + 0.64), rel=1e-4)


def test_softening_lowers_the_loss(teacher: Teacher) -> None:
    [text] = Made(teacher.config.hidden_size, 1).texts
    head, ids = heads_of(teacher), torch.arange(VOCAB)
    before = float(medusa_loss(head, text, ids).detach())
    factors = soften_mixes(head, text, ids)
    assert len(factors) == HEADS and min(factors) < 1
    assert float(medusa_loss(head, text, ids).detach()) < before


def test_the_accuracy_of_each_rank(teacher: Teacher) -> None:
    made, head = Made(teacher.config.hidden_size, 3), heads_of(teacher)
    places: Any = [SimpleNamespace(number=i) for i in range(3)]
    ids = torch.arange(VOCAB)
    rotary: Any = None  # Medusa heads have no places
    found = rank_accuracies(head, rotary, made, places, ids, HEADS)  # pyright: ignore[reportArgumentType]
    assert found.shape == (HEADS, RANKS) and 0 < float(found.sum(1).max()) <= 1
    hits, tried = torch.zeros(RANKS), 0
    for text in made.texts:
        for row in range(PROMPT - 1, LENGTH - 2):
            best = head.logits(text.states[0, row, -1], 1).topk(RANKS).indices
            hits += best == text.tokens[0, row + 2]
            tried += 1
    assert torch.allclose(found[1], hits / tried)
