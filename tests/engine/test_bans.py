"""Banned tokens, which compiled and captured choices know: drafted texts are undrafted ones."""

from pathlib import Path
from typing import Any

import pytest

from outrider import load
from tests.matrix import matrix
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = pytest.mark.usefixtures("unchecked")

BANNED = tuple(range(0, 256, 3))


@pytest.mark.parametrize(("dtype", "temperature"), matrix(["float32", "float64"], [0.0, 0.9]))
def test_drafted_is_undrafted(tmp_path: Path, dtype: str, temperature: float) -> None:
    target = make_checkpoint(tmp_path / "target", tokenizer=True, std=0.3)
    draft = make_checkpoint(tmp_path / "draft", tokenizer=True, std=0.3, num_hidden_layers=1)
    asked: dict[str, Any] = {
        "max_new_tokens": 20,
        "temperature": temperature,
        "seed": 4,
        "ignore_eos": True,
    }
    texts: list[Any] = []
    one: Any = None
    for drafter in ("none", "model", "lookup"):
        tiers: dict[str, Any] = {"draft": draft} if drafter == "model" else {}
        one = load(target, drafter=drafter, dtype=dtype, threads=1, **tiers)
        texts.append(one.generate("banned", banned_tokens=BANNED, **asked).token_ids)
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) == 20 and not set(texts[0]) & set(BANNED)
    free = one.generate("banned", **asked).token_ids
    assert set(free) & set(BANNED)
