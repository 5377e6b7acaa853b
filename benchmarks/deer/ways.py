"""Masks that read their block in both directions beside masks that read those before them.

    python -m benchmarks.deer.ways configs/deer/tiny.toml --texts RUN/texts --steps 150

Both are trained from the same weights on the same blocks (stage II alone) for as many steps, and
judged on texts that are held out: tokens of a block before the first wrong one, at places that are
spread over each answer. Intervals draw texts; the difference is that of pairs.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarks.long_inputs.intervals import bootstrap

from outrider.training.core.config import read_table
from outrider.training.core.optim import make_optimizers
from outrider.training.core.pairs import folder_of
from outrider.training.deer.config import DeerRecipe
from outrider.training.deer.fit import Samples, rates_of
from outrider.training.deer.masked import MaskedModel
from outrider.training.heads.recording import Example, recorded, split_held_out


def trained(recipe: DeerRecipe, examples: Sequence[Example], both: bool, steps: int) -> MaskedModel:
    """Return a model after so many steps of stage II; the learning rate falls linearly to 0."""
    model = MaskedModel.load(folder_of(recipe.draft, "draft"), both)
    optimizers = make_optimizers(model, "draft").values()
    samples = Samples(examples, recipe, second=True)
    for step in range(steps):
        numbers = range(step * recipe.texts, (step + 1) * recipe.texts)
        model.loss([samples[number] for number in numbers]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.second.learning_rate * (1 - step / steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return model.eval()


def main() -> None:
    """Train both and print their rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--texts", type=Path, required=True, help="the answers of a training")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--held-out", type=int, default=240)
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = read_table(given.config, DeerRecipe)
    vocab_size = MaskedModel.load(folder_of(recipe.draft, "draft"), True).model.vocab_size
    examples = [one for one in recorded(given.texts, vocab_size) if len(one.places(1))]
    held_out, training = split_held_out(examples, given.held_out)
    longer = [one for one in held_out if len(one.places(recipe.block - 1))]
    runs: dict[bool, list[float]] = {}
    for both in (True, False):
        begun = time.process_time()
        model = trained(recipe, training, both, given.steps)
        spent = time.process_time() - begun
        right = " ".join(f"{r:.1%}" for r in rates_of(model, longer, recipe.block).right[:8])
        runs[both] = [rates_of(model, [one], recipe.block).run for one in longer]
        mean, low, high = bootstrap(runs[both])
        way = "both directions" if both else "those before"
        print(
            f"{way}: run {mean:.3f} [{low:.3f}, {high:.3f}], right {right}, {spent:.0f} s",
            flush=True,
        )
    pairs = [a - b for a, b in zip(runs[True], runs[False], strict=True)]
    mean, low, high = bootstrap(pairs)
    print(f"difference {mean:+.3f} [{low:+.3f}, {high:+.3f}] on {len(longer)} texts")


if __name__ == "__main__":
    main()
