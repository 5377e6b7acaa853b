"""A small random family on disk, and the command line run inside the test's own process."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from outrider.cli.app import main
from tests.models.setups.make_checkpoints import make_checkpoint


@pytest.fixture(autouse=True)
def all_unchecked(unchecked: None) -> None:
    """What the commands run is checked in the tests of `engine`, `captioning` and `bench`."""


@dataclass(frozen=True)
class Outcome:
    """How one call ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that standard error must consist of."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        return lines[0].removeprefix("error: ")


@dataclass(frozen=True)
class Family:
    target: Path
    qualifier: Path
    draft: Path

    @property
    def two(self) -> list[str]:
        return ["--target", str(self.target), "--draft", str(self.draft)]

    @property
    def three(self) -> list[str]:
        return [*self.two, "--qualifier", str(self.qualifier)]

    @property
    def alone(self) -> list[str]:
        return ["--target", str(self.target), "--mode", "none"]


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A random target, and two copies with noise: drafts are often accepted, but not always."""
    root = tmp_path_factory.mktemp("family")
    tiers = {"target": 0.0, "qualifier": 0.003, "draft": 0.006}
    return Family(**{name: _noisy(root / name, noise) for name, noise in tiers.items()})


def _noisy(folder: Path, noise: float) -> Path:
    weights = make_checkpoint(folder, tokenizer=True, seed=0) / "model.safetensors"
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: tensor + noise * torch.randn(tensor.shape, generator=generator)
        for name, tensor in load_file(weights).items()
    }
    save_file(tensors, weights, {"format": "pt"})
    return folder


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `outrider` with these arguments and this standard input."""

    def call(*arguments: str | Path, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return call
