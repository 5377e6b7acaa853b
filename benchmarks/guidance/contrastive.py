"""Contrastive decoding on the tiny family: repetition, diversity, and loss under the target.

    python -m benchmarks.guidance.contrastive

The target writes, and the draft model is the amateur (arXiv 2210.15097). Texts take the best token
of each step; the paper searches with five beams. Beside greedy decoding and samples: the paper's
mask and temperature of the amateur, the temperature off (1), the mask off (0), and both off. End
tokens are excluded, so that all texts are equally long. Intervals draw prompts.
"""

import argparse
import os
import time
from collections.abc import Sequence

import numpy as np
from benchmarks.guidance.pairs import Family, ids_of, judged, other_prompts, own_prompts
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.search.intervals import difference, shown

from outrider.core.types import Prompt
from outrider.guidance.contrastive import Contrastive
from outrider.guidance.recipe import Parts
from outrider.protocols import LanguageModel

ARMS: dict[str, tuple[float, float] | None] = {
    "greedy": None,
    "samples": None,
    "samples, top-p 0.95": None,
    "samples, min-p 0.1 (the mask alone)": None,
    "contrastive, alpha 0.1, amateur 0.5 (the paper)": (0.1, 0.5),
    "contrastive, alpha 0.1, amateur 1": (0.1, 1.0),
    "contrastive, alpha 0, amateur 0.5": (0.0, 0.5),
    "contrastive, alpha 0, amateur 1": (0.0, 1.0),
}
"""Alpha and the temperature of the amateur, for each arm; None: the target alone."""


def distinct(text: Sequence[int], length: int) -> float:
    """Return the share of runs of `length` tokens that are not repetitions of earlier ones."""
    runs = [tuple(text[i : i + length]) for i in range(len(text) - length + 1)]
    return len(set(runs)) / len(runs)


def diversity(text: Sequence[int]) -> float:
    """Return the product of the shares for runs of 2, 3 and 4 tokens, as in the paper."""
    return float(np.prod([distinct(text, length) for length in (2, 3, 4)]))


def written(tiny: Family, arm: str, prompts: Sequence[Prompt], count: int) -> list[tuple[int, ...]]:
    """Return the texts of one arm."""
    target, draft = tiny.models["target"], tiny.models["draft"]
    options = ARMS[arm]
    model: LanguageModel = target
    if options is not None:
        recipe = Contrastive(amateur=draft, alpha=options[0], temperature=options[1])
        model = recipe.build(Parts(target=target, models={"amateur": draft}))
    found = tiny.generator(model).generate(
        list(prompts),
        max_new_tokens=count,
        min_new_tokens=count,
        temperature=1.0 if arm.startswith("samples") else 0.0,
        top_p=0.95 if "top-p" in arm else 1.0,
        min_p=0.1 if "min-p" in arm else 0.0,
        seed=1,
    )
    return [tuple(one.token_ids) for one in found]


def main() -> None:
    """Write all texts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--number", type=int, default=80)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=540.0)
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    tiny = Family.load()
    every = [*own_prompts(), *other_prompts()]
    texts_only = [prompt for prompt in every if isinstance(prompt, str)]
    prompts = [ids_of(tiny.codec, prompt) for prompt in texts_only[: given.number]]
    texts: dict[str, list[tuple[int, ...]]] = {}
    for arm in ARMS:
        texts[arm] = written(tiny, arm, prompts, given.tokens)
        if time.monotonic() > end:
            print("time is up")
            break
    print(
        "| | repeated runs of 4 | less than greedy | diversity | loss under the target |"
        " target's choice |\n|---|---|---|---|---|--:|"
    )
    plain = [1.0 - distinct(text, 4) for text in texts["greedy"]]
    for arm, found in texts.items():
        repeated = [1.0 - distinct(text, 4) for text in found]
        target = tiny.models["target"]
        seen = [judged(target, *pair) for pair in zip(prompts, found, strict=True)]
        share, various, loss = (
            bootstrap(values)
            for values in (
                repeated,
                [diversity(text) for text in found],
                [float(one.losses.mean()) for one in seen],
            )
        )
        own = np.mean([float(one.own.mean()) for one in seen])
        print(
            f"| {arm} | {share[0]:.1%} [{share[1]:.1%}, {share[2]:.1%}] |"
            f" {shown(difference(plain, repeated)) if arm != 'greedy' else ''} |"
            f" {various[0]:.3f} [{various[1]:.3f}, {various[2]:.3f}] |"
            f" {loss[0]:.2f} [{loss[1]:.2f}, {loss[2]:.2f}] | {own:.0%} |",
            flush=True,
        )
    print(f"{len(prompts)} prompts; load average {os.getloadavg()[0]:.1f}")
    for arm, found in texts.items():
        print(f"\n{arm}: {tiny.codec.decode(found[0])[:300]!r}")


if __name__ == "__main__":
    main()
