"""`outrider train exits`: a draft model whose exits are trained together, and its thresholds."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

from outrider.core.layers import Exits
from outrider.core.values import JsonValue
from outrider.models.llama.exits import FILE, FORMAT
from outrider.training.core.config import read_table
from outrider.training.core.corpus import Windows, build_corpus, data_folder
from outrider.training.core.evaluate import heldout_windows
from outrider.training.core.loop import StopSignal, run_in, train_one
from outrider.training.core.models import export_model
from outrider.training.core.pairs import ModelPair, folder_of, load_pair
from outrider.training.core.state import load_checkpoint, write_json
from outrider.training.core.tokenizer import load_tokenizer
from outrider.training.exits.config import ExitsRecipe
from outrider.training.exits.measure import (
    ExitFigures,
    cheapest,
    measure_exits,
    relative_cost,
)
from outrider.training.exits.model import exit_losses, soft_gradients, with_layers
from outrider.training.heads.prompts import training_prompts

_MODEL = "exits"
_HELD_OUT = 8192
"""Tokens of each domain on which the exits are measured."""


def train_exits(
    config: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train the draft model that a TOML file describes; return its folder.

    An interrupted run continues from its last checkpoint.

    Args:
        config: the TOML file (`ExitsRecipe`).
        data: folder of the data sets; None: the one in the file.
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings, or no data.
        TrainingStopped: after SIGTERM or SIGINT, with a checkpoint.
    """
    recipe = read_table(config, ExitsRecipe)
    place, folder = data_folder(data or Path(recipe.data)), out or Path(recipe.out)
    files = folder / recipe.name
    with run_in(folder, recipe.threads) as stop:
        start = folder_of(recipe.start, "draft")
        if not (folder / "corpus" / "train.npy").is_file():
            (folder / "corpus").mkdir(exist_ok=True)
            build_corpus(recipe, place, load_tokenizer(start), folder / "corpus")
        losses = _train(recipe, folder, start, stop)
        model = with_layers(
            LlamaForCausalLM.from_pretrained(start, trust_remote_code=False), recipe.layers
        )
        load_checkpoint(folder / f"{_MODEL}.safetensors", {_MODEL: model}, {})
        export_model(model, load_tokenizer(start), files)
        report(f"held-out loss of the exits: {losses}")
        facts: dict[str, JsonValue] = {
            "format": FORMAT,
            "exits": list(recipe.exits),
            "thresholds": {},
            "losses": losses,
            "start": recipe.start,
        }
        write_json(files / FILE, facts)
        thresholds, measured = _thresholds(recipe, files, place, report)
        write_json(files / FILE, facts | {"thresholds": thresholds, "measured": measured})
    report(f"draft model: {files}")
    return files


def _thresholds(
    recipe: ExitsRecipe, files: Path, data: Path, report: Callable[[str], None]
) -> tuple[dict[str, JsonValue], dict[str, JsonValue]]:
    """Return the cheapest threshold of each target, by its fingerprint, and all figures.

    Raises:
        VocabularyError: a target has another vocabulary.
    """
    thresholds: dict[str, JsonValue] = {}
    measured: dict[str, JsonValue] = {}
    exits = Exits(layers=recipe.exits)
    for name in recipe.targets:
        pair = load_pair(str(folder_of(name, "target")), str(files))
        prompts = list(islice(_prompts(recipe, pair, data), recipe.measured))
        measured_at = partial(
            measure_exits,
            pair.target,
            pair.draft,
            prompts=prompts,
            depth=recipe.depth,
            longest=recipe.longest,
        )
        found = [measured_at(exits, threshold=one) for one in recipe.grid]
        whole = measured_at(Exits(layers=exits.layers[-1:]), threshold=0.0)
        best = cheapest(found)
        for one in found:
            report(f"{name}: {one}{_relative(one, whole)}")
        report(f"{name}: without inner exits: {whole}")
        thresholds[pair.target.info.fingerprint] = [best.threshold] * (len(recipe.exits) - 1)
        measured[name] = {"grid": [one.to_dict() for one in found], "whole": whole.to_dict()}
    return thresholds, measured


def _relative(one: ExitFigures, whole: ExitFigures) -> str:
    """Say what a token costs relative to the same model without inner exits."""
    parts = [relative_cost(one, whole, bare=bare) for bare in (False, True)]
    texts = [f"{ratio:.3f} [{low:.3f}, {high:.3f}]" for ratio, low, high in parts]
    return f"; relative to no inner exits {texts[0]}, without heads {texts[1]}"


def _prompts(recipe: ExitsRecipe, pair: ModelPair, data: Path) -> Iterator[tuple[int, ...]]:
    """Yield the prompts that are short enough, in random order."""
    for prompt in training_prompts(recipe.prompts, data, recipe.seed):
        ids = pair.tokenizer.chat(prompt.messages)
        if len(ids) <= recipe.longest_prompt:
            yield ids


def _train(recipe: ExitsRecipe, folder: Path, start: Path, stop: StopSignal) -> dict[str, float]:
    """Train until the stage ends; return the held-out loss of each exit."""
    torch.manual_seed(recipe.seed)
    model = with_layers(
        LlamaForCausalLM.from_pretrained(start, trust_remote_code=False), recipe.layers
    )
    stage, exits = recipe.stage, Exits(layers=recipe.exits).layers
    stream = np.load(folder / "corpus" / "train.npy", mmap_mode="r")
    windows = Windows(stream, stage.sequence_length + 1, stage.stream, recipe.seed)
    heldout = heldout_windows(folder / "corpus", stage.sequence_length + 1, _HELD_OUT)
    parts = stage.batch // stage.micro_batch

    def step(row: int) -> dict[str, float]:
        sums = np.zeros(len(exits))
        for part in range(parts):
            first = row + part * stage.micro_batch
            rows = torch.from_numpy(windows.rows(first, stage.micro_batch))
            sums += soft_gradients(model, rows, exits, 1 / parts)
        return {f"loss/{layer}": float(s) / parts for layer, s in zip(exits, sums, strict=True)}

    def evaluate() -> dict[str, float]:
        return exit_losses(model, heldout, exits)

    found = train_one(
        _MODEL,
        model,
        stage,
        stop,
        step,
        evaluate,
        folder=folder,
        checkpoint_minutes=recipe.checkpoint_minutes,
        evaluate_minutes=recipe.evaluate_minutes,
    )
    return {name: round(found[name], 4) for name in found if name.startswith("heldout/")}
