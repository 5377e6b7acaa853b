"""`outrider train coprocessor`: a corpus, the soft tokens and the adapter, and their loss."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from outrider.core.errors import writing
from outrider.core.values import JsonValue
from outrider.models.latents.coprocessor import FORMAT, KIND
from outrider.models.llama.decoder import Decoder
from outrider.training.coprocessor.augmenter import Augmenter
from outrider.training.coprocessor.config import CoprocessorRecipe
from outrider.training.coprocessor.fit import (
    fit,
    held_out_losses,
    held_out_traces,
    without_latents,
)
from outrider.training.core.config import read_table
from outrider.training.core.corpus import build_corpus, data_folder
from outrider.training.core.loop import StopSignal, run_in
from outrider.training.core.lora import write_adapter
from outrider.training.core.pairs import folder_of
from outrider.training.core.state import save_tensors, write_json
from outrider.training.core.tokenizer import load_tokenizer

Report = Callable[[str], None]


def train_coprocessor(
    config: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    report: Report = print,
) -> Path:
    """Train the coprocessor that a TOML file describes; return the folder of its files.

    An interrupted run continues from its last checkpoint.

    Args:
        config: the TOML file (`CoprocessorRecipe`).
        data: folder of the data sets; None: the one in the file.
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings, or no data.
        UnsupportedCheckpointError: the target is not Llama-shaped.
        TrainingStopped: after SIGTERM or SIGINT, with a checkpoint.
    """
    recipe = read_table(config, CoprocessorRecipe)
    place, folder = data_folder(data or Path(recipe.data)), out or Path(recipe.out)
    source = folder_of(recipe.target, "target")
    with run_in(folder, recipe.threads) as stop:
        corpus = prepared(recipe, place, source, folder)
        files = folder / recipe.name
        train_on(recipe, Decoder.load(source), corpus, folder, files, stop, report)
    report(f"coprocessor: {files}")
    return files


def prepared(recipe: CoprocessorRecipe, data: Path, source: Path, folder: Path) -> Path:
    """Return the folder of the corpus; it is made if it is not there.

    Args:
        recipe: says what it is made of.
        data: folder of the data sets.
        source: folder of the target, whose tokenizer is used.
        folder: folder of the run.

    Raises:
        OptionError: a file is missing.
    """
    corpus = folder / "corpus"
    if not (corpus / "train.npy").is_file() or not list(corpus.glob("heldout.*.npy")):
        corpus.mkdir(parents=True, exist_ok=True)
        build_corpus(recipe, data, load_tokenizer(source), corpus)
    return corpus


def train_on(
    recipe: CoprocessorRecipe,
    target: Decoder,
    corpus: Path,
    folder: Path,
    files: Path,
    stop: StopSignal,
    report: Report,
) -> Augmenter:
    """Train on a corpus, measure on its held-out texts, and write the files.

    Args:
        recipe: the options.
        target: the frozen target, in float32.
        corpus: the folder that `build_corpus` has filled.
        folder: where the checkpoint of the training is.
        files: where soft tokens and adapter are written.
        stop: whether to stop.
        report: called with lines about the progress.

    Raises:
        OptionError: the corpus is too small.
        TrainingStopped: `stop` asked for it, with a checkpoint.
    """
    held_out = held_out_traces(corpus, recipe)
    augmenter = Augmenter(target, recipe.latents, recipe.rank, recipe.lora_alpha, recipe.seed)
    stream = np.load(corpus / "train.npy", mmap_mode="r")
    fit(augmenter, stream, held_out, recipe, folder, stop)
    losses: dict[str, dict[str, float]] = {}
    for name, texts in held_out.items():
        losses[name] = {
            "without": round(float(held_out_losses(augmenter, without_latents(texts)).mean()), 4),
            "with": round(float(held_out_losses(augmenter, texts).mean()), 4),
        }
        report(
            f"{name}: loss of the next {recipe.ahead} tokens {losses[name]['without']:.4f} without "
            f"latents, {losses[name]['with']:.4f} with {recipe.latents}"
        )
    write(files, recipe, augmenter, losses)
    return augmenter


def write(
    files: Path,
    recipe: CoprocessorRecipe,
    augmenter: Augmenter,
    losses: Mapping[str, Mapping[str, float]],
) -> None:
    """Write the adapter in peft's format, the soft tokens, and their card, into one folder."""
    target = augmenter.target
    updates = dict(augmenter.updates.named(target.config))
    write_adapter(files, updates, recipe.target, recipe.rank, recipe.lora_alpha)
    facts: dict[str, JsonValue] = {
        "format": FORMAT,
        "target": recipe.target,
        "fingerprint": target.info.fingerprint,
        "ahead": recipe.ahead,
        "losses": json.loads(json.dumps(losses)),
        "recipe": json.loads(json.dumps(asdict(recipe))),
    }
    weights = {"soft": augmenter.soft.detach().clone(), "scale": augmenter.scale.detach().clone()}
    save_tensors(files / f"{KIND}.safetensors", weights)
    write_json(files / f"{KIND}.json", facts)
    with writing(files):
        (files / "README.md").write_text(_card(recipe, losses), encoding="utf-8")


def _card(recipe: CoprocessorRecipe, losses: Mapping[str, Mapping[str, float]]) -> str:
    """Write the card as Markdown."""
    lines = [
        f"# {recipe.name}",
        "",
        f"A coprocessor for `{recipe.target}`, made with `outrider train coprocessor`: a LoRA "
        f"adapter of rank {recipe.rank} and {recipe.latents} soft tokens. Behind a prompt it "
        f"writes {recipe.latents} latents into the cache of the model, which then writes other "
        "texts than without them.",
        "",
        f"| held-out texts | loss of the next {recipe.ahead} tokens | with the latents |",
        "|---|---|---|",
        *(f"| {name} | {one['without']:.4f} | {one['with']:.4f} |" for name, one in losses.items()),
        "",
        "| corpus | licence of the records |",
        "|---|---|",
        *(f"| {one.name} | {one.licence} |" for one in recipe.corpus.sources),
    ]
    return "\n".join([*lines, ""])
