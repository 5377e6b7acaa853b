"""Tokens a round of `ppd` with trained prompt tokens, beside random ones, on new prompts.

    python -m benchmarks.heads.prompt_tokens runs/tiny-ppd/tiny-ppd configs/ppd/tiny.toml \
        --data DIR --temperatures 0 0.8 --rows 8 16 32
"""

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from outrider.acceptance import Match
from outrider.core.types import Prompt
from outrider.decoding import Generation, generate
from outrider.drafters.heads.ppd import Ppd
from outrider.drafters.heads.prompt_tokens import PromptTokens
from outrider.drafters.heads.prompted import PromptDrafter
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model
from outrider.policies import FixedTree
from outrider.protocols import AcceptanceRule, LanguageModel, Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import Strategy
from outrider.training.core.config import read_table
from outrider.training.core.pairs import folder_of
from outrider.training.heads.prompts import PromptFile, training_prompts
from outrider.training.ppd.config import PpdRecipe

FIRST, PROMPTS, TOKENS, LONGEST = 3000, 48, 96, 200
"""Number of the first prompt, which no training reaches; prompts; tokens of an answer; ids of a
prompt."""
RESAMPLES = 2000
Counts = NDArray[np.float64]
"""`[prompts, 2]`: tokens and rounds."""


def random_tokens(target: LanguageModel, like: PromptTokens) -> PromptTokens:
    """Return embeddings of random tokens in place of trained ones, in the same trees."""
    prompts, copies, hidden = like.table.shape
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(target.info.vocab_size, (prompts * copies,), generator=generator)
    assert target.embed is not None
    table = target.embed(ids.numpy()).clone().view(prompts, copies, hidden)
    return PromptTokens(table=table, rates=like.rates, vocab_size=like.vocab_size)


def decode(
    target: LanguageModel,
    drafter: PromptDrafter | None,
    prompts: Sequence[tuple[int, ...]],
    temperature: float,
    rule: AcceptanceRule | None = None,
) -> list[Generation]:
    """Return the answers to prompts; the rule is `Match` if none is given."""
    rule = rule or Match()
    strategy = Strategy(target=target, rule=rule)
    if drafter is not None:
        nodes = drafter.nodes or 16
        policy = FixedTree(depth=2 * len(drafter.trained.table), nodes=nodes)
        strategy = Strategy(target=target, drafter=drafter, rule=rule, policy=policy)
    params = SamplingParams(temperature=temperature, seed=1, max_new_tokens=TOKENS)
    ends = target.info.end_ids
    found = [
        Generation(Request(Prompt(token_ids=ids), Sampler(params, prompt_ids=ids, end_ids=ends)))
        for ids in prompts
    ]
    for _ in generate(strategy.stage, found):
        pass
    return found


def counts_of(found: Sequence[Generation]) -> Counts:
    """Return tokens and rounds of each answer."""
    return np.array([[len(one.output), one.counters.rounds] for one in found], dtype=np.float64)


def texts_of(found: Sequence[Generation]) -> list[list[int]]:
    """Return the tokens of each answer."""
    return [list(one.output) for one in found]


def short_prompts(
    files: tuple[PromptFile, ...], data: Path, tokenizer: Tokenizer, seed: int, count: int
) -> list[tuple[int, ...]]:
    """Return prompts that no training reaches."""
    every = training_prompts(files, data, seed)
    ids = [tokenizer.chat(prompt.messages) for prompt in islice(every, FIRST, FIRST + 2 * count)]
    return [one for one in ids if len(one) < LONGEST][:count]


def rate(counts: Counts) -> Counts:
    """Return tokens a round, of the last two axes."""
    sums = counts.sum(axis=-2)
    return sums[..., 0] / sums[..., 1]


def interval(values: Counts) -> str:
    """Return the interval that holds 95 % of resampled values."""
    low, high = np.quantile(values, (0.025, 0.975))
    return f"[{low:.3f}, {high:.3f}]"


def main() -> None:
    """Print a line for each temperature and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path, help="folder of the prompt tokens")
    parser.add_argument("config", type=Path, help="the file that they were trained with")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 16, 32], help="of a draft")
    parser.add_argument("--count", type=int, default=PROMPTS, help="number of prompts")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    recipe, trained = read_table(given.config, PpdRecipe), PromptTokens.read(given.prompts)
    source = folder_of(recipe.target, "target")
    target, tokenizer = load_model(source, threads=given.threads), Tokenizer.load(source)
    ids = short_prompts(recipe.prompts, given.data, tokenizer, recipe.answers.seed, given.count)
    draws = np.random.default_rng(0).integers(0, len(ids), (RESAMPLES, len(ids)))
    for temperature in given.temperatures:
        texts = texts_of(decode(target, None, ids, temperature))
        for nodes in given.rows:
            good = Ppd(prompts=trained, nodes=nodes)
            mine = decode(target, good, ids, temperature)
            random = Ppd(prompts=random_tokens(target, trained), nodes=nodes)
            theirs = decode(target, random, ids, temperature)
            ours, other = counts_of(mine), counts_of(theirs)
            print(
                f"temperature {temperature:g}, {nodes} rows: trained {rate(ours):.3f} "
                f"{interval(rate(ours[draws]))}, random {rate(other):.3f}, difference "
                f"{interval(rate(ours[draws]) - rate(other[draws]))}, texts of the target "
                f"{texts_of(mine) == texts == texts_of(theirs)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
