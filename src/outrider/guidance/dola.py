"""DoLa: contrasts the last layer of a model with an earlier one of the same model.

Chuang et al., "DoLa: Decoding by Contrasting Layers" (arXiv 2309.03883).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError, StrategyError
from outrider.core.types import Exactness
from outrider.guidance.mix import wide
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Found, Mixer
from outrider.guidance.recipe import PLAUSIBLE, Parts, Recipe
from outrider.guidance.source import Source, states_of
from outrider.protocols import LanguageModel, Layered
from outrider.protocols.method import Method, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Dola(Recipe):
    """`log p(last layer) - log p(early layer)`, among the tokens that the last layer finds
    plausible.

    The early layer is the candidate whose distribution differs most (Jensen-Shannon divergence)
    from that of the last layer, at each token anew. Candidates pass the final norm and the output
    head. The paper also uses a repetition penalty of 1.2, which is an option of sampling.

    Attributes:
        half: where the candidates lie: `low` or `high` half of the layers, every second one. Layer
            0, the embeddings, is none: with tied weights it repeats the last token.
        layers: the candidates, in place of those of `half`; layers count from 1.
        alpha: a token is plausible if its probability is at least this share of the largest one.
    """

    name: ClassVar[str] = "dola"

    half: str = "high"
    layers: tuple[int, ...] = ()
    alpha: float = 0.1

    def __post_init__(self) -> None:
        PLAUSIBLE.check("alpha", self.alpha)
        if self.half not in ("low", "high"):
            raise OptionError(f"half is {self.half!r}", hint="Give low or high")

    def build(self, parts: Parts) -> LanguageModel:
        """Return the target, contrasted with its early layers.

        Raises:
            OptionError: there is no such layer.
            StrategyError: the target does not return the states of its layers.
        """
        target = parts.target
        states_of(target, "'dola'")
        if (layered := target.layered) is None:
            raise StrategyError(
                f"{target.info.name} cannot apply its head to early layers, which 'dola' needs",
                hint="Leave out layer skipping",
            )
        layers = self.candidates(layered.num_layers)
        source = Source(model=target, layers=layers)
        return Mixed([source], _Contrast(self.alpha, layers, layered), str(self))

    def candidates(self, num_layers: int) -> tuple[int, ...]:
        """Return the candidates in a model of `num_layers` layers. Raises `OptionError`."""
        if unknown := [layer for layer in self.layers if not 1 <= layer <= num_layers]:
            raise OptionError(
                f"layers holds {unknown[0]}, and the model has the layers 1 to {num_layers}",
                hint="Leave layers out, or give numbers of layers",
            )
        middle = num_layers // 2
        evenly = range(2, middle, 2) if self.half == "low" else range(middle, num_layers, 2)
        return self.layers or tuple(evenly) or (max(num_layers - 1, 1),)


@dataclass(frozen=True, slots=True)
class _Contrast(Mixer):
    """Subtracts the early layer that differs most."""

    alpha: float
    layers: tuple[int, ...]
    layered: Layered

    def mixed(self, found: Found) -> Float[Tensor, "rows vocab"]:
        rows = found.rows[0]
        assert rows is not None and rows.states is not None
        last = torch.log_softmax(wide(rows.logits), dim=-1)
        probs = last.exp()
        early, most = last, torch.zeros(len(last), dtype=last.dtype, device=last.device)
        for layer, states in zip(self.layers, rows.states, strict=True):
            if layer == self.layered.num_layers:
                continue  # the last layer does not differ from itself
            candidate = torch.log_softmax(wide(self.layered.read_out(states)), dim=-1)
            apart = divergence(probs, last, candidate)
            early = torch.where((apart > most)[:, None], candidate, early)
            most = torch.maximum(most, apart)
        unlikely = probs < self.alpha * probs.amax(dim=-1, keepdim=True)
        scores = (last - early).masked_fill(unlikely, -torch.inf)
        # Where no layer differs, all plausible tokens would be equal: the model itself decides.
        return torch.where((most > 0.0)[:, None], scores, rows.logits.to(scores.dtype))


def divergence(
    probs: Float[Tensor, "rows vocab"],
    last: Float[Tensor, "rows vocab"],
    early: Float[Tensor, "rows vocab"],
) -> Float[Tensor, " rows"]:
    """Return the Jensen-Shannon divergence of each row, in nats.

    Args:
        probs: probabilities of the last layer.
        last: their logarithms.
        early: log-probabilities of the early layer.
    """
    other = early.exp()
    middle = (0.5 * (probs + other)).clamp(min=torch.finfo(probs.dtype).tiny).log()
    terms = probs * (last - middle) + other * (early - middle)
    # 0 log 0 is 0: a token without probability is -inf here.
    return 0.5 * terms.nan_to_num(nan=0.0).sum(dim=-1)


METHOD = Method(
    name="dola",
    cls=Dola,
    summary="contrasts the last layer with an earlier layer of the same model",
    paper=Paper("DoLa", "2309.03883"),
    promise=Exactness.LOSSY,
    needs="a target that returns the states of its layers",
)
