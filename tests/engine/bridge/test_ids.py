"""Prompts as token ids, in all forms, in `outrider.generate` and in `Generator.generate`."""

from typing import Any

import numpy as np
import pytest
import torch

import outrider
from tests.engine.bridge.test_compat import built, ours
from tests.engine.conftest import Folders

pytestmark = pytest.mark.usefixtures("unchecked")

GOOD = {
    "tensor": torch.tensor([5, 9, 40]),
    "int32": torch.tensor([5, 9, 40], dtype=torch.int32),
    "array": np.array([5, 9, 40]),
    "uint8": np.array([[5, 9, 40]], dtype=np.uint8),
    "tuple": (5, 9, 40),
    "rows": [torch.tensor([5, 9, 40])],
    "numbers": [np.int64(5), np.int32(9), 40],
}
BAD: dict[str, Any] = {
    "negative": [5, -1],
    "huge": [5, 10**30],
    "endless": [5, -(10**5000)],
    "beyond": [5, 288],
    "float": [5.0, 9.5],
    "bytes": b"abc",
    "bool": [True, False],
    "text": ["5", "9"],
    "mixed": [5, [9]],
    "deep": [[[5]]],
    "floats": torch.tensor([5.0, 9.0]),
    "objects": np.array([None]),
    "cube": torch.zeros((1, 2, 3), dtype=torch.long),
}


@pytest.mark.parametrize("form", GOOD)
def test_forms_of_ids(form: str, folders: Folders) -> None:
    expected = ours(built("llama"), [[5, 9, 40]], max_new_tokens=3)
    assert ours(built("llama"), GOOD[form], max_new_tokens=3) == expected
    gen = outrider.load(folders.target, dtype="float64", mode="none")
    if form != "rows":
        own = gen.generate([5, 9, 40], max_new_tokens=3).token_ids
        found = gen.generate(GOOD[form], max_new_tokens=3)
        assert (found[0] if isinstance(found, list) else found).token_ids == own


@pytest.mark.parametrize("form", BAD)
def test_ids_that_are_none(form: str, folders: Folders) -> None:
    for call in (
        lambda: ours(built("llama"), BAD[form], max_new_tokens=3),
        lambda: outrider.load(folders.target, dtype="float64", mode="none").generate(BAD[form]),
    ):
        if form == "text" and call.__code__.co_names[0] != "ours":
            continue  # two prompts of text
        with pytest.raises(outrider.OutriderError) as caught:
            call()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
