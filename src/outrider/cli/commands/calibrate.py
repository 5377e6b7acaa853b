"""`outrider calibrate`: thresholds given by their effect."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from outrider.cli.options.family_prompts import prompts_of
from outrider.cli.options.groups import given_fields
from outrider.cli.options.options import Runtime, Tiers, Warps, load_generator, option
from outrider.cli.ui.render import Screen
from outrider.core.errors import OptionError
from outrider.inputs.prompts.files import read_prompts

if TYPE_CHECKING:
    from outrider.protocols import LanguageModel
    from outrider.strategy import Strategy
    from outrider.strategy.calibration import Calibration

ACCEPT_RATES = (0.5, 0.8, 0.9, 0.95)
PANEL = "Calibration"


def calibrate(
    tiers: Tiers,
    warps: Warps,
    runtime: Runtime,
    divergence: Annotated[
        list[str] | None,
        option(panel=PANEL, help="What to measure, such as js; repeatable. Default: everything."),
    ] = None,
    prompts: Annotated[
        Path | None,
        option(
            panel=PANEL,
            metavar="FILE",
            help="JSON lines with a 'prompt', or text lines. Default: the family's own prompts.",
        ),
    ] = None,
    limit: Annotated[int, option(panel=PANEL, help="Largest number of prompts.", min=1)] = 200,
    tokens: Annotated[int, option(panel=PANEL, help="Tokens after each prompt.", min=1)] = 64,
    seed: Annotated[int, option(panel=PANEL, help="Equal seeds give equal calibrations.")] = 0,
    out: Annotated[
        Path | None,
        option(panel=PANEL, metavar="FILE", help="Add the result to this file."),
    ] = None,
) -> None:
    """Measure how far apart models are, to give thresholds as shares.

    Afterwards --threshold-target 80% means: the divergence that 80 % of
    positions do not exceed. A calibration is valid only for its models,
    divergence and sampling settings: give those that you will generate with.

    For example:

      outrider calibrate --divergence js --limit 50 --out tiny.json
      outrider generate "It was" --mode fuzzy --threshold-target 80% \\
          --calibration tiny.json
    """
    from outrider.inputs.prompts.reading import read_prompt

    _check(divergence or (), out)
    texts = read_prompts(prompts or prompts_of(tiers.target), limit)
    generator = load_generator(tiers, runtime, num_speculative_tokens=1)  # loads all tiers
    settings = {
        "prompts": [read_prompt(text, generator.tokenizer).token_ids for text in texts],
        "params": generator.params(**given_fields(warps), seed=seed),
        "tokens_per_prompt": tokens,
        "divergences": divergence or None,
        "end_ids": generator.defaults.end_ids,
    }
    screen = Screen()
    found = list(_measured(verifying_pairs(generator.strategy), settings, screen))
    screen.table("Thresholds by share of accepted positions", [_row(c) for c in found], labels=3)
    if out is None:
        screen.note("Give --out FILE to keep it for --calibration.")
        return
    for calibration in found:
        calibration.save(out)
    screen.note(f"{len(found)} calibrations added to {out}")


def verifying_pairs(strategy: "Strategy") -> list[tuple["LanguageModel", "LanguageModel"]]:
    """Return pairs (verifier, proposer): neighboring tiers, and target with draft model.

    Raises:
        OptionError: there is only a target.
    """
    models = models_of(strategy)
    if len(models) < 2:
        raise OptionError(
            "there is only a target, but a calibration compares two models",
            hint="Give --qualifier or --draft",
        )
    pairs = list(pairwise(models))
    return pairs if len(models) == 2 else [*pairs, (models[0], models[-1])]


def models_of(strategy: "Strategy") -> list["LanguageModel"]:
    """Return target, qualifiers and draft model, largest first."""
    from outrider.drafters import ModelDrafter, Qualified

    models, drafter = [strategy.target], strategy.drafter
    while isinstance(drafter, Qualified):
        models.append(drafter.qualifier)
        drafter = drafter.drafter
    return [*models, drafter.model] if isinstance(drafter, ModelDrafter) else models


def _measured(
    pairs: "Sequence[tuple[LanguageModel, LanguageModel]]", settings: dict[str, Any], screen: Screen
) -> "Iterator[Calibration]":
    """Yield the calibrations of each pair, with a progress bar."""
    from rich.progress import Progress

    from outrider.strategy.calibrate import calibrate as measure

    with Progress(console=screen.err, transient=True) as bar:
        for verifier, proposer in pairs:
            task = bar.add_task(f"{verifier.info.name} / {proposer.info.name}")

            def show(done: int, total: int, task: Any = task) -> None:
                bar.update(task, completed=done, total=total)

            yield from measure(verifier, proposer, **settings, progress=show)


def _row(calibration: "Calibration") -> dict[str, str]:
    about = calibration.key
    words = {
        "verifier": about.verifier.name,
        "proposer": about.proposer.name,
        "divergence": about.divergence,
    }
    return words | {f"{rate:.0%}": f"{calibration.threshold(rate):.3g}" for rate in ACCEPT_RATES}


def _check(divergences: Sequence[str], out: Path | None) -> None:
    """Check before the measurement that divergences can be measured and `out` can be written."""
    from outrider.acceptance import divergence
    from outrider.strategy.calibration import load_calibrations

    for name in divergences:
        divergence(name)
    if out is None:
        return
    if not out.parent.is_dir():
        raise OptionError(f"there is no folder {out.parent}", hint="Create it, or change --out")
    if out.exists():
        load_calibrations(out)
