"""What drafting costs at each threshold, and the threshold at which a token is cheapest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.acceptance import Match
from outrider.core.layers import Exits
from outrider.core.metrics import acceptance_rate, total
from outrider.core.types import Prompt
from outrider.core.values import JsonValue
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.drafters.neural.s2d import Sorted
from outrider.models.exits.model import ExitModel
from outrider.models.llama.base import OwnModel
from outrider.policies import FixedLength
from outrider.protocols import LanguageModel, Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy.strategy import Strategy

_RESAMPLED = 2000


@dataclass(frozen=True, slots=True)
class ExitFigures:
    """Figures of one threshold, for one target.

    Attributes:
        threshold: of all exits but the last.
        costs: `[prompts]` weights that target and draft model read for a prompt's answer, in
            forwards of the target.
        bare: the same without the output heads: as where the head is small relative to a layer.
        tokens: `[prompts]` tokens of the answers.
        acceptance: share of the drafted tokens that the target keeps.
        left: share of the drafted tokens that left at each exit.
    """

    threshold: float
    costs: NDArray[np.float64]
    bare: NDArray[np.float64]
    tokens: NDArray[np.float64]
    acceptance: float
    left: tuple[float, ...]

    @property
    def cost(self) -> float:
        """Weights read for a token, in forwards of the target; 1 without drafts."""
        return float(self.costs.sum() / self.tokens.sum())

    @property
    def bare_cost(self) -> float:
        """The cost of a token without the output heads."""
        return float(self.bare.sum() / self.tokens.sum())

    def __str__(self) -> str:
        shares = "/".join(f"{share:.0%}" for share in self.left)
        return (
            f"threshold {self.threshold:g}: cost of a token {self.cost:.3f} "
            f"({self.bare_cost:.3f} without heads), "
            f"{self.acceptance:.1%} accepted, exits {shares}"
        )

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the figures as JSON."""
        return {
            "threshold": self.threshold,
            "cost": round(self.cost, 4),
            "bare_cost": round(self.bare_cost, 4),
            "acceptance": round(self.acceptance, 4),
            "left": [round(share, 4) for share in self.left],
        }


def weights_read(model: LanguageModel, layers: int | None = None) -> tuple[float, float]:
    """Return how many weights a forward of one row over `layers` layers (None: all) reads, with
    and without the output head: its time where memory is the limit.
    """
    assert isinstance(model, OwnModel) and model.info.num_parameters is not None
    head = model.info.vocab_size * model.width
    outside = head if model.config.tied else 2 * head
    each = (model.info.num_parameters - outside) / model.num_layers
    bare = each * (model.num_layers if layers is None else layers)
    return head + bare, bare


def measure_exits(
    target: LanguageModel,
    draft: LanguageModel,
    exits: Exits,
    prompts: Sequence[tuple[int, ...]],
    threshold: float,
    depth: int,
    longest: int,
) -> ExitFigures:
    """Decode prompts at temperature 0 with drafts of `depth` tokens.

    The cost is modelled: a forward costs the weights that it reads, for any number of rows. So
    figures do not depend on the load of the machine. Every exit that a token passes reads the
    output head once more.
    """
    model = ExitModel(draft, exits=exits, thresholds=threshold)
    firsts = (0, *exits.layers[:-1])
    spans = zip(firsts, exits.layers, strict=True)
    prices = np.array([weights_read(draft, last - first) for first, last in spans])
    prices /= weights_read(target)  # [exits, 2]: with the heads, and without them
    strategy = Strategy(
        target=target, drafter=Sorted(model=model), rule=Match(), policy=FixedLength(depth)
    )
    costs, tokens, written = [], [], []
    for ids in prompts:
        model.work.clear()
        [one] = _answers(strategy, target, [ids], longest)
        costs.append(one.counters.rounds + np.array(model.work.calls) @ prices)
        tokens.append(len(one.output))
        written.append((one.counters, list(model.work.left)))
    left = np.sum([exits_taken for _, exits_taken in written], axis=0)
    whole, bare = np.array(costs).T
    return ExitFigures(
        threshold,
        whole,
        bare,
        np.array(tokens, dtype=np.float64),
        acceptance_rate(total([counters for counters, _ in written])),
        tuple((left / max(left.sum(), 1)).tolist()),
    )


def _answers(
    strategy: Strategy, target: LanguageModel, prompts: Sequence[tuple[int, ...]], longest: int
) -> list[Generation]:
    params = SamplingParams(temperature=0.0, max_new_tokens=longest)
    generations = [
        Generation(
            Request(
                Prompt(token_ids=ids), Sampler(params, prompt_ids=ids, end_ids=target.info.end_ids)
            )
        )
        for ids in prompts
    ]
    for _ in generate(strategy.stage, generations):
        pass
    return generations


def cheapest(found: Sequence[ExitFigures]) -> ExitFigures:
    """Return the figures with the lowest cost of a token; the lower threshold of equals."""
    return min(found, key=lambda one: (one.cost, one.threshold))


def relative_cost(
    one: ExitFigures, other: ExitFigures, *, bare: bool = False, seed: int = 0
) -> tuple[float, float, float]:
    """Return the cost of a token of `one` relative to that of `other`, on the same prompts, with
    the bounds of its 95 % interval: prompts are resampled, in pairs.

    With `bare`, output heads cost nothing.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(one.costs), (_RESAMPLED, len(one.costs)))

    def cost(figures: ExitFigures) -> NDArray[np.float64]:
        costs = figures.bare if bare else figures.costs
        return costs[drawn].sum(axis=1) / figures.tokens[drawn].sum(axis=1)

    low, high = np.percentile(cost(one) / cost(other), (2.5, 97.5))
    costs = (one.bare_cost, other.bare_cost) if bare else (one.cost, other.cost)
    return costs[0] / costs[1], float(low), float(high)
