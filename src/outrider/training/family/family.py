"""`outrider train family`: trains a target with its qualifier and draft model from public text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from outrider.core.errors import OptionError
from outrider.training.core.config import FamilyConfig, load_config
from outrider.training.core.corpus import data_folder
from outrider.training.core.loop import StopSignal
from outrider.training.core.state import only_run
from outrider.training.core.workspace import (
    Workspace,
    mark_done,
    prepare_corpus,
    prepare_tokenizer,
    stage_done,
    use_threads,
)
from outrider.training.family.distill import distill
from outrider.training.family.finish import export_family, measure_family
from outrider.training.family.sample import sample_corpus
from outrider.training.family.target import train_target


def train_family(
    config_path: Path, *, out: Path | None = None, resume: bool = True, data: Path | None = None
) -> None:
    """Train, distill and export the family that a TOML file describes.

    `out` is the run's folder (default: the file's `out`); the finished models are in its subfolder
    `family/`. `data` is the directory of the data sets. An interrupted run continues from its last
    checkpoint, unless `resume` is false. Raises `OptionError` for faulty settings and
    `TrainingStopped` after SIGTERM or SIGINT.
    """
    config = load_config(config_path)
    place = data_folder(data or (Path(config.data) if config.data else None))
    folder = out or Path(config.out)
    if not resume and (folder / "state.json").exists():
        raise OptionError(f"{folder} holds a run", hint="Give another --out, or resume the run")
    folder.mkdir(parents=True, exist_ok=True)
    use_threads(config)
    with StopSignal() as stop, only_run(folder):
        run_stages(Workspace(config=config, folder=folder, data=place, stop=stop))


def run_stages(work: Workspace) -> None:
    """Run every stage that is not yet completed, in order."""
    for name, stage in _stages(work.config).items():
        if stage_done(work, name):
            print(f"{name}: done before", flush=True)
            continue
        print(f"{name}: begins", flush=True)
        if work.config.compile:
            # Graphs of earlier stages would count towards the compiler's limit.
            torch.compiler.reset()
        mark_done(work, name, stage(work))


def _stages(config: FamilyConfig) -> dict[str, Callable[[Workspace], Any]]:
    return {
        "tokenizer": prepare_tokenizer,
        "corpus": prepare_corpus,
        "target": lambda work: train_target(work, "target", config.target),
        "target_long": lambda work: train_target(
            work, "target_long", config.target_long, after="target"
        ),
        "samples": sample_corpus,
        "distill": lambda work: distill(work, "distill", config.distill),
        "distill_long": lambda work: distill(
            work, "distill_long", config.distill_long, after="distill"
        ),
        "export": export_family,
        "card": measure_family,
    }
