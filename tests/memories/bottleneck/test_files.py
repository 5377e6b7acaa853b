"""Memories of labels on disk, and wrong inputs, each refused in one line with a hint."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from outrider.core.errors import CheckpointError, OptionError
from outrider.memories.bottleneck import Bottleneck, KeySettings, Origin, fit_keys
from tests.memories.bottleneck.test_paper import LABELS, WIDTH, labels, memory, states


def learned() -> Bottleneck:
    own = Bottleneck.empty(memory().keys, LABELS, Origin(model="f", layer=3, form="Q: {text}"))
    own.learn(own.keys.fetch(states(9)), labels(9), 5.0)
    return own


def test_a_memory_is_read_as_it_was_saved(tmp_path: Path) -> None:
    own = learned()
    own.save(tmp_path / "new/place")
    own.learn(own.keys.fetch(states(9)), labels(9), 5.0)
    own.save(tmp_path / "new/place")  # replaces the earlier one
    found = Bottleneck.read(tmp_path / "new/place")
    assert found.labels == LABELS and found.origin == own.origin
    assert torch.equal(found.values, own.values) and torch.equal(found.used, own.used)
    for name in ("projections", "keys", "mean", "scale"):
        assert torch.equal(getattr(found.keys, name), getattr(own.keys, name))
    assert torch.equal(found.chances(states(30, 4)), own.chances(states(30, 4)))
    assert sorted(one.name for one in (tmp_path / "new/place").iterdir()) == [
        "bottleneck.json",
        "bottleneck.safetensors",
    ]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format", "outrider-bottleneck-9", "its format is"),
        ("labels", ["a", "a", "b", "c"], "different names are expected"),
        ("labels", [1, 2, 3, 4], "different names are expected"),
        ("labels", [], "different names are expected"),
        ("labels", ["a", "b"], "'values' has shape"),
        ("origin", {"model": "f", "layer": "3", "form": "{text}"}, "origin is"),
        ("origin", {"model": "f", "layer": 3}, "origin is"),
        ("origin", None, "origin is"),
    ],
)
def test_a_damaged_page_is_refused(tmp_path: Path, key: str, value: object, said: str) -> None:
    learned().save(tmp_path)
    page = tmp_path / "bottleneck.json"
    page.write_text(json.dumps(json.loads(page.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=said) as caught:
        Bottleneck.read(tmp_path)
    assert "outrider train bottleneck" in caught.value.hint and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["projections", "keys", "mean", "scale", "values", "used"])
def test_damaged_tensors_are_refused(tmp_path: Path, name: str) -> None:
    learned().save(tmp_path)
    file = tmp_path / "bottleneck.safetensors"
    whole = load_file(file)
    save_file({k: v for k, v in whole.items() if k != name}, file)
    with pytest.raises(CheckpointError, match=f"no tensor '{name}'"):
        Bottleneck.read(tmp_path)
    save_file(whole | {name: whole[name][:-1].contiguous()}, file)
    with pytest.raises(CheckpointError, match="has shape"):
        Bottleneck.read(tmp_path)


def test_a_scale_of_zero_is_refused(tmp_path: Path) -> None:
    learned().save(tmp_path)
    file = tmp_path / "bottleneck.safetensors"
    save_file(load_file(file) | {"scale": torch.zeros(WIDTH)}, file)
    with pytest.raises(CheckpointError, match="scale is not above 0"):
        Bottleneck.read(tmp_path)


def test_nothing_at_the_place_and_places_that_refuse(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no bottleneck\.json"):
        Bottleneck.read(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be written"):
        learned().save(tmp_path / "file")
    (tmp_path / "taken/bottleneck.json").mkdir(parents=True)
    with pytest.raises(OptionError, match="cannot be written"):
        learned().save(tmp_path / "taken")
    assert not list((tmp_path / "taken").glob("*.part")) + list((tmp_path / "taken").glob(".*"))


def test_wrong_states_and_settings_are_refused() -> None:
    own = memory()
    with pytest.raises(OptionError, match=r"states have shape \[2, 5\]"):
        own.classify(torch.zeros(2, 5))
    with pytest.raises(OptionError, match="states have shape"):
        own.classify(torch.zeros(WIDTH))
    with pytest.raises(OptionError, match="not finite"):
        own.classify(torch.full((1, WIDTH), float("nan")))
    with pytest.raises(OptionError, match="learned nothing"):
        own.classify(states(2), used_only=True)
    with pytest.raises(OptionError, match="labels are"):
        Bottleneck.empty(own.keys, ["a", "a"])
    with pytest.raises(OptionError, match="labels are"):
        Bottleneck.empty(own.keys, [])
    with pytest.raises(OptionError, match="3 unlabelled states for 4 keys"):
        fit_keys(states(3), KeySettings(keys=4))
    for wrong in ({"books": 0}, {"keys": 0}, {"size": 0}, {"decay": 1.0}, {"epochs": -1}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            KeySettings(**wrong)
