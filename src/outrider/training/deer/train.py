"""`outrider train deer`: answers of the target, two stages, and the files of the draft model."""

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from outrider.core.errors import writing
from outrider.core.values import JsonValue
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.checkpoints.vocabulary import check_vocabularies
from outrider.models.loading import load_model
from outrider.protocols.masks import FORMAT, KIND
from outrider.training.core.config import read_table
from outrider.training.core.corpus import data_folder
from outrider.training.core.loop import StopSignal, run_in
from outrider.training.core.pairs import folder_of
from outrider.training.core.state import save_tensors, write_json
from outrider.training.deer.config import DeerRecipe
from outrider.training.deer.fit import FIRST, Rates, fit, rates_of
from outrider.training.deer.masked import MaskedModel
from outrider.training.heads.recording import Example, record_answers, recorded, split_held_out

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""Files of the first model that stay as they are."""

Report = Callable[[str], None]


def train_deer(
    config: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    report: Report = print,
) -> Path:
    """Train the masked draft model that a TOML file describes; return its folder.

    The model after stage I alone is written beside it, with `-first` behind its name. An
    interrupted run continues: with the answers that are still missing, then from the last
    checkpoint.

    Args:
        config: the TOML file (`DeerRecipe`).
        data: folder of the data sets; None: the one in the file.
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings, no data, or a draft model that is not of type llama.
        VocabularyError: the two models have different vocabularies.
        TrainingStopped: after SIGTERM or SIGINT, with a checkpoint.
    """
    recipe = read_table(config, DeerRecipe)
    place, folder = data_folder(data or Path(recipe.data)), out or Path(recipe.out)
    source, start = folder_of(recipe.target, "target"), folder_of(recipe.draft, "draft")
    with run_in(folder, recipe.threads) as stop:
        vocab_size = _check(source, start)
        record_answers(recipe, source, place, folder / "texts", report, stop)
        examples = [one for one in recorded(folder / "texts", vocab_size) if len(one.places(1))]
        files = train(recipe, start, examples, folder, report, stop)
    report(f"draft model: {files}")
    return files


def train(
    recipe: DeerRecipe,
    start: Path,
    examples: Sequence[Example],
    folder: Path,
    report: Report,
    stop: StopSignal,
) -> Path:
    """Train on all texts but those held out, write the files of both stages; return the folder.

    Args:
        recipe: the options.
        start: the model whose weights it starts with.
        examples: texts whose answers have at least two tokens; the first ones are held out.
        folder: where the checkpoints and the files are written.
        report: called with lines about the progress.
        stop: whether to stop.

    Raises:
        OptionError: there are too few texts.
        TrainingStopped: `stop` asked for it, with a checkpoint.
    """
    held_out, training = split_held_out(examples, recipe.held_out)
    model = MaskedModel.load(start, recipe.both)
    _say(report, "before training", rates_of(model, held_out, recipe.block))
    fit(model, training, held_out, recipe, folder, stop, second=False)
    rates = rates_of(model, held_out, recipe.block)
    _say(report, "after stage I", rates)
    write(folder / f"{recipe.name}-{FIRST}", recipe, start, model, rates)
    fit(model, training, held_out, recipe, folder, stop, second=True)
    rates = rates_of(model, held_out, recipe.block)
    _say(report, "after stage II", rates)
    files = folder / recipe.name
    write(files, recipe, start, model, rates)
    return files


def write(files: Path, recipe: DeerRecipe, start: Path, model: MaskedModel, rates: Rates) -> None:
    """Write a checkpoint in bfloat16, the embedding of the mask, and a card."""
    settings = json.loads(json.dumps(asdict(recipe)))
    facts: dict[str, JsonValue] = {
        "format": FORMAT,
        "block": recipe.block,
        "both": recipe.both,
        "target": recipe.target,
        "right": [round(rate, 4) for rate in rates.right.tolist()],
        "run": round(rates.run, 4),
        "recipe": settings,
    }
    with writing(files):
        files.mkdir(parents=True, exist_ok=True)
        for name in _COPIED:
            if (start / name).is_file():
                shutil.copyfile(start / name, files / name)
        (files / "README.md").write_text(_card(recipe, rates), encoding="utf-8")
    # A decorator in transformers hides the signature of `to` from type checkers.
    small = nn.Module.to(copy.deepcopy(model.model), torch.bfloat16)
    small.save_pretrained(files)  # pyright: ignore[reportCallIssue]
    save_tensors(files / f"{KIND}.safetensors", {"mask": model.mask.detach().clone()})
    write_json(files / f"{KIND}.json", facts)


def _check(source: Path, start: Path) -> int:
    """Return the size of the vocabulary that target and draft model share."""
    target, draft = load_model(source), load_model(start)
    check_vocabularies(Tokenizer.load(source), Tokenizer.load(start), target, draft, "draft")
    return target.info.vocab_size


def _say(report: Report, when: str, rates: Rates) -> None:
    shares = " ".join(f"{rate:.1%}" for rate in rates.right.tolist())
    report(f"{when}: {rates.run:.3f} right tokens of a block; by place: {shares}")


def _card(recipe: DeerRecipe, rates: Rates) -> str:
    """Write the card as Markdown."""
    lines = [
        f"# {recipe.name}",
        "",
        f"A draft model for `{recipe.target}` that predicts up to {recipe.block} tokens in one "
        f"forward, made with `outrider train deer` from `{recipe.draft}`. It can also be used as "
        "an ordinary draft model.",
        "",
        f"Right tokens of a block before the first wrong one, of new answers: {rates.run:.3f}.",
        "",
        "| place | right tokens |",
        "|---|---|",
        *(f"| {place} | {rate:.1%} |" for place, rate in enumerate(rates.right.tolist(), start=1)),
        "",
        "| prompts | licence of the records |",
        "|---|---|",
        *(f"| {one.name} | {one.licence} |" for one in recipe.prompts),
    ]
    return "\n".join([*lines, ""])
