"""What drafters are made from when they are named: models, a datastore, measured costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from outrider.core.errors import OptionError
from outrider.memories.store import Datastore
from outrider.models.costs import measure_costs
from outrider.policies import CostCurve, ExpectedGain, Source
from outrider.policies.windows import Chances
from outrider.protocols import Drafter, LanguageModel

ASKING = 2e-5
"""Seconds of a round in which drafters are asked and have nothing."""

_MARGIN = 0.1
"""How much more than undrafted rounds drafted ones must promise."""

_DRAFT_WIDTHS, _DRAFT_LIMIT = (1, 2), 0.02
_QUALIFIER_WIDTHS, _QUALIFIER_LIMIT = (1, 2, 4, 8), 0.04


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds on this machine.

    Attributes:
        target: of the target's forwards.
        overhead: of an undrafted round beside the forward and the choice of its token. Making a
            draft and handling it are each taken to need as much again.
    """

    target: CostCurve
    overhead: float


def _no_priors(drafter: Drafter) -> tuple[Source, ...]:
    raise OptionError(f"nothing is known of drafter {drafter.name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What drafters are made from.

    Attributes:
        target: the model they draft for.
        below: smaller models, the largest first; the last one drafts.
        growth: how the draft model grows trees (a `Growth`), where that was given.
        datastore: an opened one, for drafters that retrieve.
        costs: of the target; None where the sizes of drafts are fixed, so that nothing is measured.
        chances: what is believed of models before they were tried.
        priors_of: what is believed of a drafter, by the record of its class.
    """

    target: LanguageModel
    below: Sequence[LanguageModel] = ()
    growth: object = None
    datastore: Datastore | None = None
    costs: Costs | None = None
    chances: Chances = field(default_factory=Chances)
    priors_of: Callable[[Drafter], tuple[Source, ...]] = _no_priors
    _curves: dict[tuple[int, int], CostCurve] = field(
        default_factory=dict[tuple[int, int], CostCurve], repr=False
    )

    @property
    def measured(self) -> Costs:
        """The costs. Raises `ValueError` where nothing was measured."""
        if self.costs is None:
            raise ValueError("costs are needed, and none were measured")
        return self.costs

    def draft_model(self, name: str) -> LanguageModel:
        """The smallest model. Raises `OptionError` where there is none below the target."""
        if not self.below:
            raise OptionError(
                f"drafter {name!r} needs a draft model or a qualifier",
                hint="Give draft=..., or use a drafter without a model, such as 'lookup'",
            )
        return self.below[-1]

    def qualifiers(self, name: str) -> Sequence[LanguageModel]:
        """The models between target and draft model. Raises `OptionError` where there are none."""
        if len(self.below) < 2:
            raise OptionError(
                f"drafter {name!r} needs a qualifier and a draft model",
                hint="Give qualifier=... and draft=..., or use drafter 'auto'",
            )
        return self.below[:-1]

    def draft_seconds(self, model: LanguageModel) -> float:
        """Seconds of a forward of a draft model over one row, measured once."""
        return self._curve(model, _DRAFT_WIDTHS, _DRAFT_LIMIT).seconds(1)

    def qualifier_costs(self, model: LanguageModel) -> CostCurve:
        """Seconds of a qualifier's forwards, measured once."""
        return self._curve(model, _QUALIFIER_WIDTHS, _QUALIFIER_LIMIT)

    def gain(self, verify: CostCurve, sources: Sequence[Source]) -> ExpectedGain:
        """The policy that asks each of `sources` for as much as pays.

        Args:
            verify: seconds of the verifier's forwards.
            sources: what is believed of the origins of drafts.
        """
        overhead = self.measured.overhead
        return ExpectedGain(
            verify=verify,
            sources=tuple(sources),
            overhead=overhead,
            handling=overhead,
            asking=ASKING,
            margin=_MARGIN,
        )

    def _curve(self, model: LanguageModel, widths: Sequence[int], limit: float) -> CostCurve:
        key = id(model), len(widths)
        if key not in self._curves:
            self._curves[key] = measure_costs(model, widths, limit=limit)
        return self._curves[key]
