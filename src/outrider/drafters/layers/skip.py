"""Unified Layer Skipping as a drafter: evenly spaced layers, fixed from the start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outrider.core.layers import LayerSet
from outrider.core.types import Budget, Draft, IntArray
from outrider.drafters.given import Given
from outrider.drafters.layers.layer_subset import LayerSubsetDrafter, layer_subset_priors
from outrider.drafters.method import DrafterMethod
from outrider.protocols import Drafter
from outrider.protocols.method import Paper, Value

__all__ = ["EvenSkip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvenSkip(LayerSubsetDrafter):
    """The target drafts with evenly spaced whole layers, including its first and last.

    The target speedup alone determines the layers, as in Unified Layer Skipping (Liu et al. 2024,
    arXiv 2404.06954; L is `model.num_layers`, s is `speedup`). In the paper the subset *replaces*
    the model, which changes the text (`models/wrappers/skipping.py`). Here the whole model verifies
    the subset's drafts, so no training is needed and the text is preserved. There is no search and
    there are no statistics, which makes it the baseline for `swift` and `del`.

    Attributes:
        speedup: the factor by which a drafted token runs fewer layers; from 1 (all layers) to half
            their number.
        layers: an explicit set, instead of `speedup`.

    Raises:
        OptionError: a speedup that leaves fewer than two layers; a set of another model.
    """

    name: str = "skip"
    speedup: float = 2.0
    layers: LayerSet | None = None

    def __post_init__(self) -> None:
        LayerSubsetDrafter.__post_init__(self)
        count = self.layered.num_layers
        layers = self.layers or LayerSet.for_speedup(count, self.speedup)
        object.__setattr__(self, "layers", layers)
        self.part(layers)

    @property
    def kept(self) -> LayerSet:
        """The layers that are run for drafting."""
        assert self.layers is not None
        return self.layers

    def _propose(
        self, states: Sequence[Any], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        return self.draft(self.kept, states, tails, budgets, self.confidence)


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> EvenSkip:
    return EvenSkip(model=given.target, **options)  # pyright: ignore[reportArgumentType]


METHOD = DrafterMethod(
    name="skip",
    cls=EvenSkip,
    summary="every second layer of the target",
    paper=Paper("Unified Layer Skipping", "2404.06954"),
    memory="none: weights and cache are the target's",
    make=_make,
    priors=layer_subset_priors,
    layered=True,
)
