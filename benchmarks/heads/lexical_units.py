"""Lexical Unit Decoding: tokens a round with and without tuning, and what lossy texts are worth.

python -m benchmarks.heads.lexical_units configs/lud/tiny.toml runs/tiny-lud/tiny-lud --data DIR
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.heads.prompt_tokens import (
    PROMPTS,
    RESAMPLES,
    Counts,
    counts_of,
    decode,
    interval,
    rate,
    short_prompts,
    texts_of,
)
from numpy.typing import NDArray

from outrider.acceptance import Lud
from outrider.core.types import Prompt, as_ids
from outrider.decoding import Generation
from outrider.drafters.heads.lud import Lud as Drafter
from outrider.drafters.heads.prompt_tokens import PromptTokens
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model
from outrider.protocols import LanguageModel, Segment
from outrider.training.core.config import read_table
from outrider.training.core.pairs import folder_of
from outrider.training.lud.config import LudRecipe

Prompts = Sequence[tuple[int, ...]]
Draws = NDArray[np.int64]
"""`[resamples, prompts]`: which prompts each resample holds."""


def untrained(target: LanguageModel, like: PromptTokens) -> PromptTokens:
    """Return the embedding of a random token in place of the trained pad."""
    assert target.embed is not None
    generator = torch.Generator().manual_seed(0)
    token = torch.randint(target.info.vocab_size, (1,), generator=generator)
    return PromptTokens.of_pad(target.embed(token.numpy())[0].clone(), like.rates, like.vocab_size)


def losses(judge: LanguageModel, prompts: Prompts, found: Sequence[Generation]) -> Counts:
    """Return `[prompts, 2]`: the cross-entropy of each answer in nats under `judge`, and tokens."""
    sums: list[tuple[float, int]] = []
    for ids, one in zip(prompts, found, strict=True):
        answer = as_ids(one.output)
        [cache] = judge.start([Prompt(token_ids=ids)])
        want = as_ids(range(-1, len(answer) - 1))
        [rows] = judge.forward([Segment(cache, answer)], [want])
        probs = rows.logits.double().log_softmax(-1)
        own = probs[torch.arange(len(answer)), torch.from_numpy(answer)]
        sums.append((-float(own.sum()), len(answer)))
    return np.array(sums)


def changes(found: Sequence[Generation]) -> Counts:
    """Return changed tokens and tokens of each answer."""
    return np.array([[one.counters.changed, len(one.output)] for one in found], dtype=np.float64)


def shown(counts: Counts, draws: Draws) -> str:
    """Return a ratio with its interval."""
    return f"{rate(counts):.3f} {interval(rate(counts[draws]))}"


def main() -> None:
    """Print a line for each way of decoding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="the file of the training")
    parser.add_argument("files", type=Path, nargs="+", help="folders of adapters and pads")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="number of prompts")
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 8, 15], help="rows of drafts")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.99, 0.9, 0.7, 0.5])
    given = parser.parse_args()
    recipe = read_table(given.config, LudRecipe)
    source = folder_of(recipe.target, "target")
    tokenizer = Tokenizer.load(source)
    ids = short_prompts(recipe.prompts, given.data, tokenizer, recipe.answers.seed, given.prompts)
    draws = np.random.default_rng(0).integers(0, len(ids), (RESAMPLES, len(ids)))
    base = load_model(source, dtype="float32", threads=1)
    greedy = decode(base, None, ids, 0.0)
    say(f"base, undrafted: loss under the base {shown(losses(base, ids, greedy), draws)}")
    for number, folder in enumerate(given.files):
        pad = PromptTokens.read_pad(folder)
        tuned = load_model(source, dtype="float32", threads=1, adapter=folder)
        own = decode(tuned, None, ids, 0.0)
        say(
            f"{folder.name}, undrafted: loss of its answers under the base "
            f"{shown(losses(base, ids, own), draws)}, loss of the base's answers under it "
            f"{shown(losses(tuned, ids, greedy), draws)}"
        )
        for rows in given.rows:
            if not number:
                other = Drafter(pad=untrained(base, pad), nodes=rows)
                name = f"base, embedding of a random token, {rows} rows"
                say_verified(name, decode(base, other, ids, 0.0), greedy, draws)
            drafter = Drafter(pad=pad, nodes=rows)
            name = f"{folder.name}, tuned, {rows} rows"
            say_verified(name, decode(tuned, drafter, ids, 0.0), own, draws)
        for beta in given.betas:
            drafter = Drafter(pad=pad, beta=beta)
            found = decode(tuned, drafter, ids, 0.0)
            say_verified(f"{folder.name}, verified, beta {beta:g}", found, own, draws)
            found = decode(tuned, drafter, ids, 0.0, Lud(beta=beta))
            say(
                f"{folder.name}, lossy, beta {beta:g}: {shown(counts_of(found), draws)} tokens a "
                f"round, changed {shown(changes(found), draws)}, loss under the base "
                f"{shown(losses(base, ids, found), draws)}"
            )


def say_verified(
    name: str, found: Sequence[Generation], own: Sequence[Generation], draws: Draws
) -> None:
    """Print the tokens a round of verified guesses."""
    say(
        f"{name}: {shown(counts_of(found), draws)} tokens a round, same texts "
        f"{texts_of(found) == texts_of(own)}"
    )


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
