"""Model folders: what is read without weights, what is refused, and how the errors read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints import checkpoint as module
from outrider.models.checkpoints.checkpoint import load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from tests.models.setups.make_checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original")
    return make_checkpoint(path, "qwen3", generation={"temperature": 0.6, "eos_token_id": [1, 2]})


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "shards", "llama", shard_size="20KB")


def refused(path: Path | str, *words: str) -> None:
    """One line that holds all `words`."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_what_is_read(folder: Path) -> None:
    found = open_checkpoint(folder)
    weights = load_file(folder / "model.safetensors")
    assert found.path == folder
    assert found.config["model_type"] == "qwen3"
    assert found.generation["temperature"] == 0.6
    assert {name: info.shape for name, info in found.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in weights.items()
    }
    assert found.total_bytes == sum(t.nbytes for t in weights.values())
    assert found.num_parameters == sum(t.numel() for t in weights.values())
    assert all(info.dtype == "F32" for info in found.tensors.values())


def test_weights_are_not_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "safe_open", None)
    assert open_checkpoint(folder).num_parameters > 0


def test_home_and_text_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert open_checkpoint(f"~/{folder.name}").path == folder


def test_without_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    assert open_checkpoint(folder).generation == {}


def test_load(folder: Path) -> None:
    found = open_checkpoint(folder)
    names = ["model.norm.weight", "lm_head.weight"]
    loaded = load_tensors(found, names, torch.float64, "cpu")
    weights = load_file(folder / "model.safetensors")
    assert set(loaded) == set(names)
    for name in names:
        assert loaded[name].dtype == torch.float64
        assert torch.equal(loaded[name], weights[name].double())


def test_loaded_tensors_outlive_the_file(folder: Path) -> None:
    loaded = load_tensors(open_checkpoint(folder), ["lm_head.weight"], torch.float32)
    before = loaded["lm_head.weight"].clone()
    file = folder / "model.safetensors"
    with file.open("r+b") as stream:
        stream.seek(-1000, 2)
        stream.write(b"\0" * 1000)
    assert torch.equal(loaded["lm_head.weight"], before)


def test_load_of_an_unknown_name(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no tensor nonsense"):
        load_tensors(open_checkpoint(folder), ["nonsense"], torch.float32)


def test_shards(shards: Path) -> None:
    found = open_checkpoint(shards)
    assert len({info.file for info in found.tensors.values()}) > 3
    loaded = load_tensors(found, found.tensors, torch.float32)
    for file in shards.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert torch.equal(loaded[name], tensor)


class TestFingerprint:
    def test_is_stable(self, folder: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(folder, tmp_path / "copy")
        assert open_checkpoint(copy).fingerprint == open_checkpoint(folder).fingerprint

    @pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight"])
    def test_changes_with_weights(self, folder: Path, name: str) -> None:
        before = open_checkpoint(folder).fingerprint
        weights = load_file(folder / "model.safetensors")
        weights[name] += 1e-3
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        assert open_checkpoint(folder).fingerprint != before

    def test_changes_with_a_name(self, folder: Path) -> None:
        before = open_checkpoint(folder).fingerprint
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.w"] = weights.pop("model.norm.weight")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        assert open_checkpoint(folder).fingerprint != before

    def test_changes_with_the_configuration(self, folder: Path) -> None:
        before = open_checkpoint(folder).fingerprint
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
        assert open_checkpoint(folder).fingerprint != before


class TestRefusals:
    def test_missing_folder(self, tmp_path: Path) -> None:
        refused(tmp_path / "nowhere", "nowhere", "config.json")

    def test_without_config(self, folder: Path) -> None:
        (folder / "config.json").unlink()
        refused(folder, "no config.json")

    def test_adapter(self, folder: Path) -> None:
        (folder / "config.json").rename(folder / "adapter_config.json")
        refused(folder, "adapter", "Merge")

    @pytest.mark.parametrize("text", ["{", "[1]"])
    def test_config_that_is_no_object(self, folder: Path, text: str) -> None:
        (folder / "config.json").write_text(text)
        refused(folder, "config.json")

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
    def test_pickles(self, folder: Path, name: str) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        refused(folder, name, "pickle", "safetensors")
        refused(folder / name, name, "pickle")

    def test_pickle_beside_safetensors_is_ignored(self, folder: Path) -> None:
        (folder / "training_args.bin").write_bytes(b"junk")
        assert open_checkpoint(folder).num_parameters

    def test_gguf(self, tmp_path: Path) -> None:
        (tmp_path / "model.gguf").write_bytes(b"GGUF")
        refused(tmp_path, "model.gguf", "damaged or truncated")
        refused(tmp_path / "model.gguf", "damaged or truncated")

    def test_a_file_instead_of_a_folder(self, folder: Path) -> None:
        refused(folder / "model.safetensors", "folder that holds config.json")

    def test_no_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        refused(folder, "no weights", "model.safetensors")


class TestDamage:
    @pytest.mark.parametrize("kept", [0, 5, 40, 2000])
    def test_truncated(self, folder: Path, kept: int) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:kept])
        refused(folder, "model.safetensors", f"the file has {kept}", "header gives", "Download")

    def test_last_byte_missing(self, folder: Path) -> None:
        file = folder / "model.safetensors"
        size = file.stat().st_size
        file.write_bytes(file.read_bytes()[:-1])
        refused(folder, f"the header gives {size} bytes, the file has {size - 1}")

    @pytest.mark.parametrize(
        "header",
        [b"nonsense", b"[1]", b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": [1]}}'],
    )
    def test_malformed_header(self, folder: Path, header: bytes) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(len(header).to_bytes(8, "little") + header)
        refused(folder, "model.safetensors", "header")

    def test_negative_range(self, folder: Path) -> None:
        header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}'
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        refused(folder, "malformed")

    def test_not_safetensors_at_all(self, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"<html>not found</html>" * 10)
        refused(folder, "model.safetensors", "damaged")

    def test_lfs_pointer(self, folder: Path) -> None:
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
        (folder / "model.safetensors").write_text(pointer)
        refused(folder, "Git LFS", "git lfs pull")

    def test_missing_shard(self, shards: Path) -> None:
        gone = sorted(shards.glob("*.safetensors"))[1]
        gone.unlink()
        refused(shards, gone.name, "index.json")

    def test_truncated_shard(self, shards: Path) -> None:
        cut = sorted(shards.glob("*.safetensors"))[1]
        cut.write_bytes(cut.read_bytes()[:-10])
        refused(shards, cut.name, "the file has")

    def test_tensor_that_its_shard_lacks(self, shards: Path) -> None:
        index = shards / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        content["weight_map"]["extra"] = next(iter(content["weight_map"].values()))
        index.write_text(json.dumps(content))
        refused(shards, "lists extra in")

    def test_shard_outside_the_folder(self, shards: Path, folder: Path) -> None:
        index = shards / "model.safetensors.index.json"
        content = {"weight_map": {"a": f"../{folder.name}/model.safetensors"}}
        index.write_text(json.dumps(content))
        refused(shards, "which is not in")

    def test_index_without_a_map(self, shards: Path) -> None:
        (shards / "model.safetensors.index.json").write_text("{}")
        refused(shards, "weight_map")
