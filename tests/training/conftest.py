import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from outrider.training.family.family import train_family

MICRO = """
name = "micro"
device = "cpu"
threads = 1

[vocabulary]
size = 300
sample_bytes = 100_000

[models.target]
hidden_size = 32
layers = 2
heads = 2
kv_heads = 1
head_dim = 16
ffn_size = 64

[models.qualifier]
hidden_size = 32
layers = 1
heads = 2
kv_heads = 2
head_dim = 16
ffn_size = 48

[models.draft]
hidden_size = 16
layers = 1
heads = 1
kv_heads = 1
head_dim = 16
ffn_size = 32

[target]
tokens = 1536
sequence_length = 32
batch = 8
micro_batch = 4
learning_rate = 1e-2
final_learning_rate = 1e-3
warmup_tokens = 256
stream = [0.0, 0.9]

[target_long]
tokens = 256
sequence_length = 64
batch = 2
micro_batch = 2
learning_rate = 1e-3
stream = [0.9, 1.0]

[sampling]
tokens = 512
length = 64
batch = 4
longest_prompt = 20

[distill]
tokens = 1536
sequence_length = 32
batch = 8
micro_batch = 8
learning_rate = 1e-2
sample_share = 0.25

[distill_long]
tokens = 256
sequence_length = 64
batch = 2
micro_batch = 2
learning_rate = 1e-3

[corpus]
tokens = 6000
heldout_tokens = 1000

[[corpus.sources]]
name = "stories"
file = "stories.jsonl"
format = "text"
weight = 3

[[corpus.sources]]
name = "chats"
file = "chats.jsonl"
format = "instruction"

[[corpus.heldout]]
name = "stories"
file = "heldout.jsonl"
format = "text"

[[prompts]]
name = "heldout"
file = "chats.jsonl"
format = "instruction"
kind = "chat"
count = 2
licence = "none"
"""

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
