"""Drafters around one drafter: what they hand on unchanged."""

from dataclasses import dataclass, replace
from typing import TypeVar

from outrider.core.types import Draw
from outrider.protocols import Drafter, Needs

_Wrapped = TypeVar("_Wrapped", bound="WrappedDrafter")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedDrafter:
    """Has the name, the promises and the needs of `drafter`; subclasses add what they change."""

    drafter: Drafter

    @property
    def name(self) -> str:
        """The drafter's."""
        return self.drafter.name

    @property
    def origins(self) -> tuple[str, ...]:
        """The drafter's."""
        return self.drafter.origins

    @property
    def draw(self) -> Draw:
        """The drafter's."""
        return self.drafter.draw

    @property
    def gives(self) -> Needs:
        """The drafter's."""
        return self.drafter.gives

    @property
    def learns(self) -> bool:
        """The drafter's."""
        return self.drafter.learns

    def bind(self: _Wrapped, needs: Needs, tier: int) -> _Wrapped:
        """Bind the drafter. Raises `StrategyError` when it can not give what is needed."""
        return replace(self, drafter=self.drafter.bind(needs, tier))
