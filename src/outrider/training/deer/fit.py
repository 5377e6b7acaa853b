"""The two stages of the training, and how many tokens of a block are right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from outrider.training.core.config import Stage
from outrider.training.core.loop import StageRun, StopSignal, run_stage
from outrider.training.core.optim import make_optimizers
from outrider.training.deer.blocks import Block, Rows, all_masked, rows_of, some_masked
from outrider.training.deer.config import DeerRecipe, StageRecipe
from outrider.training.deer.masked import MaskedModel
from outrider.training.heads.recording import Example

FIRST, SECOND = "first", "second"
"""Names of the two stages, and of their checkpoints."""
_PLACES = 12
"""Places of a held-out text behind which blocks are drafted."""
_TEXTS_AT_ONCE = 8


class Samples:
    """The texts of a stage, by number, each with its blocks; each pass has another order.

    Args:
        examples: texts whose answers have at least two tokens.
        recipe: sizes and numbers of blocks, and the seed.
        second: whether all tokens of a block are masked.
    """

    def __init__(self, examples: Sequence[Example], recipe: DeerRecipe, second: bool) -> None:
        self._examples, self._recipe, self._second = examples, recipe, second

    def __getitem__(self, number: int) -> Rows:
        """Return the text with this number, counted over all passes."""
        recipe = self._recipe
        turn, place = divmod(number, len(self._examples))
        order = np.random.default_rng((recipe.seed, self._second, turn))
        example = self._examples[int(order.permutation(len(self._examples))[place])]
        rng = np.random.default_rng((recipe.seed, self._second, turn, place))
        places = example.places(0)
        cuts = rng.choice(places, min(recipe.cuts, len(places)), replace=False)
        blocks = [self._block(int(cut), len(example.ids), rng) for cut in np.sort(cuts)]
        parts = [replace_weights(block, len(blocks)) for block in blocks]
        return rows_of(example, parts, plain=recipe.plain)

    def _block(self, cut: int, length: int, rng: np.random.Generator) -> Block:
        most = min(self._recipe.block, length - 1 - cut)
        if not self._second:
            return some_masked(cut, most, rng)
        size = min(int(rng.integers(1, self._recipe.block + 1)), most)
        return all_masked(cut, size, self._recipe.second.growth)


def replace_weights(block: Block, count: int) -> Block:
    """Return one of `count` blocks with its share of the loss of a text."""
    return Block(block.cut, block.masked, block.weights / np.float32(count))


def fit(
    model: MaskedModel,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    recipe: DeerRecipe,
    folder: Path,
    stop: StopSignal,
    *,
    second: bool,
) -> None:
    """Train one stage; an interrupted one continues from its checkpoint in `folder`.

    Raises:
        TrainingStopped: `stop` asked for it, with a checkpoint.
    """
    own: StageRecipe = recipe.second if second else recipe.first
    samples = Samples(examples, recipe, second)
    # The loop counts tokens in rows of `sequence_length`; here it counts texts.
    stage = Stage(
        tokens=max(1, round(len(examples) * own.passes)),
        sequence_length=1,
        batch=recipe.texts,
        micro_batch=recipe.texts,
        learning_rate=own.learning_rate,
        final_learning_rate=own.learning_rate / 20,
        warmup_tokens=20 * recipe.texts,
        max_minutes=own.max_minutes,
    )

    def step(row: int) -> dict[str, float]:
        loss = model.loss([samples[row + i] for i in range(recipe.texts)])
        loss.backward()
        return {"loss": loss.item()}

    model.train()
    run_stage(
        StageRun(
            name=SECOND if second else FIRST,
            folder=folder,
            stage=stage,
            models={"draft": model},
            optimizers=make_optimizers(model, "draft"),
            step=step,
            evaluate=lambda: {"run": rates_of(model, held_out, recipe.block).run},
            stop=stop,
        )
    )
    model.eval()


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """How good drafted blocks are, on held-out texts.

    Attributes:
        right: `[block]` share of right tokens at each place.
        run: mean number of right tokens before the first wrong one.
    """

    right: NDArray[np.float64]
    run: float


@torch.no_grad()
def rates_of(model: MaskedModel, examples: Sequence[Example], block: int) -> Rates:
    """Count the right best tokens of blocks whose tokens are all masked.

    Raises:
        ValueError: no answer has `block` tokens.
    """
    hits: list[NDArray[np.bool_]] = []
    for start in range(0, len(examples), _TEXTS_AT_ONCE):
        texts: list[Rows] = []
        for one in examples[start : start + _TEXTS_AT_ONCE]:
            places = one.places(block - 1)
            places = places[:: max(1, -(-len(places) // _PLACES))]
            if len(places):
                texts.append(rows_of(one, [all_masked(int(cut), block, 1) for cut in places]))
        if texts:
            labels = torch.from_numpy(np.concatenate([text.labels for text in texts]))
            right = model.logits(texts).argmax(-1) == labels
            hits.append(right.view(-1, block).numpy())
    if not hits:
        raise ValueError(f"no held-out answer has {block} tokens")
    found = np.concatenate(hits)
    return Rates(found.mean(0), float(np.cumprod(found, axis=1).sum(1).mean()))
