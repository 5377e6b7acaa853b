"""`outrider train denoiser`: masked-diffusion training of answers."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from outrider.training.core.config import Stage, read_table
from outrider.training.core.corpus import data_folder
from outrider.training.core.loop import StageRun, StopSignal, run_in, run_stage
from outrider.training.core.optim import make_optimizers
from outrider.training.core.pairs import folder_of
from outrider.training.core.tokenizer import load_tokenizer
from outrider.training.denoiser.config import DenoiserRecipe
from outrider.training.denoiser.data import Pairs
from outrider.training.denoiser.evaluate import task_scores
from outrider.training.denoiser.model import DenoisingModel, export, mask_answers, with_mask

Report = Callable[[str], None]
_TOLD_STEPS = 50


def train_denoiser(
    config: Path, *, data: Path | None = None, out: Path | None = None, report: Report = print
) -> Path:
    """Train the denoiser that a TOML file describes; return the folder of its files.

    An interrupted run continues from its last checkpoint.

    Args:
        config: the TOML file (`DenoiserRecipe`).
        data: folder of the data sets; None: the one in the file.
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings, or no data.
        TrainingStopped: after SIGTERM or SIGINT.
    """
    recipe = read_table(config, DenoiserRecipe)
    place = data_folder(data or Path(recipe.data)) if recipe.sources else Path(recipe.data)
    folder, start = out or Path(recipe.out), folder_of(recipe.start, "target")
    with run_in(folder, recipe.threads) as stop:
        tokenizer = with_mask(load_tokenizer(start))
        model = DenoisingModel.starting_from(start, recipe.shifted)
        pairs = Pairs(recipe, place, tokenizer)
        report(f"prompts and answers of sources: {pairs.counts()}")
        fit(model, pairs, tokenizer, recipe, folder, stop, report)
        export(model, tokenizer, folder / recipe.name)
    report(f"denoiser: {folder / recipe.name}")
    return folder / recipe.name


def fit(
    model: DenoisingModel,
    pairs: Pairs,
    tokenizer: Tokenizer,
    recipe: DenoiserRecipe,
    folder: Path,
    stop: StopSignal,
    report: Report,
) -> None:
    """Train until the steps or the minutes are used up.

    Raises:
        TrainingStopped: `stop` asked for it, with a checkpoint.
    """
    # The loop counts tokens in rows of `sequence_length`; here it counts steps.
    stage = Stage(
        tokens=recipe.steps,
        sequence_length=1,
        batch=1,
        micro_batch=1,
        learning_rate=recipe.learning_rate,
        final_learning_rate=recipe.final_learning_rate,
        warmup_tokens=recipe.warmup_steps,
        max_minutes=recipe.max_minutes,
    )
    names = [task.name for task in recipe.tasks]
    seen: dict[str, list[float]] = defaultdict(list)

    def step(number: int) -> dict[str, float]:
        batch = pairs.batch(number)
        rng = np.random.default_rng((recipe.seed, 1, number))
        losses = model.losses(mask_answers(batch, model.mask_id, recipe.epsilon, rng))
        losses.mean().backward()
        for pair, loss in zip(batch, losses.tolist(), strict=True):
            seen[pair.kind].append(loss)
        if (number + 1) % _TOLD_STEPS == 0:
            means = (f"{kind}={np.mean(found):.2f}" for kind, found in sorted(seen.items()))
            report(f"losses of step {number + 1}: {' '.join(means)}")
            seen.clear()
        tokens = sum(pair.size for pair in batch)
        return {"loss": losses.mean().item(), "batch_tokens": float(tokens)}

    def evaluate() -> dict[str, float]:
        scores = task_scores(model, tokenizer, names, recipe.evaluate_items)
        return {f"score/{name}": score for name, score in scores.items()}

    run_stage(
        StageRun(
            name="denoiser",
            folder=folder,
            stage=stage,
            models={"denoiser": model},
            optimizers=make_optimizers(model, "denoiser"),
            step=step,
            evaluate=evaluate,
            stop=stop,
            checkpoint_minutes=recipe.checkpoint_minutes,
            evaluate_minutes=recipe.evaluate_minutes,
            at_minutes=recipe.export_minutes,
            at_minutes_do=lambda: export(model, tokenizer, folder / "provisional"),
        )
    )
