"""Models to be tested with the reference that judges them."""

from pathlib import Path
from typing import Any

import torch

from outrider.models.transformers.model import TransformersModel
from tests.models.setups.built import RUNS, BuiltReference, build
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import Reference
from tests.models.setups.runners import KINDS, load

Pair = tuple[Any, Reference]
"""A runner's model, and the judge of its logits."""


class Pairs:
    """Pairs by kind and runner. Runners of one kind share its checkpoint and its reference."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._references: dict[str, Reference] = {}

    def of(self, kind: str, runner: str) -> Pair:
        """In float32: a kind of `KINDS`, or one of `RUNS`, which `transformers` alone can run."""
        if kind in RUNS and runner == "transformers":
            model = build(*RUNS[kind])
            return TransformersModel(model), BuiltReference(model)
        path = self.checkpoint(kind)
        if kind not in self._references:
            self._references[kind] = Reference(path)
        return load(runner, path, torch.float32), self._references[kind]

    def exact(self, kind: str, runner: str) -> Any:
        """The model alone, in float64."""
        if kind in RUNS and runner == "transformers":
            return TransformersModel(build(*RUNS[kind]).double())
        return load(runner, self.checkpoint(kind))

    def checkpoint(self, kind: str) -> Path:
        """The folder of a kind of `KINDS`."""
        path = self._folder / kind
        return path if path.exists() else make_checkpoint(path, kind, **KINDS[kind])
