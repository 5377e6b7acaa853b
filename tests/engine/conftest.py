"""Four checkpoints on disk, each further from the target, and generators over them."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from outrider.engine.generator import Generator
from outrider.engine.load import load
from outrider.models.llama.decoder import Decoder
from tests.models.setups.make_checkpoints import make_checkpoint

LETTERS = range(ord("a"), ord("z") + 1)
NOT_LETTERS = tuple(i for i in range(288) if i not in LETTERS)
"""Ban these and the text reads back as the ids it was written with."""

WINDOWS = {"num_speculative_tokens": 2, "num_qualified_tokens": 4}


@dataclass(frozen=True)
class Folders:
    target: Path
    qualifier: Path
    small: Path
    draft: Path


def near(path: Path, seed: int, amount: float) -> Path:
    """A checkpoint that often agrees with the target: its weights, shaken."""
    make_checkpoint(path, tokenizer=True, std=0.3)
    model = AutoModelForCausalLM.from_pretrained(path)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += amount * weight.std() * torch.randn(weight.shape, generator=noise)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("models")
    return Folders(
        target=make_checkpoint(root / "target", tokenizer=True, std=0.3),
        qualifier=near(root / "qualifier", 1, 0.1),
        small=near(root / "small", 2, 0.2),
        draft=near(root / "draft", 3, 0.3),
    )


Load = Callable[..., Generator]


@pytest.fixture(scope="session")
def loaded(folders: Folders) -> Load:
    """`load` with the four folders, in float64; each combination is read once."""
    known: dict[Any, Generator] = {}

    def read(tiers: int = 3, **options: Any) -> Generator:
        key = (tiers, *sorted(options.items()))
        if key not in known:
            middle = [folders.qualifier, folders.small][: tiers - 2] if tiers > 2 else None
            draft = folders.draft if tiers > 1 else None
            settings = {"mode": "exact" if tiers > 1 else "none", **WINDOWS, **options}
            known[key] = load(
                folders.target, qualifier=middle, draft=draft, dtype="float64", **settings
            )
        known[key].reset()
        return known[key]

    return read


@dataclass
class Reads:
    """Tokens that models were fed, by the name of the model."""

    prefill: dict[str, int] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    """Counts what `Decoder.forward` is given."""
    seen, forward = Reads(), Decoder.forward

    def spy(self: Decoder, segments: Sequence[Any], want: Sequence[Any]) -> Any:
        books = seen.rounds if any(map(len, want)) else seen.prefill
        for segment in segments:
            unread = 0 if segment.cache.fed else len(segment.cache.pending)
            books[self.info.name] = books.get(self.info.name, 0) + unread + len(segment.tokens)
        return forward(self, segments, want)

    monkeypatch.setattr(Decoder, "forward", spy)
    yield seen


@pytest.fixture
def family(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A family `toy` of three tiers among those that ship."""
    for tier in ("target", "qualifier", "draft"):
        shutil.copytree(getattr(folders, tier), tmp_path / "toy" / tier)
    for module in (
        "outrider.models.sources.families",
        "outrider.models.sources.finding",
        "outrider.engine.options",
        "outrider.engine.build",
    ):
        monkeypatch.setattr(f"{module}.families_folder", lambda: tmp_path)
    return tmp_path / "toy"
