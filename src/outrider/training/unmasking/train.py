"""`outrider train unmasking`: answers, the rounds of an oracle, the filter, and its errors."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from outrider.core.errors import writing
from outrider.core.types import IntArray, as_ids
from outrider.core.values import JsonValue
from outrider.diffusion.parallel.catalogue import TASKS, items
from outrider.diffusion.parallel.item import TRAIN
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.denoisers.filter import FILE, UnmaskingFilter
from outrider.models.denoisers.loading import load_denoiser
from outrider.models.denoisers.runner import MaskedDenoiser
from outrider.training.core.config import read_table
from outrider.training.core.loop import StopSignal, TrainingStopped, run_in
from outrider.training.core.pairs import folder_of
from outrider.training.core.state import write_json
from outrider.training.unmasking.config import UnmaskingRecipe
from outrider.training.unmasking.fit import Errors, Examples, Fitting, errors, fit
from outrider.training.unmasking.oracle import Seen, replayed, written

_TOLD_EVERY = 50
"""Answers between two lines about the progress."""


def train_unmasking(
    config: Path, *, out: Path | None = None, report: Callable[[str], None] = print
) -> Path:
    """Train the filter that a TOML file describes; return the folder of its files.

    Args:
        config: the TOML file (`UnmaskingRecipe`).
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings.
        CheckpointError: the target is no masked denoiser, or cannot be read.
        TrainingStopped: after SIGTERM or SIGINT.
    """
    recipe = read_table(config, UnmaskingRecipe)
    folder, source = out or Path(recipe.out), folder_of(recipe.target, "target")
    with run_in(folder, recipe.threads) as stop:
        model = load_denoiser(source, threads=recipe.threads or None)
        answers = _answers(model, Tokenizer.load(source), recipe, stop, report)
        rows = Examples.of(answers)
        train, validation, test = rows.split(recipe.seed)
        report(f"{len(answers)} answers in {len(rows)} rounds of the oracle")
        fitting = Fitting(
            steps=recipe.steps,
            evaluate_every=recipe.evaluate_every,
            learning_rate=recipe.learning_rate,
            seed=recipe.seed,
        )
        found, losses = fit(train, validation, model.info.fingerprint, fitting)
        measured = errors(found(test.confidences) > recipe.accept, test)
        plain = errors(test.confidences > recipe.accept, test)
        slots = sum(int(seen.masked.sum()) for answer in answers for seen in answer[:1])
        files = folder / recipe.name
        facts: dict[str, JsonValue] = {
            "answers": len(answers),
            "rounds_of_the_oracle": len(rows),
            "slots": slots,
            "filter": asdict(measured),
            "confidence_alone": asdict(plain),
            "validation_loss": round(min(losses), 5),
            "recipe": asdict(recipe),
        }
        _write(files, found, facts)
    report(f"filter above {recipe.accept}: {_shown(measured)}")
    report(f"confidence above {recipe.accept}: {_shown(plain)}")
    report(f"filter: {files / FILE}")
    return files


def _shown(found: Errors) -> str:
    return (
        f"accepts {found.false_positives:.2%} of wrong and {found.recall:.1%} of right "
        f"predictions of {found.positions} masked positions that were held out"
    )


def _answers(
    model: MaskedDenoiser,
    tokenizer: Tokenizer,
    recipe: UnmaskingRecipe,
    stop: StopSignal,
    report: Callable[[str], None],
) -> list[list[Seen]]:
    """Write all answers, and write each one again with the oracle."""
    found: list[list[Seen]] = []
    for prompt, slots in _prompts(tokenizer, recipe):
        if stop.asked:
            raise TrainingStopped("the filter is not trained", hint="Run again to begin anew")
        answer = written(model, prompt, slots, recipe.block, recipe.sure)
        found.append(replayed(model, prompt, answer, recipe.block))
        if len(found) % _TOLD_EVERY == 0:
            report(f"{len(found)} answers")
    return found


def _prompts(tokenizer: Tokenizer, recipe: UnmaskingRecipe) -> Iterator[tuple[IntArray, int]]:
    """Yield the prompt of each training item, and the slots of its answer."""
    for name in recipe.tasks or tuple(TASKS):
        for item in items(name, recipe.items, seed=recipe.seed, split=TRAIN):
            yield as_ids(_asked(tokenizer, item.prompt)), TASKS[name].slot


def _asked(tokenizer: Tokenizer, prompt: str) -> Sequence[int]:
    """Return the ids of a user's turn; of the plain text if there is no chat template."""
    if not tokenizer.has_chat:
        return tokenizer.encode(prompt)
    return tokenizer.chat([{"role": "user", "content": prompt}])


def _write(folder: Path, found: UnmaskingFilter, facts: dict[str, JsonValue]) -> None:
    """Write the filter, and what was measured beside it."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    found.save(folder / FILE)
    write_json(folder / "measured.json", facts)
