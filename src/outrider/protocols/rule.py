"""The contract of acceptance rules, which decide which drafted tokens are kept."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from outrider.core.types import (
    Draft,
    Draw,
    Exactness,
    Verdict,
)
from outrider.protocols.model import LanguageModel
from outrider.protocols.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the drafts must carry so that the acceptance rule above the drafter can work."""

    probs: bool = False
    reference: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(probs=self.probs or other.probs, reference=self.reference or other.reference)


NO_NEEDS = Needs()


@runtime_checkable
class AcceptanceRule(Protocol):
    """Decides which nodes of a draft to keep. It has access to neither the model nor the cache."""

    @property
    def needs(self) -> Needs:
        """The optional fields that the draft must carry."""
        ...

    @property
    def draws(self) -> frozenset[Draw]:
        """The ways of drawing siblings that the rule handles correctly."""
        ...

    @property
    def exactness(self) -> Exactness:
        """The exactness that the rule guarantees for the text."""
        ...

    @property
    def tracks_probs(self) -> bool:
        """Whether its verdict includes the distribution that each emitted token was drawn from."""
        ...

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Decide which nodes of `draft` to accept, given the verifier's rows in `view`."""
        ...


@runtime_checkable
class ReadsStates(Protocol):
    """A rule that reads the verifier's last hidden states (`Rows.hidden`) of drafted tokens."""

    def check_target(self, target: LanguageModel) -> None:
        """Raise `StrategyError` or `VocabularyError` unless `target` returns the states that the
        rule reads."""
        ...
