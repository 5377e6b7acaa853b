"""Files of a checkpoint that are deep, large, no JSON, or no files."""

import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from outrider.core.errors import CheckpointError, OptionError
from outrider.models.checkpoints import json_file
from outrider.models.checkpoints.json_file import check_depth, parse_object
from outrider.models.checkpoints.limits import VARIABLE, CheckpointLimits
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model
from tests.fuzz.case import Case
from tests.fuzz.checkpoints.mutations import DEEP, linked, make_original, single
from tests.fuzz.sandbox import Sandbox


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_original(tmp_path_factory.mktemp("original"))


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    linked(original, tmp_path)
    return tmp_path / "model"


def write(file: Path, content: str | bytes) -> None:
    """Replace a file, which may be a link to the original."""
    file.unlink(missing_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def large(file: Path) -> None:
    """A file with holes: it takes no space."""
    file.unlink()
    with file.open("wb") as stream:
        stream.truncate(300 << 20)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (lambda file: write(file, file.read_bytes()[:-9]), "is not JSON"),
    "UTF-16": (lambda file: write(file, file.read_text().encode("utf-16")), "is not UTF-8"),
    "Latin-1": (lambda file: write(file, b'{"a": "\xe9"}'), "is not UTF-8"),
    "byte order mark": (
        lambda file: write(file, b"\xef\xbb\xbf" + file.read_bytes()),
        "byte order mark",
    ),
    "empty": (lambda file: write(file, b""), "is not JSON"),
    "list": (lambda file: write(file, "[1, 2]"), "holds a list"),
    "text": (lambda file: write(file, '"x"'), "holds a str"),
    "null": (lambda file: write(file, "null"), "holds a NoneType"),
    "deep": (lambda file: write(file, f'{{"a": {DEEP}}}'), "levels deep"),
    "open brackets": (lambda file: write(file, "[" * 100_000), "levels deep"),
    "deep objects": (lambda file: write(file, '{"a":' * 100_000), "levels deep"),
    "long number": (lambda file: write(file, '{"a": ' + "9" * 10_000 + "}"), "is not JSON"),
    "pointer": (
        lambda file: write(file, b"version https://git-lfs.github.com/spec/v1\n"),
        "Git LFS pointer",
    ),
    "large": (large, "above the limit"),
    "directory": (directory, "is a directory"),
    "fifo": (fifo, "no regular file"),
    "loop of links": (loop, "cannot be read"),
}

