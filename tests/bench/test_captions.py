"""The benchmarks of captions: scaled text parts, speed by drafter, figures of files."""

import json
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.captions import score, speed
from benchmarks.captions.scaled import scale_text_part

import outrider
from outrider.bench.scaling.scale import cost_scaled_label
from outrider.captioning.scenes.scenes import Scenes
from outrider.core.errors import CheckpointError
from tests.captioning import tiny_clip
from tests.models.setups.vision_checkpoints import (
    make_text_sibling,
    make_vision_checkpoint,
    picture,
)

pytestmark = [
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.filterwarnings("ignore"),  # libraries, of tiny models
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("captions")
    draft = make_text_sibling(root / "draft", "idefics3", shake=0.01)
    return make_vision_checkpoint(root / "target", "idefics3"), draft


@pytest.mark.parametrize("family", ["idefics3", "qwen2_vl"])
def test_a_scaled_text_part_writes_the_same(tmp_path: Path, family: str) -> None:
    small = make_vision_checkpoint(tmp_path / "small", family)
    large = scale_text_part(small, "x2", tmp_path / "large")
    assert scale_text_part(small, "x2", large) == large
    sizes = [(f / "model.safetensors").stat().st_size for f in (small, large)]
    assert sizes[1] > 1.3 * sizes[0]
    label = cost_scaled_label(large)
    assert label is not None
    assert "x2" in label
    texts = [
        outrider.load(folder, mode="none", dtype="float64", threads=1)
        .generate("What?", images=[picture(20, 30)], max_new_tokens=12, temperature=0)
        .token_ids
        for folder in (small, large)
    ]
    assert texts[0] == texts[1]
    with pytest.raises(CheckpointError, match="holds another model"):
        scale_text_part(small, "x3", large)


def measured(monkeypatch, capsys, module, *args: object) -> str:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, args)])
    module.main()
    return capsys.readouterr().out


def test_speed_is_measured_once_and_texts_are_compared(
    folders, tmp_path: Path, monkeypatch, capsys
) -> None:
    target, draft = folders
    systems = ["none", "lookup", "model", "pyramid", "transformers", "transformers-draft"]
    given = ["--model", target, "--draft", draft, "--out", tmp_path, "--count", 2]
    given += ["--repeats", 1, "--max-new-tokens", 6, "--systems", *systems]
    out = measured(monkeypatch, capsys, speed, *given)
    assert "pyramid is left out: no qualifier is given" in out
    lines = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    runs = [line for line in lines if line["kind"] == "run"]
    tables = {line["system"]: line for line in lines if line["kind"] == "table"}
    assert len(runs) == 2 * len(tables)
    assert {"none", "lookup", "model", "transformers"} <= tables.keys()
    for name in ("lookup", "model", "transformers"):
        assert tables[name]["compared"] == 2
        assert tables[name]["unequal"] == []
    assert sum(tables["model"]["shares"].values()) == pytest.approx(1.0)
    assert tables["model"]["counts"]["rounds"] > 0
    measured(monkeypatch, capsys, speed, *given)
    again = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert [line for line in again if line["kind"] == "run"] == runs


def test_other_texts_end_with_an_error(folders, tmp_path: Path, monkeypatch, capsys) -> None:
    target, draft = folders
    given = ["--model", target, "--draft", draft, "--out", tmp_path, "--count", 1]
    given += ["--repeats", 1, "--max-new-tokens", 4, "--systems", "none", "model"]
    measured(monkeypatch, capsys, speed, *given)
    file = tmp_path / "speed.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line.get("system") == "model" and line["kind"] == "run":
            line["token_ids"][-1] += 1
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(SystemExit, match="differ"):
        measured(monkeypatch, capsys, speed, *given)


def test_files_of_captions_are_compared(tmp_path: Path, monkeypatch, capsys) -> None:
    scorer = tiny_clip.save(tiny_clip.scorer(), tmp_path / "clip")
    truths = [Scenes(seed=3).truth(i) for i in range(4)]
    vague = [{"image": f"scene {i}", "caption": "a thing."} for i in range(4)]
    exact = [
        {"image": f"scene {i}", "caption": f"a {t.things[0].color} {t.things[0].shape}."}
        for i, t in enumerate(truths)
    ]
    exact.append({"image": "scene 9", "error": "cannot be read"})
    files = []
    for name, lines in (("vague", vague[1:]), ("exact", exact)):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "found.json"
    torch.manual_seed(0)
    given = [*files, "--scorer", scorer, "--scenes", 3, "--out", out, "--device", "cpu"]
    found = json.loads(measured(monkeypatch, capsys, score, *given))
    assert (found["images"], found["left_out"]) == (3, 1)
    gain = found["files"][str(files[1])]["gain"]
    assert gain["recall"]["mean"] > 0.1
    assert gain["hallucination_rate"] is None  # nothing was said before
    assert gain["clip_score"]["count"] == 3
    kept = json.loads(out.read_text())
    assert kept["names"] == ["scene 1", "scene 2", "scene 3"]
    assert len(kept["files"][str(files[0])]["each"]["words"]) == 3
