"""A head before training: its shape, and the ridge fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from outrider.core.errors import OutriderError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.heads.config import HeadKind
from outrider.training.heads import answers, start
from outrider.training.heads.answers import Text
from outrider.training.heads.data import RecordedTexts
from outrider.training.heads.start import Teacher, fit_ridge, fresh_head
from tests.models.heads.setups import VOCAB, make_module, make_target, random_text
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.training.heads.setups import LAYERS, STATES, line

hinted = pytest.mark.method("hinted")


def synthetic(folder: Path, states: Sequence[Tensor] | None = None) -> None:
    """Texts of random tokens with given states; the states of each place are the final one only."""
    texts = []
    for number in range(24):
        ids = torch.tensor(random_text(70, number), dtype=torch.int32)
        own = torch.zeros(69, 1, 32) if states is None else states[number]
        texts.append(Text(number, "made", ids, 1, own.half()))
    answers.save_texts(folder / "texts-00000.safetensors", texts)


@hinted
def test_the_ridge_fit_recovers_a_known_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next final state is a linear function of state, token and hint: it is found."""
    monkeypatch.setattr(start, "_RIDGE", 1e-3)
    teacher = Teacher.of(open_checkpoint(make_target(tmp_path / "target")))
    table = np.arange(VOCAB)
    ids = np.arange(30)
    config, tensors = fresh_head(teacher, HeadKind.HINTED, (LAYERS,), ids, table, random=True)
    head = make_module(config, tensors, teacher)
    true = [torch.randn(32, 32) * size / 32**0.5 for size in (0.5, 1.0, 0.7)]
    synthetic(tmp_path)
    texts = RecordedTexts(tmp_path, VOCAB, 1)
    states: list[Tensor] = []
    for place in texts.places:
        batch, state = texts.batch([place]), torch.randn(32)
        token = head.normed_embedding(batch.tokens[0])
        known = (batch.levels[0, :, 0] > 0)[:, None]
        hint = head.normed_embedding(batch.hints[0, :, 0]) * known
        rows: list[Tensor] = []
        for row in range(batch.tokens.shape[1]):
            rows.append(state)
            step = true[0] @ state + true[1] @ token[row] + true[2] @ hint[row]
            state = (head.part("norm.weight") * step).detach()
        states.append(torch.stack(rows)[:, None])
    synthetic(tmp_path, states)
    texts = RecordedTexts(tmp_path, VOCAB, 1)
    fit_ridge(head, texts, texts.places)
    for name, expected in zip(("recur", "token", "hint"), true, strict=True):
        found = head.part(f"{name}.weight").detach()
        assert float((found - expected).norm() / expected.norm()) < 0.03, name
    assert torch.isfinite(head.part("fc.weight")).all()


@pytest.mark.parametrize("random", [True, False])
def test_a_fresh_head_has_the_shapes_of_its_file(source: Path, random: bool) -> None:
    teacher = Teacher.of(open_checkpoint(source))
    for kind in (HeadKind.HINTED, HeadKind.EAGLE3):
        config, tensors = fresh_head(
            teacher, kind, STATES, np.arange(40), np.full(288, -1), random=random
        )
        config.check(tensors, "of a test")
        own = torch.equal(
            tensors["layers.0.mlp.up_proj.weight"], teacher.layer["layers.0.mlp.up_proj.weight"]
        )
        assert own is not random


@pytest.mark.parametrize(
    ("kind", "options"),
    [("granite", {"logits_scaling": 2.0}), ("gemma2", {}), ("mistral", {"sliding_window": 3})],
)
def test_a_target_whose_layer_no_head_can_have(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    """It is refused before answers are written, not after training."""
    target = make_checkpoint(tmp_path, kind, **options)
    with pytest.raises(OutriderError) as error:
        Teacher.of(open_checkpoint(target))
    assert "which heads do not support" in line(error) or "cannot be written" in line(error)