FILES = ("config.json", "generation_config.json", "model.safetensors.index.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named(model: Path, name: str, file: str) -> None:
    change, message = DAMAGE[name]
    change(model / file)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(model)
    text = str(caught.value)
    assert message in text
    assert file in text
    assert "\n" not in text


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_of_the_tokenizer_is_named(model: Path, name: str) -> None:
    change, message = DAMAGE[name]
    change(model / "tokenizer_config.json")
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.load(model)


@pytest.mark.parametrize("name", ["deep", "large", "directory", "fifo", "loop of links", "empty"])
def test_a_damaged_tokenizer_json_is_one_line(model: Path, name: str) -> None:
    DAMAGE[name][0](model / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json|the tokenizer of") as caught:
        Tokenizer.load(model)
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_file(original: Path, tmp_path: Path) -> None:
    for number, change in enumerate((fifo, directory, loop)):
        folder = tmp_path / str(number)
        single(original, folder)
        change(folder / "model" / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            open_checkpoint(folder / "model")


@pytest.mark.parametrize("shard", ["../model.safetensors", "a\0b", "\ud800", "", ".", "x" * 400])
def test_a_shard_has_the_name_of_a_file(model: Path, shard: str) -> None:
    index = json.loads((model / "model.safetensors.index.json").read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], shard)
    write(model / "model.safetensors.index.json", json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json lists"):
        open_checkpoint(model)


def test_a_file_that_cannot_be_opened(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(json_file.Path, "read_bytes", refuse)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        open_checkpoint(model)


class TestDepth:
    def test_brackets_in_texts_do_not_count(self) -> None:
        text = json.dumps({"a": "[" * 500, "b\\": '"[[\\' * 100, "c": ["]\\\\" * 200]})
        check_depth(text.encode(), "it")
        assert parse_object(text.encode(), "it")["a"] == "[" * 500

    def test_brackets_after_texts_count(self) -> None:
        deep = '{"a\\\\": ' + "[" * 100 + '"]]"' + "]" * 100 + "}"
        with pytest.raises(CheckpointError, match="101 levels"):
            check_depth(deep.encode(), "it")

    def test_many_shallow_lists_are_accepted(self) -> None:
        check_depth(b"[" + b"[],{}," * 10_000 + b"[]]", "it")

    def test_a_large_file_takes_little_time(self) -> None:
        data = json.dumps({"merges": ['Ġthe \\ q"[' * 3] * 300_000}).encode()
        assert len(data) > 10_000_000
        start = time.process_time()
        check_depth(data, "it")
        assert time.process_time() - start < 2


class TestLimits:
    def test_the_variable_changes_a_limit(
        self, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(VARIABLE, "layers=1")
        with pytest.raises(CheckpointError, match=f'to 1, .*{VARIABLE}="layers=...'):
            open_checkpoint(model)
        monkeypatch.setenv(VARIABLE, " layers=2, config_bytes=1000000")
        open_checkpoint(model)
        assert CheckpointLimits.current().config_bytes == 1_000_000

    @pytest.mark.parametrize(
        "text", ["layers", "layers=", "layers=x", "layers=-1", "layers=0", "width=1e9", "layer=3"]
    )
    def test_a_malformed_variable(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(OptionError, match=VARIABLE):
            CheckpointLimits.current()

    def test_a_large_header(self, original: Path, tmp_path: Path) -> None:
        single(original, tmp_path)
        file = tmp_path / "model" / "model.safetensors"
        with file.open("r+b") as stream:
            stream.write((60 << 20).to_bytes(8, "little"))
            stream.truncate(100 << 20)
        with pytest.raises(CheckpointError, match=r"header .* above the limit"):
            open_checkpoint(tmp_path / "model")

    @pytest.mark.parametrize("name", ["hidden_size", "vocab_size", "intermediate_size"])
    def test_widths_that_no_tensor_has(self, model: Path, name: str) -> None:
        config = json.loads((model / "config.json").read_text())
        write(model / "config.json", json.dumps(config | {name: 100_000}))
        with pytest.raises(CheckpointError, match=f"{name} 100000, but the weights have axes"):
            open_checkpoint(model)

    def test_large_sizes_take_no_memory(self, model: Path) -> None:
        """Sizes below the limits: nothing of that size is built before the shapes are compared."""
        config = json.loads((model / "config.json").read_text())
        changes = {"head_dim": CheckpointLimits().head_dim, "vocab_size": 65_000}
        write(model / "config.json", json.dumps(config | changes))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CheckpointError, match="has shape"):
            load_model(model, dtype="float32", device="cpu")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000

    def test_more_layers_than_tensors(self, model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        write(model / "config.json", json.dumps(config | {"num_hidden_layers": 4000}))
        with pytest.raises(CheckpointError, match="num_hidden_layers 4000, but the weights hold"):
            open_checkpoint(model)


class TestFinite:
    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_a_checkpoint(
        self, original: Path, tmp_path: Path, value: float, dtype: torch.dtype
    ) -> None:
        from safetensors.torch import load_file, save_file

        single(original, tmp_path)
        file = tmp_path / "model" / "model.safetensors"
        weights = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
        weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
        save_file(weights, file, {"format": "pt"})
        with pytest.raises(CheckpointError, match=r"model\.safetensors holds .*layers\.1\.mlp\.up"):
            load_model(tmp_path / "model", dtype="float32", device="cpu")


@pytest.mark.slow
def test_damaged_files_on_the_command_line(original: Path, sandbox: Sandbox) -> None:
    def case(name: str, file: str) -> Case:
        def make(folder: Path) -> None:
            linked(original, folder)
            DAMAGE[name][0](folder / "model" / file)

        expect = file if file in FILES else ""
        return Case(
            name=f"{file} {name}", make=make, arguments=("info", "{folder}/model"), expect=expect
        )

    cases = [case(name, file) for name in DAMAGE for file in FILES]
    assert list(sandbox.faults(cases)) == []
