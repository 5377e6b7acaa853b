"""`outrider train stop`: answers of the target, drafted tokens, the head, and what it achieves."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from outrider.core.errors import writing
from outrider.core.values import JsonValue
from outrider.policies import StopHead
from outrider.policies.stop_head import FORMAT, KIND
from outrider.sampling import SamplingParams
from outrider.training.core.config import read_table
from outrider.training.core.corpus import data_folder
from outrider.training.core.loop import TrainingStopped, run_in
from outrider.training.core.pairs import ModelPair, load_pair
from outrider.training.core.state import save_tensors, write_json
from outrider.training.heads.prompts import training_prompts
from outrider.training.stop.config import StopRecipe
from outrider.training.stop.data import Drafted, answers, collect
from outrider.training.stop.fit import Fitting, fit_head
from outrider.training.stop.measure import Calibration, PolicyFigures, calibration, compare

_TOLD = 50
"""Answers between two lines about the progress."""
_COMPARED = 20
"""Held-out prompts on which policies are compared."""


def train_stop(
    config: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train the stop head that a TOML file describes; return the folder of its files.

    Args:
        config: the TOML file (`StopRecipe`).
        data: folder of the data sets; None: the one in the file.
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings, or no data.
        VocabularyError: the two models have different vocabularies.
        TrainingStopped: after SIGTERM or SIGINT.
    """
    recipe = read_table(config, StopRecipe)
    place, folder = data_folder(data or Path(recipe.data)), out or Path(recipe.out)
    pair = load_pair(recipe.target, recipe.draft)
    with run_in(folder, recipe.threads) as stop:

        def told(done: int) -> None:
            if stop.asked:
                raise TrainingStopped("the head is not trained", hint="Run again to begin anew")
            if done % _TOLD == 0:
                report(f"drafted tokens: {done} answers")

        prompts = _prompts(recipe, pair, place)
        seen, held_out = list(islice(prompts, recipe.texts)), list(islice(prompts, recipe.held_out))
        options = (recipe.longest, recipe.temperature, recipe.seed)
        written = list(answers(pair, seen, *options))
        found = collect(pair, written, recipe.temperature, recipe.copied, recipe.seed, told)
        report(f"{len(found):,} drafted tokens, of which {float(found.kept.mean()):.1%} are kept")
        head = fit_head(found, _fitting(recipe))
        texts = list(answers(pair, held_out, *options))
        checked = calibration(pair, head, texts, recipe.depth, recipe.temperature, recipe.seed + 1)
        params = SamplingParams(
            temperature=recipe.temperature, max_new_tokens=recipe.longest, seed=recipe.seed
        )
        figures = compare(pair, head, held_out[:_COMPARED], params)
        files = folder / recipe.name
        _write(files, recipe, head, found, checked, figures)
    report(f"survival of drafts, predicted and true: {_curves(checked)}")
    for figure in figures:
        report(str(figure))
    report(f"stop head: {files}")
    return files


def _prompts(recipe: StopRecipe, pair: ModelPair, data: Path) -> Iterator[tuple[int, ...]]:
    """Yield the prompts that are short enough, in random order."""
    for prompt in training_prompts(recipe.prompts, data, recipe.seed):
        ids = pair.tokenizer.chat(prompt.messages)
        if len(ids) <= recipe.longest_prompt:
            yield ids


def _fitting(recipe: StopRecipe) -> Fitting:
    return Fitting(
        layers=recipe.layers,
        mismatch_weight=recipe.mismatch_weight,
        epochs=recipe.epochs,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        warmup=recipe.warmup,
        seed=recipe.seed,
    )


def _curves(checked: Calibration) -> str:
    pairs = zip(checked.predicted, checked.true, strict=True)
    return " ".join(f"{one:.2f}/{other:.2f}" for one, other in pairs)


def _write(
    folder: Path,
    recipe: StopRecipe,
    head: StopHead,
    found: Drafted,
    checked: Calibration,
    figures: list[PolicyFigures],
) -> None:
    """Write the files of the head, and its card."""
    facts: dict[str, JsonValue] = {
        "format": FORMAT,
        "layers": len(head.layers),
        "mismatch_weight": head.mismatch_weight,
        "target": recipe.target,
        "tokens": len(found),
        "kept": round(float(found.kept.mean()), 4),
        "predicted": [round(one, 4) for one in checked.predicted],
        "true": [round(one, 4) for one in checked.true],
        "measured": [figure.to_dict() for figure in figures],
        "recipe": asdict(recipe),
    }
    tensors = {f"layers.{i}.weight": layer for i, layer in enumerate(head.layers)}
    tensors |= {"out.weight": head.weight, "out.bias": head.bias}
    save_tensors(folder / f"{KIND}.safetensors", tensors)
    write_json(folder / f"{KIND}.json", facts)
    with writing(folder):
        text = _card(recipe, found, checked, figures)
        (folder / "README.md").write_text(text, encoding="utf-8")


def _card(
    recipe: StopRecipe, found: Drafted, checked: Calibration, figures: list[PolicyFigures]
) -> str:
    """Write the card as Markdown."""
    lines = [
        f"# {recipe.name}",
        "",
        f"A stop head of SpecDec++ for the draft model of `{recipe.target}`, made with `outrider "
        "train stop`. It ends drafts and never changes what a rule promises.",
        "",
        f"Trained on {len(found):,} drafted tokens at temperature {recipe.temperature:g}, of which "
        f"the target keeps {float(found.kept.mean()):.1%}. The chance that the first n tokens of a "
        f"draft are all kept, predicted and true, on {checked.drafts} drafts in other answers: "
        f"{_curves(checked)}.",
        "",
        "| prompts | licence of the records |",
        "|---|---|",
        *(f"| {one.name} | {one.licence} |" for one in recipe.prompts),
        "",
        "| policy | tokens a round | drafted tokens a round | accepted |",
        "|---|---|---|---|",
        *(
            f"| {one.policy} | {one.tokens_a_round:.2f} | {one.drafted_a_round:.2f} | "
            f"{one.acceptance:.1%} |"
            for one in figures
        ),
    ]
    return "\n".join([*lines, ""])
