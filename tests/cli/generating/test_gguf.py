"""GGUF files on the command line."""

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.fuzz.checkpoints.gguf_files import make_sound

LENGTH = ("--max-new-tokens", "12", "--dtype", "float32", "--json")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return make_sound(folder / "model").write(folder / "m.gguf")


def test_info_names_the_types_by_their_bytes(file: Path, run: Run) -> None:
    [found] = run("info", file, "--json").json["models"]
    assert found["path"] == str(file) and found["model_type"] == "qwen3"
    assert set(found["stored_dtypes"]) == {"F32", "Q4_0", "Q8_0"}
    assert sum(found["stored_dtypes"].values()) == found["stored_bytes"]
    assert (found["runner"], found["end_ids"]) == ("outrider", [256, 259])
    shown = run("info", file)
    assert shown.code == 0 and "Q4_0" in shown.out and "Q8_0" in shown.out


def test_a_file_is_target_qualifier_and_draft(file: Path, run: Run) -> None:
    alone = run("generate", "hi", "--target", file, "--mode", "none", *LENGTH)
    assert (alone.code, alone.err) == (0, "")
    tiers = ("--target", file, "--qualifier", file.parent, "--draft", file)
    drafted = run("generate", "hi", *tiers, "--num-speculative-tokens", "3", *LENGTH)
    assert drafted.json["token_ids"] == alone.json["token_ids"]


def test_a_damaged_file_is_one_line(file: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:-100])
    for command in (("info", tmp_path / "cut.gguf"), ("generate", "hi", "--target", tmp_path)):
        outcome = run(*command)
        assert outcome.code == 2
        assert "cut.gguf is damaged or truncated" in outcome.error
