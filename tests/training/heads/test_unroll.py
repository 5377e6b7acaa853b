"""Training runs a head exactly as decoding does (arXiv 2503.01840, training-time test)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from outrider.core.types import as_ids
from outrider.models.heads.model import successors_of
from outrider.models.llama.rope import RotaryTable
from outrider.training.heads import unroll as unrolling
from outrider.training.heads.data import text_hints
from outrider.training.heads.unroll import Texts, unroll
from tests.models.heads.setups import HEADS, Rig, make_rig, make_target, random_text

STEPS, PROMPT = 4, 7
TEXTS = (random_text(22, 3), random_text(15, 4))
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


def trainable(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.method(name.split("-")[0]))


@pytest.fixture(scope="module", params=[trainable(name) for name in HEADS if name != "mtp"])
def rig(request: Any, folder: Path) -> Rig:
    return make_rig(folder, request.param, "torch")


def recorded(rig: Rig) -> Texts:
    """The two texts as training reads them: the shorter one is padded."""
    length = max(map(len, TEXTS)) - 1
    starts = max(len(text) - PROMPT - 1 for text in TEXTS)
    states = torch.zeros(2, length, len(rig.config.states), rig.config.target_width)
    tokens, hints = torch.zeros(2, length).long(), torch.zeros(2, 2, length, STEPS).long()
    table = successors_of(rig.config, rig.tensors)
    for i, text in enumerate(TEXTS):
        count = len(text) - 1
        states[i, :count] = rig.target.hidden_states.kept(rig.reads(text), 0, count)
        tokens[i, :count] = torch.tensor(text[1:])
        for k, found in enumerate(text_hints(as_ids(text), PROMPT, table, STEPS)):
            hints[k, i, :count] = torch.from_numpy(found)
    return Texts(
        states=states,
        tokens=tokens,
        rows=(PROMPT - 1 + torch.arange(starts)).clamp(max=length - 1).repeat(2, 1),
        counts=torch.tensor([len(text) - PROMPT - 1 for text in TEXTS]),
        hints=hints[0],
        levels=hints[1],
    )


def decoded(rig: Rig, text: tuple[int, ...], row: int, steps: int) -> Tensor:
    """Logits of the draft vocabulary along a chain of the text's own tokens, one forward each."""
    cache = rig.head.follow(rig.reads(text))
    cache.commit(as_ids(text[1 : row + 2]))
    found = [rig.rows(cache)]
    for step in range(1, steps):
        found.append(rig.rows(cache, text[row + step + 1 : row + step + 2]))
    return torch.cat(found)[:, rig.tensors["ids"].long()]


def differences(rig: Rig, texts: Texts) -> list[float]:
    """The largest difference between both ways in each step."""
    rotary = RotaryTable(rig.config.layer.rope, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        return _differences(rig, texts, rotary)


def _differences(rig: Rig, texts: Texts, rotary: RotaryTable) -> list[float]:
    whole = list(unroll(rig.module, rotary, texts, STEPS))
    most = [0.0] * STEPS
    for i, text in enumerate(TEXTS):
        for start in range(len(text) - PROMPT - 1):
            steps = min(STEPS, len(text) - PROMPT - 1 - start)
            expected = decoded(rig, text, PROMPT - 1 + start, steps)
            for step, row in enumerate(expected):
                found = whole[step]
                valid = found.valid
                assert valid[i, start]
                place = int(valid.flatten()[: i * valid.shape[1] + start].sum())
                most[step] = max(most[step], float((found.logits[place] - row).abs().max()))
    counts = [int(found.valid.sum()) for found in whole]
    assert counts == [sum(len(text) - PROMPT - 1 - s for text in TEXTS) for s in range(STEPS)]
    return most


def test_unrolled_training_equals_decoding(rig: Rig) -> None:
    assert max(differences(rig, recorded(rig))) <= TOLERANCE


# -- broken copies ------------------------------------------------------------------------------


def late_rotary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later steps, whose places do not begin with 0, rotate as the step before."""
    right = unrolling._turned

    def late(heads: Tensor, rotary: RotaryTable, places: Tensor, bound: int) -> Tensor:
        return right(heads, rotary, places - int(places[0, 0] > 0), bound)

    monkeypatch.setattr(unrolling, "_turned", late)


def _attends(change: Callable[..., tuple[Any, ...]]) -> Callable[[pytest.MonkeyPatch], None]:
    right = unrolling._attend

    def broken(head: Any, queries: Any, first: Any, hidden: Any, own: Any) -> Tensor:
        return right(head, queries, *change(first, hidden, own))

    return lambda monkeypatch: monkeypatch.setattr(unrolling, "_attend", broken)


BROKEN = {
    "late_rotary": late_rotary,
    "own_key_left_out": _attends(lambda first, hidden, own: (first, hidden, own[:-1])),
    "mask_off_by_one": _attends(lambda first, hidden, own: (first, hidden.roll(1, -1), own)),
    "too_little_seen": _attends(lambda first, hidden, own: (first, hidden.roll(-1, -1), own)),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_copy_is_seen(rig: Rig, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = recorded(rig)
    BROKEN[broken](monkeypatch)
    assert max(differences(rig, texts)) > 10 * TOLERANCE


@pytest.mark.method("hinted")
def test_hints_of_another_step_are_seen(folder: Path) -> None:
    rig = make_rig(folder, "hinted", "torch")
    texts = recorded(rig)
    assert len(texts.levels.unique()) == 4
    texts.hints[..., 1:], texts.levels[..., 1:] = texts.hints[..., :1], texts.levels[..., :1]
    first, *later = differences(rig, texts)
    assert first <= TOLERANCE < min(later)
