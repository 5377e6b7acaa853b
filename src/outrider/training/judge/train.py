"""`outrider train judge`: labels drafted tokens, fits the probe, and measures it."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch

from outrider.acceptance.probe import FORMAT, KIND
from outrider.core.errors import writing
from outrider.core.values import JsonValue
from outrider.training.core.config import read_table
from outrider.training.core.corpus import data_folder
from outrider.training.core.loop import StopSignal, TrainingStopped, run_in
from outrider.training.core.pairs import load_pair
from outrider.training.core.state import save_tensors, write_json
from outrider.training.heads.prompts import training_prompts
from outrider.training.judge.config import JudgeRecipe
from outrider.training.judge.fit import Fitted, fit_best
from outrider.training.judge.labels import Labelled, Splicer, Task, label_all
from outrider.training.judge.measure import Measured, measure

_TOLD = 20
"""Tasks between two lines about the progress."""


@dataclass(frozen=True, slots=True)
class JudgeRun:
    """One run of a recipe.

    Attributes:
        recipe: the options.
        splicer: the models.
        report: called with lines about the progress.
        stop: whether it should stop.
    """

    recipe: JudgeRecipe
    splicer: Splicer
    report: Callable[[str], None]
    stop: StopSignal

    def tasks(self, data: Path) -> Iterator[Task]:
        """Yield the tasks that are short enough, in random order."""
        recipe = self.recipe
        prompts = training_prompts(recipe.tasks, data, recipe.seed)
        for number, prompt in enumerate(prompts):
            ids = self.splicer.tokenizer.chat(prompt.messages)
            if len(ids) <= recipe.longest_prompt:
                yield Task(number, ids, recipe.answer(prompt.kind))

    def told(self, tasks: int, tokens: int) -> None:
        """Report the progress. Raises `TrainingStopped` after a stop signal."""
        if self.stop.asked:
            raise TrainingStopped("the labels are not complete", hint="Run again to begin anew")
        if tasks % _TOLD == 0:
            self.report(f"labels: {tasks} of {self.recipe.prompts} tasks, {tokens} tokens tried")

    def measured(self, fitted: Fitted, tasks: list[Task]) -> list[Measured]:
        """Measure the probe at its own threshold and at some others."""
        thresholds = sorted({1.0, 0.9, fitted.probe.threshold, 0.5, 0.0}, reverse=True)
        return measure(self.splicer, fitted.probe, tasks, thresholds, self.recipe.depth)


def train_judge(
    config: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train the probe that a TOML file describes; return the folder of its files.

    Args:
        config: the TOML file (`JudgeRecipe`).
        data: folder of the data sets; None: the one in the file.
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings, no data, or labels of one kind only.
        VocabularyError: the two models have different vocabularies.
        TrainingStopped: after SIGTERM or SIGINT.
    """
    recipe = read_table(config, JudgeRecipe)
    place, folder = data_folder(data or Path(recipe.data)), out or Path(recipe.out)
    pair = load_pair(recipe.target, recipe.draft)
    splicer = Splicer(pair.target, pair.draft, pair.tokenizer, recipe.longest, pair.special_ids)
    with run_in(folder, recipe.threads) as stop:
        run = JudgeRun(recipe, splicer, report, stop)
        tasks = run.tasks(place)
        found = label_all(splicer, list(islice(tasks, recipe.prompts)), run.told)
        fitted = fit_best(found, recipe.penalties, recipe.recall, recipe.held_out)
        figures = run.measured(fitted, list(islice(tasks, recipe.measured)))
        files = folder / recipe.name
        _write(files, recipe, splicer, found, fitted, figures)
    report(
        f"{len(found)} tokens tried, {int(found.important.sum())} important; held out: refuses "
        f"{fitted.recall:.1%} of the important ones, accepts {fitted.kept:.1%} of the others"
    )
    for figure in figures:
        report(str(figure))
    report(f"probe: {files}")
    return files


def _write(
    folder: Path,
    recipe: JudgeRecipe,
    splicer: Splicer,
    found: Labelled,
    fitted: Fitted,
    figures: list[Measured],
) -> None:
    """Write the files of the probe, and its card."""
    probe = fitted.probe
    facts: dict[str, JsonValue] = {
        "format": FORMAT,
        "target": recipe.target,
        "vocab_size": splicer.target.info.vocab_size,
        "tokenizer": splicer.tokenizer.fingerprint,
        "special_ids": sorted(splicer.special_ids),
        "threshold": probe.threshold,
        "tokens": len(found),
        "important": int(found.important.sum()),
        "penalty": fitted.penalty,
        "loss": round(fitted.loss, 4),
        "recall": round(fitted.recall, 4),
        "kept": round(fitted.kept, 4),
        "measured": [figure.to_dict() for figure in figures],
        "recipe": asdict(recipe),
    }
    tensors = {"weight": probe.weight.float(), "bias": torch.tensor([probe.bias])}
    save_tensors(folder / f"{KIND}.safetensors", tensors)
    write_json(folder / f"{KIND}.json", facts)
    with writing(folder):
        (folder / "README.md").write_text(_card(recipe, found, fitted, figures), encoding="utf-8")


def _card(recipe: JudgeRecipe, found: Labelled, fitted: Fitted, figures: list[Measured]) -> str:
    """Write the card as Markdown."""
    lines = [
        f"# {recipe.name}",
        "",
        f"A probe of Judge Decoding for `{recipe.target}`, made with `outrider train judge`. It "
        "decides which drafted tokens are kept although the target would choose others, so texts "
        "are **lossy**.",
        "",
        f"Trained on {len(found):,} drafted tokens, of which {int(found.important.sum()):,} change "
        f"the final answer. On held-out tasks the threshold {fitted.probe.threshold:.4g} refuses "
        f"{fitted.recall:.1%} of such tokens and accepts {fitted.kept:.1%} of the others.",
        "",
        "| tasks | final answer | licence of the records |",
        "|---|---|---|",
        *(f"| {one.name} | {one.answer} | {one.licence} |" for one in recipe.tasks),
        "",
        f"On other tasks, at temperature 0, with drafts of {recipe.depth} tokens (threshold 1 is "
        "the standard rule):",
        "",
        "| threshold | tokens a round | changed tokens | same final answers |",
        "|---|---|---|---|",
        *(
            f"| {one.threshold:.4g} | {one.tokens_a_round:.2f} | {one.changed:.1%} | "
            f"{one.same_answers:.1%} |"
            for one in figures
        ),
    ]
    return "\n".join([*lines, ""])
