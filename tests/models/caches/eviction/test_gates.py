"""Files of gates (RLKV, arXiv 2510.08525; DuoAttention, arXiv 2410.10819)."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from outrider.core.errors import OptionError
from outrider.models.caches.eviction.heads.gates import FORMAT, Gates

VALUES = np.array([[0.5, 1.0], [0.0, 0.5], [0.25, 0.5]], dtype=np.float32)


def gates(values: np.ndarray = VALUES, **given: object) -> Gates:
    own = {"method": "rlkv", "fingerprint": "a" * 64, "sinks": 4, "recent": 16, "facts": {"b": 1}}
    return Gates(values=values, **(own | given))


def test_a_file_gives_back_all_that_was_saved(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "a.safetensors"
    gates().save(file)
    found = Gates.load(file)
    assert np.array_equal(found.values, VALUES) and found.values.dtype == np.float32
    assert (found.method, found.fingerprint) == ("rlkv", "a" * 64)
    assert (found.sinks, found.recent, found.facts) == (4, 16, {"b": 1})
    assert [one.name for one in file.parent.iterdir()] == ["a.safetensors"]
    gates(VALUES[:1]).save(file)
    assert len(Gates.load(str(file)).values) == 1


def test_a_file_carries_the_model_hash_and_refuses_another_model(tmp_path: Path) -> None:
    gates().save(tmp_path / "a")
    found = Gates.load(tmp_path / "a")
    found.check("a" * 64, 3, 2)
    with pytest.raises(OptionError, match=r"another model \(aaaaaaaaaaaa, and.*bbbbbbbbbbbb\)"):
        found.check("b" * 64, 3, 2)
    with pytest.raises(OptionError, match="3 layers of 2 KV heads, the model has 2 of 3"):
        found.check("a" * 64, 2, 3)
    with pytest.raises(OptionError, match=r"another model \(none"):
        gates(fingerprint="").check("a" * 64, 3, 2)
    Gates.random(3, 2, 0).check("a" * 64, 3, 2)
    with pytest.raises(OptionError, match="3 layers of 2 KV heads"):
        Gates.random(3, 2, 0).check("a" * 64, 2, 2)


def test_the_largest_gates_stay_full_and_the_first_of_equal_ones() -> None:
    def full(sparsity: float) -> list[int]:
        return np.flatnonzero(gates().full_heads(sparsity)).tolist()

    assert gates().full_heads(0.0).shape == (3, 2) and gates().full_heads(0.0).all()
    assert full(1.0) == []
    assert full(0.5) == [0, 1, 3]
    assert full(2 / 3) == [0, 1]
    assert full(0.49) == [0, 1, 3]  # 2.94 of 6: three are dropped
    assert full(0.4) == [0, 1, 3, 5]
    ten = gates(np.linspace(0, 1, 10, dtype=np.float32)[None])
    assert [ten.full_heads(n / 10).sum() for n in range(11)] == list(range(10, -1, -1))
    for sparsity in (-0.1, 1.1, float("nan")):
        with pytest.raises(OptionError, match="sparsity is"):
            full(sparsity)


def test_random_gates_are_uniform_and_depend_on_the_seed() -> None:
    drawn = Gates.random(100, 10, 3)
    assert (drawn.method, drawn.fingerprint, drawn.sinks, drawn.recent) == ("random", "", 0, 0)
    assert abs(drawn.values.mean() - 0.5) < 0.03 and drawn.values.max() > 0.99
    assert np.array_equal(drawn.values, Gates.random(100, 10, 3).values)
    assert not np.array_equal(drawn.values, Gates.random(100, 10, 4).values)


def test_faulty_gates_are_refused() -> None:
    for values in (VALUES - 0.1, VALUES + 0.1, VALUES * np.nan):
        with pytest.raises(OptionError, match="not from 0 to 1"):
            gates(values)
    for values in (VALUES[0], VALUES[None], VALUES[:0]):
        with pytest.raises(OptionError, match="shape"):
            gates(values)
    with pytest.raises(OptionError, match="sinks is -1"):
        gates(sinks=-1)
    with pytest.raises(OptionError, match=r"recent is 1\.5"):
        gates(recent=1.5)
    with pytest.raises(ValueError, match="read-only"):
        gates().values[0, 0] = 1


def about(**changes: str | None) -> dict[str, str]:
    own = {"format": FORMAT, "method": "a", "fingerprint": "a", "sinks": "1", "recent": "2"}
    given = {**own, "facts": "{}", **changes}
    return {key: value for key, value in given.items() if value is not None}


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    cases: list[tuple[dict[str, np.ndarray], dict[str, str] | None, str]] = [
        ({"gates": VALUES}, None, "holds no gates"),
        ({"gates": VALUES}, about(format="other"), "holds no gates"),
        ({"weight": VALUES}, about(), "holds no gates"),
        ({"gates": VALUES, "weight": VALUES}, about(), "holds no gates"),
        ({"gates": VALUES.astype(np.float64)}, about(), "are float64"),
        ({"gates": VALUES[0]}, about(), r"damaged: gates have the shape \[2\]"),
        ({"gates": VALUES * 3}, about(), "damaged: a gate is not from 0 to 1"),
        ({"gates": VALUES}, about(sinks=None), "lacks sinks"),
        ({"gates": VALUES}, about(recent="many"), "damaged: a faulty number"),
        ({"gates": VALUES}, about(sinks="-1"), "damaged: sinks is -1"),
        ({"gates": VALUES}, about(facts="{"), "damaged"),
        ({"gates": VALUES}, about(facts="[1]"), "damaged"),
        ({"gates": VALUES}, about(facts="[" * 100_000), "damaged"),
    ]
    for tensors, metadata, problem in cases:
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, file, metadata)
        with pytest.raises(OptionError, match=problem) as caught:
            Gates.load(file)
        assert "\n" not in str(caught.value) and "outrider train gates" in str(caught.value)
    for content in (b"", b"not safetensors", json.dumps({"gates": 1}).encode()):
        file.write_bytes(content)
        with pytest.raises(OptionError, match="no safetensors file"):
            Gates.load(file)
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(OptionError, match="no file of gates"):
            Gates.load(place)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be written"):
        gates().save(tmp_path / "file" / "a")
