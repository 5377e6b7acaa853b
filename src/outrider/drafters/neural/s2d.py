"""A draft model with early exits: tokens leave it where it is sure, and go deeper where not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outrider.core.layers import Exits
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.model import ModelDrafter, draft_priors
from outrider.models.exits.model import ExitModel
from outrider.protocols import Drafter, LanguageModel
from outrider.protocols.method import Paper, Value

THRESHOLD = 0.5
"""Threshold of the paper, for targets for which none was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted(ModelDrafter):
    """S2D (Kavehzadeh et al. 2024, arXiv 2407.01955): drafts chains with a model whose early exits
    share its final norm and head (`models/exits/model.py`).

    A token leaves at the first exit where the largest probability is above the threshold. One draft
    model so serves targets of several sizes: a small target pays for few layers of the draft model,
    a large one for more. `outrider train exits` trains all exits and chooses a threshold for each
    target, which the folder of the draft model keeps.

    A model without trained exits works as well, with exits at thirds of its layers, but its early
    exits rarely draft useful tokens.

    Attributes:
        exits: number of layers before each exit, ascending; the last one is the whole model. Empty:
            those that the model was trained for.
        threshold: from 0 (always the first exit) to 1 (always the last); None: the one chosen for
            the target, else 0.5.

    Raises:
        StrategyError: a draft model that Outrider does not run itself.
        OptionError: exits that do not fit the model, or a threshold outside 0 to 1.
    """

    name: str = "s2d"
    exits: tuple[int, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, ExitModel):
            model = sorted_model(self.model, exits=self.exits, threshold=self.threshold)
            object.__setattr__(self, "model", model)


def sorted_model(
    model: LanguageModel,
    *,
    target: str = "",
    exits: tuple[int, ...] = (),
    threshold: float | None = None,
) -> ExitModel:
    """Return `model` with early exits.

    Args:
        model: the draft model.
        target: fingerprint of the target, whose thresholds the model may know.
        exits: see `Sorted`.
        threshold: see `Sorted`.
    """
    own = Exits(layers=exits) if exits else model.info.exits
    known = own.thresholds.get(target) if own is not None else None
    if threshold is not None or known is None:
        return ExitModel(model, exits=own, thresholds=THRESHOLD if threshold is None else threshold)
    return ExitModel(model, exits=own, thresholds=known)


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Sorted:
    asked: Any = options
    model = sorted_model(
        given.draft_model("s2d"),
        target=given.target.info.fingerprint,
        exits=asked.get("exits") or (),
        threshold=asked.get("threshold"),
    )
    return Sorted(model=model, **asked)


METHOD = DrafterMethod(
    name="s2d",
    cls=Sorted,
    summary="a draft model whose tokens leave after the first layers that are sure",
    paper=Paper("S2D", "2407.01955"),
    needs="a draft model that Outrider runs, trained for early exits to be of use",
    memory="the draft model, its cache, and a hidden state of each inner exit for each token",
    make=_make,
    priors=draft_priors,
    models=1,
    layered=True,
)
