"""`outrider train ppd`: answers of the target, the prompt tokens, and what they achieve."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from outrider.acceptance import Match
from outrider.core.errors import writing
from outrider.core.types import Prompt
from outrider.core.values import JsonValue
from outrider.decoding import Generation, generate
from outrider.drafters.heads.ppd import Ppd
from outrider.drafters.heads.prompt_tokens import FORMAT, KIND, PromptTokens, to_tensors
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.llama.decoder import Decoder
from outrider.models.loading import load_model
from outrider.policies import FixedTree
from outrider.protocols import Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import Strategy
from outrider.training.core.config import read_table
from outrider.training.core.corpus import data_folder
from outrider.training.core.loop import StopSignal, run_in
from outrider.training.core.pairs import folder_of
from outrider.training.core.state import save_tensors, write_json
from outrider.training.heads.answers import read_numbers
from outrider.training.heads.prompts import training_prompts
from outrider.training.heads.recording import (
    Example,
    record_answers,
    recorded,
    split_held_out,
)
from outrider.training.ppd.config import PpdRecipe
from outrider.training.ppd.fit import FitSettings, fit, rank_rates
from outrider.training.ppd.guesses import Guesser

_MEASURED, _LONGEST = 16, 96
"""Further prompts on which the prompt tokens are measured, and the tokens of an answer."""
_NODES = (8, 16, 32)
"""Rows of a draft that are measured."""

Report = Callable[[str], None]


def train_ppd(
    config: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    report: Report = print,
) -> Path:
    """Train the prompt tokens that a TOML file describes; return the folder of their files.

    Recording continues where an interrupted run stopped; training begins anew.

    Args:
        config: the TOML file (`PpdRecipe`).
        data: folder of the data sets; None: the one in the file.
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings, or no data.
        UnsupportedCheckpointError: the target is not Llama-shaped.
        TrainingStopped: after SIGTERM or SIGINT.
    """
    recipe = read_table(config, PpdRecipe)
    place, folder = data_folder(data or Path(recipe.data)), out or Path(recipe.out)
    source = folder_of(recipe.target, "target")
    with run_in(folder, recipe.threads) as stop:
        guesser = Guesser(Decoder.load(source))
        texts = folder / "texts"
        record_answers(recipe, source, place, texts, report, stop)
        tokens = trained(recipe, guesser, _examples(texts, guesser, recipe), report, stop)
        figures = _measure(recipe, tokens, source, place, texts)
        files = folder / recipe.name
        write(files, recipe, tokens, figures)
    for nodes, found in figures.items():
        report(f"drafts of {nodes} rows: {found:.3f} tokens a round")
    report(f"prompt tokens: {files}")
    return files


def trained(
    recipe: PpdRecipe,
    guesser: Guesser,
    examples: Sequence[Example],
    report: Report,
    stop: StopSignal | None = None,
) -> PromptTokens:
    """Train on all texts but those held out, and count the right guesses on these.

    Raises:
        OptionError: there are too few texts.
        TrainingStopped: `stop` asked for it.
    """
    held_out, training = split_held_out(examples, recipe.held_out)
    settings = FitSettings(
        prompts=recipe.prompt_tokens,
        copies=recipe.copies,
        places=recipe.places,
        texts=recipe.texts,
        passes=recipe.passes,
        learning_rate=recipe.learning_rate,
        max_minutes=recipe.max_minutes,
        seed=recipe.seed,
    )
    table = fit(guesser, training, settings, report, stop)
    rates = rank_rates(guesser, table, held_out, recipe.ranks)
    first = " ".join(f"{rate:.1%}" for rate in rates[:, 0].tolist())
    report(f"first guesses that are right, by how far ahead: {first}")
    return PromptTokens(table=table, rates=rates, vocab_size=guesser.target.info.vocab_size)


def _examples(folder: Path, guesser: Guesser, recipe: PpdRecipe) -> list[Example]:
    found = recorded(folder, guesser.target.info.vocab_size)
    return [example for example in found if len(example.places(recipe.prompt_tokens))]


def _measure(
    recipe: PpdRecipe, tokens: PromptTokens, source: Path, data: Path, texts: Path
) -> dict[int, float]:
    """Return the tokens of a round by the rows of a draft, on prompts after those recorded."""
    last = max(n for file in texts.glob("texts-*.safetensors") for n in read_numbers(file))
    prompts = training_prompts(recipe.prompts, data, recipe.answers.seed)
    tokenizer, target = Tokenizer.load(source), load_model(source)
    ids = [
        tokenizer.chat(prompt.messages)
        for prompt in islice(prompts, last + 1, last + 1 + _MEASURED)
    ]
    found: dict[int, float] = {}
    for nodes in _NODES:
        strategy = Strategy(
            target=target,
            drafter=Ppd(prompts=tokens, nodes=nodes),
            rule=Match(),
            policy=FixedTree(depth=2 * recipe.prompt_tokens, nodes=nodes),
        )
        params = SamplingParams(temperature=0.0, max_new_tokens=_LONGEST)
        ends = target.info.end_ids
        generations = [
            Generation(
                Request(Prompt(token_ids=own), Sampler(params, prompt_ids=own, end_ids=ends))
            )
            for own in ids
            if len(own) + _LONGEST < target.info.context_length
        ]
        for _ in generate(strategy.stage, generations):
            pass
        rounds = sum(one.counters.rounds for one in generations)
        found[nodes] = sum(len(one.output) for one in generations) / max(rounds, 1)
    return found


def write(folder: Path, recipe: PpdRecipe, tokens: PromptTokens, figures: dict[int, float]) -> None:
    """Write the files of prompt tokens, and their card."""
    facts: dict[str, JsonValue] = {
        "format": FORMAT,
        "target": recipe.target,
        "vocab_size": tokens.vocab_size,
        "tokens_a_round": {str(nodes): round(found, 3) for nodes, found in figures.items()},
        "recipe": json.loads(json.dumps(asdict(recipe))),
    }
    save_tensors(folder / f"{KIND}.safetensors", to_tensors(tokens))
    write_json(folder / f"{KIND}.json", facts)
    with writing(folder):
        (folder / "README.md").write_text(_card(recipe, tokens, figures), encoding="utf-8")


def _card(recipe: PpdRecipe, tokens: PromptTokens, figures: dict[int, float]) -> str:
    """Write the card as Markdown."""
    lines = [
        f"# {recipe.name}",
        "",
        f"{recipe.prompt_tokens} prompt tokens for `{recipe.target}`, {tokens.table.numel():,} "
        "numbers, made with `outrider train ppd`. The target reads them after a text and guesses "
        "the tokens after the next one; texts do not change.",
        "",
        "| tokens ahead | right first guesses | right among all guesses |",
        "|---|---|---|",
    ]
    for ahead, row in enumerate(tokens.rates, start=1):
        lines.append(f"| {ahead} | {float(row[0]):.1%} | {float(row.sum()):.1%} |")
    lines += ["", "| rows of a draft | tokens a round, temperature 0 |", "|---|---|"]
    lines += [f"| {nodes} | {found:.3f} |" for nodes, found in figures.items()]
    lines += ["", "| prompts | licence of the records |", "|---|---|"]
    lines += [f"| {one.name} | {one.licence} |" for one in recipe.prompts]
    return "\n".join([*lines, ""])
