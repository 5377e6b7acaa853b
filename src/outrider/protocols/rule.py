"""Rules that decide what is kept of a draft."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from outrider.core.types import (
    Draft,
    Draw,
    Exactness,
    Verdict,
)
from outrider.protocols.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the rule above a drafter must find in its drafts."""

    probs: bool = False
    reference: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(probs=self.probs or other.probs, reference=self.reference or other.reference)


NO_NEEDS = Needs()


@runtime_checkable
class AcceptanceRule(Protocol):
    """Decides which nodes of a draft to keep. It sees no model and no cache."""

    @property
    def needs(self) -> Needs:
        """What the draft must carry."""
        ...

    @property
    def draws(self) -> frozenset[Draw]:
        """Ways of drawing siblings that it judges correctly."""
        ...

    @property
    def exactness(self) -> Exactness:
        """What it promises about the text."""
        ...

    @property
    def tracks_probs(self) -> bool:
        """Whether its verdict can name the distribution each emitted token was drawn from."""
        ...

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Judge `draft` by the rows in `view`."""
        ...
