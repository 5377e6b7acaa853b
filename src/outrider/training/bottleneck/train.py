"""`outrider train bottleneck`: states of texts, keys, values, and what is forgotten."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from outrider.core.errors import writing
from outrider.core.values import JsonValue
from outrider.engine.labels.states import StateReader
from outrider.memories.bottleneck import Bottleneck, fit_keys
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model
from outrider.training.bottleneck.config import BottleneckRecipe
from outrider.training.bottleneck.data import texts_by_label, unlabelled_texts
from outrider.training.bottleneck.fit import Examples, History, learn_tasks
from outrider.training.core.config import read_table
from outrider.training.core.corpus import data_folder
from outrider.training.core.loop import StopSignal, TrainingStopped, run_in
from outrider.training.core.pairs import folder_of
from outrider.training.core.state import write_json

_PART = 256
"""Texts that are read between two looks at the stop signal."""


class _Reading:
    """Reads texts, and stops when a signal asks for it."""

    def __init__(self, reader: StateReader, stop: StopSignal) -> None:
        self._reader, self._stop = reader, stop

    def states(self, texts: list[str]) -> torch.Tensor:
        """Return the states `[texts, hidden]`. Raises `TrainingStopped`."""
        found: list[torch.Tensor] = []
        for start in range(0, len(texts), _PART):
            self.check()
            found.append(self._reader.read(texts[start : start + _PART]))
        return torch.cat(found)

    def check(self) -> None:
        """Raise `TrainingStopped` after a signal."""
        if self._stop.asked:
            raise TrainingStopped("the memory is not trained", hint="Run again to begin anew")


def train_bottleneck(
    config: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train the memory that a TOML file describes; return the folder of its files.

    Args:
        config: the TOML file (`BottleneckRecipe`).
        data: folder of the data sets; None: the one in the file.
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings, no data, or too few texts.
        StrategyError: the model does not return its states.
        TrainingStopped: after SIGTERM or SIGINT.
    """
    recipe = read_table(config, BottleneckRecipe)
    place, folder = data_folder(data or Path(recipe.data)), out or Path(recipe.out)
    labelled, plain = texts_by_label(recipe, place), unlabelled_texts(recipe, place)
    source = folder_of(recipe.target, "target")
    with run_in(folder, recipe.threads) as stop:
        model = load_model(source, threads=recipe.threads or None)
        layer = None if recipe.layer < 0 else recipe.layer
        reader = StateReader(model, Tokenizer.load(source), layer, recipe.form)
        reading = _Reading(reader, stop)
        keys = fit_keys(reading.states(list(plain)), recipe.key_settings)
        report(f"keys: {recipe.books} x {recipe.keys} of {len(plain):,} unlabelled texts")
        memory = Bottleneck.empty(keys, recipe.labels, reader.origin)
        tasks, held_out = [], []
        for task in recipe.tasks:
            texts = [(text, label) for label in task.labels for text in labelled[label]]
            fetched = keys.fetch(reading.states([text for text, _ in texts]))
            found = torch.tensor([recipe.labels.index(label) for _, label in texts])
            learned = torch.arange(len(texts)) % (recipe.per_label + recipe.held_out)
            learned = learned < recipe.per_label
            tasks.append(Examples(fetched[learned], found[learned]))
            held_out.append(Examples(fetched[~learned], found[~learned]))

        def told(number: int) -> None:
            reading.check()
            report(f"task {number + 1}: {', '.join(recipe.tasks[number].labels)}")

        history = learn_tasks(memory, tasks, held_out, recipe.fitting, told)
        files = folder / recipe.name
        _write(files, recipe, memory, history)
    report(
        f"held out: {history.final:.1%} of all labels right after the last task, "
        f"{history.forgetting:.1%} forgotten; {_used(memory):.1%} of the values are used"
    )
    report(f"memory: {files}")
    return files


def _used(memory: Bottleneck) -> float:
    return float(memory.used.float().mean())


def _write(folder: Path, recipe: BottleneckRecipe, memory: Bottleneck, history: History) -> None:
    """Write the files of the memory, what was measured, and its card."""
    memory.save(folder)
    facts: dict[str, JsonValue] = {
        "accuracies": [[round(one, 4) for one in row] for row in history.rows],
        "final": round(history.final, 4),
        "forgetting": round(history.forgetting, 4),
        "used": round(_used(memory), 4),
        "recipe": asdict(recipe),
    }
    write_json(folder / "measured.json", facts)
    with writing(folder):
        (folder / "README.md").write_text(_card(recipe, history), encoding="utf-8")


def _card(recipe: BottleneckRecipe, history: History) -> str:
    """Write the card as Markdown."""
    heads = [", ".join(task.labels) for task in recipe.tasks]
    lines = [
        f"# {recipe.name}",
        "",
        f"A memory of {len(recipe.labels)} labels (Discrete Key-Value Bottleneck) on hidden states "
        f"of `{recipe.target}`, made with `outrider train bottleneck`. The model reads "
        f"`{recipe.form!r}`.",
        "",
        f"Accuracy on held-out texts, among all labels, after each task. In the mean "
        f"{history.final:.1%} after the last one; {history.forgetting:.1%} were forgotten.",
        "",
        f"| learned | {' | '.join(heads)} |",
        "|---|" + "---|" * len(heads),
        *(
            f"| {head} | {' | '.join(f'{one:.1%}' for one in row)} |"
            for head, row in zip(heads, history.rows, strict=True)
        ),
        "",
        "| texts | licence of the records |",
        "|---|---|",
        f"| {recipe.labelled.file} | {recipe.labelled.licence} |",
        f"| {recipe.unlabelled.file}, without labels | {recipe.unlabelled.licence} |",
    ]
    return "\n".join([*lines, ""])
