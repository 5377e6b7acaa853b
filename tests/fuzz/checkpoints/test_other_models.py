"""Wrong values in config.json of models that run through `transformers`, and of others."""

import json
import random
from pathlib import Path

import pytest

from tests.fuzz.case import Case
from tests.fuzz.checkpoints.mutations import VALUES, linked
from tests.fuzz.sandbox import Sandbox
from tests.models.setups.built import ALSO_RUNS, RUNS, build
from tests.models.setups.make_checkpoints import write_tokenizer

LARGE = {"thousands": "3000", "half a million": "500000"}
"""Sizes below the limits that no tensor of the model has."""


def cases_of(original: Path, number: int) -> list[Case]:
    """Draw from all fields of config.json times all values."""
    fields = sorted(json.loads((original / "model/config.json").read_text()))
    values = {name: text for name, text in VALUES.items() if name != "deep"} | LARGE

    def case(field: str, value: str) -> Case:
        def make(folder: Path) -> None:
            linked(original, folder)
            file = folder / "model/config.json"
            text = json.dumps(json.loads(file.read_text()) | {field: "@value@"})
            file.unlink()
            file.write_text(text.replace('"@value@"', values[value]))

        words = ("generate", "hi", "--raw", "--max-new-tokens", "2", "--mode", "none")
        words += ("--threads", "1", "--target", "{folder}/model")
        return Case(name=f"{field} {value}", make=make, arguments=words, codes=(0, 2))

    every = [case(field, value) for field in fields for value in values]
    return random.Random(0).sample(every, number)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "cohere2", "mixtral", "gemma2 window", "phi3"])
def test_wrong_values_are_one_line(name: str, tmp_path: Path, sandbox: Sandbox) -> None:
    family, settings = (RUNS | ALSO_RUNS)[name]
    build(family, settings).save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    assert list(sandbox.faults(cases_of(tmp_path, 60))) == []
