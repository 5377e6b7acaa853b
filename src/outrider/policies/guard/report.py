"""What the guard tells: states, switches, and their reasons in words."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from math import exp

from outrider.core.values import JsonValue
from outrider.policies.guard.paces import Drafted


class State(StrEnum):
    """Whether the guard lets a strategy draft."""

    ON = "on"
    LOSING = "losing"
    """Drafts lose, but the guard only warns."""
    OFF = "off"
    FAILED = "failed"
    """The drafter raised too many errors."""


class Cause(StrEnum):
    """Why drafting was switched. Names of few words, for counters of a server."""

    SLOW = "slow"
    """One group of rounds was much slower than undrafted ones."""
    DRIFT = "drift"
    """Many groups were slower."""
    ALLOWANCE = "allowance"
    """Losses, and the gains between them, have used up what drafts may lose."""
    GAIN = "gain"
    """Trials were faster."""
    ERRORS = "errors"
    """The drafter raised errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One change of the state."""

    to: State
    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardReport:
    """The state of the guard for one size of batch.

    Attributes:
        state: `on`, `off`, `losing` (the guard only warns) or `failed` (the drafter raised errors).
        since: rounds since the newest switch, or since the start.
        x: natural logarithm of the seconds per token without drafts over those with drafts, in the
            newest comparison; None before the first one. Drafts gain if it is above 0.
        reason: why drafting is in this state; empty as long as it was never switched.
    """

    state: str
    since: int
    x: float | None
    reason: str = ""

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain values for JSON."""
        return asdict(self)


def compared(seen: Drafted, gain: float) -> str:
    """Return a sentence about drafted rounds beside undrafted ones."""
    change = exp(gain) - 1.0
    way = "faster" if change >= 0 else "slower"
    return (
        f"a drafted round wrote {seen.tokens_per_round:.2f} times the tokens of an undrafted one "
        f"and took {seen.cost_per_round:.2f} times as long ({seen.rounds} rounds): drafting is "
        f"{abs(change):.0%} {way}"
    )
