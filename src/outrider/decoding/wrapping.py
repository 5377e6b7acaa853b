"""A base class for drafters that wrap one drafter and change part of its behaviour."""

from dataclasses import dataclass, replace
from typing import TypeVar

from outrider.core.types import Draw
from outrider.protocols import Drafter, Needs

_Wrapped = TypeVar("_Wrapped", bound="WrappedDrafter")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedDrafter:
    """Forwards the protocol's properties to `drafter`; subclasses override what they change."""

    drafter: Drafter

    @property
    def name(self) -> str:
        """The name of the wrapped drafter, so that its tokens are counted under that name."""
        return self.drafter.name

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of the wrapped drafter, because its drafts are returned unchanged."""
        return self.drafter.origins

    @property
    def draw(self) -> Draw:
        """How the wrapped drafter selects siblings."""
        return self.drafter.draw

    @property
    def gives(self) -> Needs:
        """The optional fields that drafts of the wrapped drafter can carry."""
        return self.drafter.gives

    @property
    def learns(self) -> bool:
        """Whether the wrapped drafter learns from rows; the wrapper itself does not."""
        return self.drafter.learns

    def bind(self: _Wrapped, needs: Needs, tier: int) -> _Wrapped:
        """Bind the wrapped drafter. Raises `StrategyError` if it cannot supply what is needed."""
        return replace(self, drafter=self.drafter.bind(needs, tier))
