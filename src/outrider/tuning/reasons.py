"""Why drafting pays or not, computed from the texts of the verdict and written in plain words."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from outrider.bench.measure import Run
from outrider.core.metrics import ratio

_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """The figures of one arm beside plain decoding, from texts of the same prompts.

    Attributes:
        drafted: drafted tokens of a round with a draft.
        written: tokens of a round, the target's own included.
        cost: seconds of a round, over those of a plain token.
        drafting: the part of `cost` that drafting takes.
        acceptance: the chance that a drafted token is kept if those before it were, as it follows
            from `written` for chains of `drafted` tokens.
        needed: the chance at which `written` would reach `cost`; None: no chance would do.
        affordable: the largest `drafting` at which this arm would pay; 0: none.
    """

    drafted: float
    written: float
    cost: float
    drafting: float
    acceptance: float
    needed: float | None
    affordable: float

    @property
    def speedup(self) -> float:
        """Speed over plain decoding, of all texts together."""
        return ratio(self.written, self.cost)

    @classmethod
    def of(cls, plain: Sequence[Run], arm: Sequence[Run]) -> "Reason | None":
        """Compute the figures; None if nothing was drafted.

        Args:
            plain: texts of plain decoding.
            arm: texts of the arm, of the same prompts.
        """
        rounds = sum(run.rounds for run in arm)
        drafts = sum(run.drafted for run in arm)
        each = ratio(_seconds(plain), sum(run.tokens for run in plain))
        if not rounds or not drafts or not each:
            return None
        drafted, written = drafts / rounds, sum(run.tokens for run in arm) / rounds
        cost = _seconds(arm) / rounds / each
        drafting = sum(run.parts.get("draft", 0.0) for run in arm) / rounds / each
        return cls(
            drafted=drafted,
            written=written,
            cost=cost,
            drafting=drafting,
            acceptance=_chance(written, drafted) or 0.0,
            needed=_chance(cost, drafted),
            affordable=max(written - (cost - drafting), 0.0),
        )

    def __str__(self) -> str:
        first = (
            f"A round of {self.drafted:.1f} drafted tokens costs {self.cost:.2f} plain ones and "
            f"writes {self.written:.2f}: "
        )
        if self.speedup >= 1.0:
            return f"{first}drafting is {self.speedup:.2f} times as fast."
        loss = f"{first}drafting loses {1.0 - self.speedup:.0%}. "
        if self.needed is None:
            pays = "It would not pay even if every drafted token were kept"
        else:
            pays = f"It would pay from acceptance {self.needed:.2f} (had {self.acceptance:.2f})"
        if self.affordable > 0.0:
            pays += f", or if drafting took {self.affordable:.2f} plain tokens a round (takes "
            pays += f"{self.drafting:.2f})"
        else:
            pays += ", and not with drafts that cost nothing"
        return f"{loss}{pays}."

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def _seconds(runs: Sequence[Run]) -> float:
    return sum((run.decode_seconds_per_token or 0.0) * run.tokens for run in runs)


def _chance(tokens: float, drafted: float) -> float | None:
    """Return the chance at which a chain of `drafted` tokens writes `tokens` a round; None: it
    cannot write so many.
    """
    if tokens > drafted + 1.0:
        return None
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _written(middle, drafted) < tokens else (low, middle)
    return high


def _written(chance: float, drafted: float) -> float:
    """Return the tokens of a round: those that are kept, and one of the target."""
    if chance >= 1.0:
        return drafted + 1.0
    return (1.0 - chance ** (drafted + 1.0)) / (1.0 - chance)
