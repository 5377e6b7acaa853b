import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from outrider.training.family.family import train_family

MICRO = Path(__file__).with_name("micro.toml").read_text(encoding="utf-8")

NAMES = ("Ann", "Ben", "Cora", "Dan")
PLACES = ("the wood", "the river", "the old mill", "a far hill")


def story(number: int) -> str:
    who, where = NAMES[number % 4], PLACES[number // 4 % 4]
    return f"{who} went to {where}. There {who} saw {number} birds, and {who} went home again. " * 3


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def write_data(folder: Path) -> Path:
    """Toy data sets as JSON lines."""
    folder.mkdir()

    def write(name: str, records: list[dict[str, str]]) -> None:
        (folder / name).write_text("\n".join(json.dumps(record) for record in records))

    write("stories.jsonl", [{"text": story(number)} for number in range(60)])
    write("heldout.jsonl", [{"text": story(number)} for number in range(60, 70)])
    answers = [{"prompt": f"Where is {who}?", "response": f"At {PLACES[0]}."} for who in NAMES]
    write("chats.jsonl", answers * 5)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one uninterrupted run of the micro configuration, never written to."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "micro.toml").write_text(MICRO)
    torch.set_num_threads(1)
    train_family(folder / "micro.toml", out=folder / "out", data=write_data(folder / "data"))
    return folder / "out"


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Path]:
    """Write the micro configuration with text replaced; returns its path."""

    def make(*changes: tuple[str, str]) -> Path:
        text = MICRO
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "micro.toml"
        path.write_text(text)
        return path

    return make
