"""`outrider train gates`: problems that the target solves, gates of each method, their files."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from outrider.core.errors import OptionError
from outrider.core.values import JsonValue
from outrider.models.caches.eviction.heads.gates import Gates
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.llama.decoder import Decoder
from outrider.training.core.config import read_table
from outrider.training.core.loop import StopSignal, TrainingStopped, run_in
from outrider.training.core.pairs import folder_of
from outrider.training.core.state import read_json, write_json
from outrider.training.gates.config import GatesRecipe
from outrider.training.gates.fit import fit
from outrider.training.gates.gated import Gated
from outrider.training.gates.problems import Problem, draw_problem, solved

Report = Callable[[str], None]
_TRIED = 32
"""Problems that are tried between two looks at the stop signal."""
_FEWEST = 8


def train_gates(
    config: Path, *, out: Path | None = None, report: Report = print
) -> dict[str, Path]:
    """Train the gates that a TOML file describes; return the file of each method.

    An interrupted run continues: with the problems that were found, then from the last checkpoint.

    Args:
        config: the TOML file (`GatesRecipe`).
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings, or the target solves too few problems.
        UnsupportedCheckpointError: the target is not Llama-shaped.
        TrainingStopped: after SIGTERM or SIGINT.
    """
    recipe = read_table(config, GatesRecipe)
    folder, source = out or Path(recipe.out), folder_of(recipe.target, "target")
    with run_in(folder, recipe.threads) as stop:
        model = Gated(Decoder.load(source), recipe.sinks, recipe.recent)
        problems = solvable(recipe, model, Tokenizer.load(source), folder, stop, report)
        files = dict[str, Path]()
        for method in recipe.methods:
            values = fit(method, model, problems, recipe, folder, stop).numpy()
            files[method] = folder / f"{recipe.name}-{method}.safetensors"
            Gates(
                values=values,
                method=method,
                fingerprint=model.target.info.fingerprint,
                sinks=recipe.sinks,
                recent=recipe.recent,
                facts=_facts(recipe, method),
            ).save(files[method])
            report(f"{method}: mean gate {values.mean():.3f}, from {values.min():.3f} to "
                   f"{values.max():.3f}: {files[method]}")  # fmt: skip
    return files


def solvable(
    recipe: GatesRecipe,
    model: Gated,
    tokenizer: Tokenizer,
    folder: Path,
    stop: StopSignal,
    report: Report,
) -> list[Problem]:
    """Return problems that the model solves with full attention; their names are kept in `folder`.

    Raises:
        OptionError: too few of the attempts are solved.
        TrainingStopped: `stop` asked for it; names that were found are kept.
    """
    file = folder / "problems.json"
    made_for: dict[str, JsonValue] = {
        "model": model.target.info.fingerprint,
        "tasks": list(recipe.tasks),
        "facts": recipe.facts,
        "filler": recipe.filler,
        "seed": recipe.seed,
    }
    state = read_json(file)
    if state.get("made_for") != made_for:
        state = {"made_for": made_for, "tried": 0, "solved": []}
    names: list[str] = state["solved"]
    while len(names) < recipe.problems and state["tried"] < recipe.attempts:
        tried = [f"{recipe.seed}/{state['tried'] + i}" for i in range(_TRIED)]
        names += solved_names(tried, recipe.tasks, recipe.facts, model, tokenizer, recipe.filler)
        state["tried"] += _TRIED
        write_json(file, state)
        if stop.asked:
            raise TrainingStopped("the problems are not found yet", hint="Run again")
    share = len(names) / max(state["tried"], 1)
    report(f"{model.target.info.name} solves {share:.0%} of {state['tried']} problems")
    if len(names) < _FEWEST:
        raise OptionError(
            f"{model.target.info.name} solves {len(names)} of {state['tried']} problems",
            hint="Choose another task, fewer facts, or a larger model",
        )
    names = names[: recipe.problems]
    return [
        draw_problem(recipe.tasks, recipe.facts, tokenizer, name, recipe.filler) for name in names
    ]


def solved_names(
    names: Sequence[str],
    tasks: Sequence[str],
    facts: int,
    model: Gated,
    tokenizer: Tokenizer,
    filler: int = 0,
) -> list[str]:
    """Return those of the named problems that the model solves with full attention."""
    problems = [draw_problem(tasks, facts, tokenizer, name, filler) for name in names]
    right = solved(model, problems, torch.ones(model.shape))
    return [name for name, ok in zip(names, right, strict=True) if ok]


def _facts(recipe: GatesRecipe, method: str) -> dict[str, JsonValue]:
    own = asdict(recipe.rlkv if method == "rlkv" else recipe.duo)
    return {
        "target": recipe.target,
        "tasks": list(recipe.tasks),
        "facts": recipe.facts,
        "filler": recipe.filler,
        "problems": recipe.problems,
        "seed": recipe.seed,
        **own,
    }
