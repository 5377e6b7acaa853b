"""Language-model guidance: the prior of an outside language model in place of the model's own.

Kornblith et al., "Guiding image captioning models toward more specific captions" (arXiv
2307.16686), section on language model guidance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.types import Exactness, Prompt
from outrider.guidance.mix import wide
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import RowMap, Weighted
from outrider.guidance.recipe import OtherModel, Parts, Recipe
from outrider.guidance.source import Source, View, last_token, unconditional
from outrider.inputs.given import TextCodec
from outrider.protocols import LanguageModel
from outrider.protocols.method import Method, Paper

_WEIGHT = Range(0.0, below=True, hint="Give a number of at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class LmGuidance(Recipe):
    """`weight * log q(x) + alpha * log p(x | prompt) - beta * log p(x)`.

    `p` is the target, with the prompt and without it (`guidance.source.unconditional`); `q` is an
    outside language model that reads a text of its own, such as `A short caption:`.

    Attributes:
        model: the outside language model; it has the target's vocabulary.
        alpha: weight of the target with the prompt.
        beta: weight of the target without it; smaller than `alpha`.
        weight: weight of the outside model.
        text: what the outside model reads; empty: the last token of the prompt.
        newline: gives the probability of line ends, by the outside model, to its end token.
    """

    name: ClassVar[str] = "lm-guidance"
    readings: ClassVar[int] = 2
    reads_contrast: ClassVar[bool] = True

    model: OtherModel
    alpha: float = 1.0
    beta: float = 0.5
    weight: float = 1.0
    text: str = ""
    newline: bool = True

    def __post_init__(self) -> None:
        for option in ("alpha", "beta", "weight"):
            _WEIGHT.check(option, getattr(self, option))
        if self.beta >= self.alpha:
            raise OptionError(
                f"beta is {self.beta:g} and alpha is {self.alpha:g}",
                hint="Give a beta below alpha: otherwise the prompt has no weight",
            )

    def models(self) -> Mapping[str, OtherModel]:
        """Return the outside model."""
        return {"outside": self.model}

    def build(self, parts: Parts) -> LanguageModel:
        """Return the guided target. Raises `OptionError` if `text` cannot be encoded."""
        target, outside = parts.target, parts.models["outside"]
        sources = (
            Source(model=target),
            Source(model=target, view=unconditional(target)),
            Source(model=outside, view=self._view(parts.codec)),
        )
        weights = (self.alpha, -self.beta, self.weight)
        maps: dict[int, RowMap] = {}
        if self.newline and parts.codec is not None and target.info.end_ids:
            lines = line_ends(parts.codec, target.info.vocab_size)
            maps[2] = _LineEnds(lines, target.info.end_ids[0])
        return Mixed(sources, Weighted(weights=weights, space="logprob", maps=maps), str(self))

    def _view(self, codec: TextCodec | None) -> View:
        if not self.text:
            return last_token
        if codec is None:
            raise OptionError(
                "the option text of 'lm-guidance' needs a tokenizer",
                hint="Leave text out, or load the target from a folder with a tokenizer",
            )
        read = Prompt(token_ids=codec.encode(self.text))
        return lambda prompt: read


@dataclass(frozen=True, slots=True)
class _LineEnds:
    """Gives the probability of `tokens` to the token `end`."""

    tokens: tuple[int, ...]
    end: int

    def __call__(self, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        if not self.tokens:
            return logits
        known = torch.log_softmax(wide(logits), -1)
        moved = torch.logsumexp(known[:, [*self.tokens, self.end]], dim=-1)
        known = known.index_fill(-1, torch.tensor(self.tokens, device=known.device), -torch.inf)
        known[:, self.end] = moved
        return known


def line_ends(codec: TextCodec, vocab_size: int) -> tuple[int, ...]:
    """Return the tokens whose text begins with a line end."""
    return tuple(i for i in range(vocab_size) if codec.decode((i,)).startswith("\n"))


METHOD = Method(
    name="lm-guidance",
    cls=LmGuidance,
    summary="replaces the model's own prior by that of an outside language model",
    paper=Paper("language-model guidance for captions", "2307.16686"),
    promise=Exactness.LOSSY,
    needs="a language model with the target's vocabulary",
    memory="a second cache of each text, the outside model and its cache",
)
