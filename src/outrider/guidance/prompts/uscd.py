"""USCD: at uncertain steps, subtracts what the model writes without examples of input and output.

Wang et al., "USCD: Improving Code Generation of LLMs by Uncertainty-Aware Selective Contrastive
Decoding" (arXiv 2409.05923).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from outrider.core.checks import Range
from outrider.core.types import Exactness
from outrider.guidance.mix import wide
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Found, Gate, Weighted
from outrider.guidance.prompts.examples import without_examples
from outrider.guidance.recipe import Parts, Recipe
from outrider.guidance.source import Source, contrast
from outrider.inputs.given import GivenPrompt
from outrider.protocols import LanguageModel
from outrider.protocols.method import Method, Paper

_STRENGTH = Range(0.0, below=True, hint="Give a number of at least 0, such as 0.7")
_CONFIDENT = Range(
    0.0, 1.0, hint="Give a collision probability, such as 0.4; 1 contrasts all steps"
)
_FLOOR = Range(0.0, below=True, hint="Give a share of the mean probability, such as 0.33")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uscd(Recipe):
    """`log(p - strength * q)` at uncertain steps; `p` follows the prompt, `q` a lame prompt.

    The lame prompt is the prompt without its examples of input and output
    (`prompts.examples.without_examples`), or the other prompt that is given with it. Prompts
    without examples are not guided. Tokens with `p < strength * q` are excluded; where that
    excludes all tokens, the model itself decides. The lame prompt is read at uncertain steps only.

    The public code takes a step as confident where the standard deviation of `p` over the
    vocabulary is above 0.0035. That bound depends on the size of the vocabulary: the standard
    deviation is at most `1 / sqrt(V)`, so no step is confident above 81,600 tokens. The collision
    probability does not depend on it; 0.4 is about their bound at 32,000 tokens.

    Attributes:
        strength: weight of the lame prompt; 0 is the model itself.
        confident: steps whose collision probability (the sum of squared probabilities) is above
            this are left as they are; 1 contrasts every step, 0 none.
        floor: tokens with `p` below this share of the mean probability `1 / V` are excluded at
            uncertain steps; 0 keeps all.
    """

    name: ClassVar[str] = "uscd"
    readings: ClassVar[int] = 2
    reads_contrast: ClassVar[bool] = True

    strength: float = 0.7
    confident: float = 0.4
    floor: float = 1 / 3

    def __post_init__(self) -> None:
        _STRENGTH.check("strength", self.strength)
        _CONFIDENT.check("confident", self.confident)
        _FLOOR.check("floor", self.floor)

    def contrast(self, prompt: GivenPrompt) -> GivenPrompt | None:
        """Return the prompt without its examples; None if it has none."""
        return without_examples(prompt)

    def build(self, parts: Parts) -> LanguageModel:
        """Return the target, with two prompts."""
        target = parts.target
        sources = Source(model=target), Source(model=target, view=contrast)
        gate: Gate | None = None if self.confident == 1.0 else Uncertain(self.confident)
        mixer = _Floored(weights=(1.0, -self.strength), space="prob", gate=gate, floor=self.floor)
        return Mixed(sources, mixer, str(self))


@dataclass(frozen=True, slots=True)
class Uncertain:
    """The gate of rows whose collision probability is at most `most`."""

    most: float

    def __call__(self, logits: Float[Tensor, "rows vocab"]) -> Bool[Tensor, " rows"]:
        """Return the rows that are uncertain."""
        return collision(logits) <= self.most


def collision(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """Return the probability that two tokens drawn from a row are equal: `sum p ** 2`."""
    return torch.softmax(wide(logits), dim=-1).square().sum(dim=-1)


@dataclass(frozen=True, kw_only=True)
class _Floored(Weighted):
    """Excludes tokens that the base finds too unlikely from the rows that are mixed.

    Attributes:
        floor: the smallest probability, as a share of the mean.
    """

    floor: float

    def mixed(self, found: Found) -> Float[Tensor, "rows vocab"]:
        """Mix the rows; one without any token left stays as the base has it."""
        scores = super().mixed(found)
        base, chosen = found.logits(0), found.masks[1]
        if found.rows[1] is None:  # no row is mixed
            return scores
        low = torch.softmax(wide(base), dim=-1) < self.floor / base.shape[-1]
        if chosen is not None:
            low &= chosen[:, None]
        scores = scores.masked_fill(low, -torch.inf)
        nothing = (scores == -torch.inf).all(dim=-1, keepdim=True)
        return torch.where(nothing, base.to(scores.dtype), scores)


METHOD = Method(
    name="uscd",
    cls=Uscd,
    summary="for programs: at uncertain steps, follows the examples in the prompt more closely",
    paper=Paper("USCD", "2409.05923"),
    promise=Exactness.LOSSY,
    needs="examples in the prompt (doctests, asserts), or another prompt with each request",
    memory="a second cache of each text",
)
