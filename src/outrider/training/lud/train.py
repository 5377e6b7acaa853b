"""`outrider train lud`: answers of the target, its lexical units, the adapter and the pad."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from outrider.core.errors import writing
from outrider.core.values import JsonValue
from outrider.drafters.heads.prompt_tokens import PAD_FORMAT, PAD_KIND, PromptTokens
from outrider.models.llama.decoder import Decoder
from outrider.training.core.config import read_table
from outrider.training.core.corpus import data_folder
from outrider.training.core.loop import StopSignal, run_in
from outrider.training.core.lora import write_adapter
from outrider.training.core.pairs import folder_of
from outrider.training.core.state import save_tensors, write_json
from outrider.training.heads.recording import (
    Example,
    record_answers,
    recorded,
    split_held_out,
)
from outrider.training.lud.config import LudRecipe
from outrider.training.lud.fit import fit, guess_rates, text_loss
from outrider.training.lud.tuned import Tuned

Report = Callable[[str], None]


def train_lud(
    config: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    report: Report = print,
) -> Path:
    """Tune the target that a TOML file names; return the folder of adapter and pad.

    An interrupted run continues: with the answers that are still missing, then from the last
    checkpoint of the training.

    Args:
        config: the TOML file (`LudRecipe`).
        data: folder of the data sets; None: the one in the file.
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings, or no data.
        UnsupportedCheckpointError: the target is not Llama-shaped.
        TrainingStopped: after SIGTERM or SIGINT.
    """
    recipe = read_table(config, LudRecipe)
    place, folder = data_folder(data or Path(recipe.data)), out or Path(recipe.out)
    source = folder_of(recipe.target, "target")
    with run_in(folder, recipe.threads) as stop:
        target = Decoder.load(source)
        texts = folder / "texts"
        record_answers(recipe, source, place, texts, report, stop)
        files = folder / recipe.name
        examples = recorded(texts, target.info.vocab_size)
        tune(recipe, target, examples, folder, files, stop, report)
    report(f"adapter and pad: {files}")
    return files


def tune(
    recipe: LudRecipe,
    target: Decoder,
    examples: Sequence[Example],
    folder: Path,
    files: Path,
    stop: StopSignal,
    report: Report,
) -> PromptTokens:
    """Tune on all texts but those held out, write the files, and return the pad.

    Args:
        recipe: the options.
        target: the frozen target, in float32.
        examples: texts; the first ones are held out.
        folder: where the checkpoint of the training is.
        files: where adapter and pad are written.
        stop: whether to stop.
        report: called with lines about the progress.

    Raises:
        OptionError: there are too few texts.
        TrainingStopped: `stop` asked for it, with a checkpoint.
    """
    held_out, training = split_held_out(examples, recipe.held_out)
    tuned = Tuned(target, recipe.rank, recipe.lora_alpha, recipe.seed)
    before = text_loss(tuned, held_out)
    fit(tuned, training, held_out, recipe, folder, stop, report)
    after = text_loss(tuned, held_out)
    rates = guess_rates(tuned, held_out, recipe.k, recipe.ranks)
    shares = " ".join(f"{rate:.1%}" for rate in rates[:, 0].tolist())
    report(f"held-out loss of answers: {before:.4f} before, {after:.4f} after")
    report(f"right guesses, by pad: {shares}")
    pad = PromptTokens.of_pad(tuned.pad.detach(), rates, target.info.vocab_size)
    write(
        files, recipe, tuned, pad, {"loss_before": round(before, 4), "loss_after": round(after, 4)}
    )
    return pad


def write(
    files: Path,
    recipe: LudRecipe,
    tuned: Tuned,
    pad: PromptTokens,
    losses: dict[str, float],
) -> None:
    """Write the adapter in peft's format, the pad, and their card, into one folder."""
    settings = json.loads(json.dumps(asdict(recipe)))
    updates = dict(tuned.named_updates())
    write_adapter(files, updates, recipe.target, recipe.rank, recipe.lora_alpha)
    facts: dict[str, JsonValue] = {
        "format": PAD_FORMAT,
        "target": recipe.target,
        "vocab_size": pad.vocab_size,
        "k": recipe.k,
        **losses,
        "recipe": settings,
    }
    weights = {"pad": tuned.pad.detach().clone(), "rates": pad.rates.contiguous()}
    save_tensors(files / f"{PAD_KIND}.safetensors", weights)
    write_json(files / f"{PAD_KIND}.json", facts)
    with writing(files):
        (files / "README.md").write_text(_card(recipe, pad, losses), encoding="utf-8")


def _card(recipe: LudRecipe, pad: PromptTokens, losses: dict[str, float]) -> str:
    """Write the card as Markdown."""
    lines = [
        f"# {recipe.name}",
        "",
        f"A LoRA adapter of rank {recipe.rank} for `{recipe.target}`, and the embedding of a pad, "
        "made with `outrider train lud`. Behind pads the tuned model guesses the tokens after the "
        "next one. It writes other texts than the model without the adapter.",
        "",
        f"Cross-entropy of held-out answers: {losses['loss_before']:.4f} nats before, "
        f"{losses['loss_after']:.4f} after.",
        "",
        "| pad | right guesses |",
        "|---|---|",
        *(f"| {place} | {float(row[0]):.1%} |" for place, row in enumerate(pad.rates, start=1)),
        "",
        "| prompts | licence of the records |",
        "|---|---|",
        *(f"| {one.name} | {one.licence} |" for one in recipe.prompts),
    ]
    return "\n".join([*lines, ""])
