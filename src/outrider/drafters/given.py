"""The inputs for building drafters by name: models, a datastore, measured costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from outrider.core.errors import OptionError
from outrider.memories.store import Datastore
from outrider.models.costs import measure_costs
from outrider.models.heads.model import HeadModel
from outrider.policies import CostSurface, ExpectedGain, Source
from outrider.policies.windows import Chances
from outrider.protocols import Drafter, LanguageModel

ASKING = 2e-5
"""Seconds of a round that drafters need even if they propose nothing."""

_MARGIN = 0.1
"""Relative gain over undrafted rounds that a draft must promise."""

_DRAFT_WIDTHS, _DRAFT_LIMIT = (1, 2), 0.02
_QUALIFIER_WIDTHS, _QUALIFIER_LIMIT = (1, 2, 4, 8), 0.04


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured seconds on this machine.

    Attributes:
        target: seconds of the target's forwards.
        overhead: seconds of an undrafted round in addition to the forward and the choice of its
            token. Making a draft and processing it are each assumed to take as long as this.
    """

    target: CostSurface
    overhead: float


def _no_priors(drafter: Drafter) -> tuple[Source, ...]:
    raise OptionError(f"the priors of drafter {drafter.name!r} are not available")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The inputs for building drafters.

    Attributes:
        target: the model for which drafters propose.
        below: smaller models, the largest first; the last one drafts.
        growth: how the draft model grows trees (a `Growth`), if specified.
        datastore: an open datastore, for drafters that retrieve.
        costs: the costs of the target; None if draft sizes are fixed and nothing is measured.
        chances: prior acceptance chances of models.
        priors_of: returns the priors of a drafter, from the record of its class.
    """

    target: LanguageModel
    below: Sequence[LanguageModel] = ()
    growth: object = None
    datastore: Datastore | None = None
    costs: Costs | None = None
    chances: Chances = field(default_factory=Chances)
    priors_of: Callable[[Drafter], tuple[Source, ...]] = _no_priors
    _heads: dict[int, float] = field(default_factory=dict[int, float], repr=False)
    _curves: dict[tuple[int, int], CostSurface] = field(
        default_factory=dict[tuple[int, int], CostSurface], repr=False
    )

    @property
    def measured(self) -> Costs:
        """The costs. Raises `ValueError` if nothing was measured."""
        if self.costs is None:
            raise ValueError("costs are needed, but none were measured")
        return self.costs

    def draft_model(self, name: str) -> LanguageModel:
        """Return the smallest model. Raises `OptionError` if there is none below the target."""
        if not self.below:
            raise OptionError(
                f"drafter {name!r} needs a draft model or a qualifier",
                hint="Give draft=..., or use a drafter without a model, such as 'lookup'",
            )
        return self.below[-1]

    def qualifiers(self, name: str) -> Sequence[LanguageModel]:
        """Return the models between target and draft model. Raises `OptionError` if there are
        none.
        """
        if len(self.below) < 2:
            raise OptionError(
                f"drafter {name!r} needs a qualifier and a draft model",
                hint="Give qualifier=... and draft=..., or use drafter 'auto'",
            )
        return self.below[:-1]

    def draft_seconds(self, model: LanguageModel) -> float:
        """Return the seconds of a forward of a draft model over one row; measured once."""
        if isinstance(model, HeadModel):
            if id(model) not in self._heads:
                self._heads[id(model)] = model.draft_seconds()
            return self._heads[id(model)]
        return self._curve(model, _DRAFT_WIDTHS, _DRAFT_LIMIT).seconds(1)

    def qualifier_costs(self, model: LanguageModel) -> CostSurface:
        """Return the seconds of a qualifier's forwards; measured once."""
        return self._curve(model, _QUALIFIER_WIDTHS, _QUALIFIER_LIMIT)

    def gain(self, verify: CostSurface, sources: Sequence[Source]) -> ExpectedGain:
        """Return the policy that requests the most profitable amount from each of `sources`.

        Args:
            verify: seconds of the verifier's forwards.
            sources: the priors of the origins of drafts.
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

    def _curve(self, model: LanguageModel, widths: Sequence[int], limit: float) -> CostSurface:
        key = id(model), len(widths)
        if key not in self._curves:
            self._curves[key] = measure_costs(model, widths, limit=limit)
        return self._curves[key]
