"""`outrider train patches`: images, a target, a draft model of it, and their cards."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import optim

from outrider.core.errors import writing
from outrider.core.values import JsonValue
from outrider.diffusion.continuous.patches.files import save_model
from outrider.diffusion.continuous.patches.model import PatchModel
from outrider.training.core.config import Stage, read_table
from outrider.training.core.corpus import data_folder
from outrider.training.core.loop import StageRun, StopSignal, run_in, run_stage
from outrider.training.core.state import write_json
from outrider.training.patches.config import PatchesRecipe
from outrider.training.patches.data import Pictures, generator, read_pictures
from outrider.training.patches.fit import draft_loss, image_loss, noisy

_VARIANCE = 0.1
"""Weight of the loss of the target's variance."""
_SPREAD = 0.5
"""Weight of the distance of variances in the loss of the draft model. Both densities are compared
in all numbers of a patch, so that acceptance depends on the variances too."""

Report = Callable[[str], None]


def train_patches(
    config: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    report: Report = print,
) -> Path:
    """Train the models that a TOML file describes; return the folder that holds `target` and
    `draft`.

    An interrupted run continues from its last checkpoint.

    Args:
        config: the TOML file (`PatchesRecipe`).
        data: folder of the data sets; None: the one in the file.
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings, or no images.
        MissingExtraError: pillow is not installed.
        TrainingStopped: after SIGTERM or SIGINT, with a checkpoint.
    """
    recipe = read_table(config, PatchesRecipe)
    place, folder = data_folder(data or Path(recipe.data)), out or Path(recipe.out)
    files = folder / recipe.name
    with run_in(folder, recipe.threads) as stop:
        pictures = Pictures(recipe, read_pictures(recipe, place))
        report(f"{len(pictures.trained_on)} images, {len(pictures.held_out)} held out")
        target = PatchModel(recipe.grid, recipe.target, recipe.seed)
        figures = {"target": _train_target(recipe, pictures, target, folder, stop)}
        save_model(target.eval(), files / "target")
        draft = PatchModel(recipe.grid, recipe.draft, recipe.seed + 1)
        figures["draft"] = _train_draft(recipe, pictures, target, draft, folder, stop)
        save_model(draft.eval(), files / "draft")
    for name, model in (("target", target), ("draft", draft)):
        _write_card(files / name, name, model, recipe, figures[name])
    report(f"models: {files / 'target'} and {files / 'draft'}")
    return files


def _train_target(
    recipe: PatchesRecipe, pictures: Pictures, target: PatchModel, folder: Path, stop: StopSignal
) -> dict[str, JsonValue]:
    stage, parts = recipe.target_stage, recipe.target_stage.batch // recipe.target_stage.micro_batch

    def step(row: int) -> dict[str, float]:
        sums = [0.0, 0.0]
        for first in range(row, row + stage.batch, stage.micro_batch):
            batch = pictures.batch(first, stage.micro_batch)
            seen = noisy(batch, recipe.grid, recipe.draws, generator(recipe.seed, 3, first))
            error, likelihood = image_loss(target, batch, seen)
            ((error + _VARIANCE * likelihood) / parts).backward()
            sums = [sums[0] + error.item() / parts, sums[1] + likelihood.item() / parts]
        return {"error": sums[0], "likelihood": sums[1]}

    @torch.inference_mode()
    def evaluate() -> dict[str, float]:
        batch = pictures.measured()
        seen = noisy(batch, recipe.grid, recipe.draws, generator(recipe.seed, 4))
        error, likelihood = image_loss(target, batch, seen)
        return {"heldout_error": float(error), "heldout_likelihood": float(likelihood)}

    return _run(recipe, "target", target, stage, step, evaluate, folder, stop)


def _train_draft(
    recipe: PatchesRecipe,
    pictures: Pictures,
    target: PatchModel,
    draft: PatchModel,
    folder: Path,
    stop: StopSignal,
) -> dict[str, JsonValue]:
    stage, parts = recipe.draft_stage, recipe.draft_stage.batch // recipe.draft_stage.micro_batch

    def step(row: int) -> dict[str, float]:
        sums = [0.0, 0.0]
        for first in range(row, row + stage.batch, stage.micro_batch):
            batch = pictures.batch(first, stage.micro_batch)
            seen = noisy(batch, recipe.grid, recipe.draws, generator(recipe.seed, 3, first))
            error, spread = draft_loss(draft, target, batch, seen)
            ((error + _SPREAD * spread) / parts).backward()
            sums = [sums[0] + error.item() / parts, sums[1] + spread.item() / parts]
        return {"error": sums[0], "spread": sums[1]}

    @torch.inference_mode()
    def evaluate() -> dict[str, float]:
        batch = pictures.measured()
        seen = noisy(batch, recipe.grid, recipe.draws, generator(recipe.seed, 4))
        error, spread = draft_loss(draft, target, batch, seen)
        return {"heldout_error": float(error), "heldout_spread": float(spread)}

    return _run(recipe, "draft", draft, stage, step, evaluate, folder, stop)


def _run(
    recipe: PatchesRecipe,
    name: str,
    model: PatchModel,
    stage: Stage,
    step: Callable[[int], dict[str, float]],
    evaluate: Callable[[], dict[str, float]],
    folder: Path,
    stop: StopSignal,
) -> dict[str, JsonValue]:
    model.train()
    return run_stage(
        StageRun(
            name=name,
            folder=folder,
            stage=stage,
            models={name: model},
            optimizers={"adamw": optim.AdamW(model.parameters(), 0.0, (0.9, 0.98), fused=True)},
            step=step,
            evaluate=evaluate,
            stop=stop,
            checkpoint_minutes=recipe.checkpoint_minutes,
            evaluate_minutes=recipe.evaluate_minutes,
        )
    )


def _write_card(
    folder: Path,
    name: str,
    model: PatchModel,
    recipe: PatchesRecipe,
    figures: dict[str, JsonValue],
) -> None:
    """Write what was measured, and a card as Markdown."""
    write_json(folder / "measured.json", {"figures": figures, "recipe": asdict(recipe)})
    use = f"outrider draw {recipe.name}/target --draft {recipe.name}/draft --out picture.png"
    lines = [
        f"# {recipe.name}: {name}",
        "",
        f"A model of {recipe.grid.length} patches of {recipe.grid.patch} x {recipe.grid.patch} "
        f"pixels with a diffusion head ({model.parameters_count:,} weights), made with "
        f"`outrider train patches`. It draws grey images: `{use}`.",
        "",
        *(f"- {key}: {value}" for key, value in figures.items() if "heldout" in key),
        "",
        f"Trained on {recipe.pictures.images} ({recipe.pictures.licence}; "
        f"{recipe.pictures.origin}).",
    ]
    with writing(folder):
        (folder / "README.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
