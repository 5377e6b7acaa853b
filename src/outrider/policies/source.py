"""What one origin of drafts promises: expected tokens per second by the size of its draft.

A round that drafts k tokens in a chain, each kept with chance a when the one before it was, is
expected to write E(k) = (1 - a^(k+1)) / (1 - a) tokens (Leviathan et al. 2023). The first token has
a chance b of its own, so 1 + b (1 - a^k) / (1 - a): a copy is either right for long or wrong at
once. A tree whose nodes
stand in the order of their promise writes 1 + p_1 + ... + p_n, p_i being the chance that its i-th
node is kept. Either takes draft + verify + overhead seconds. The best size may be 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider.core.checks import Range
from outrider.core.counters import Ranks, Tally
from outrider.core.errors import OptionError

_DRAFTS_BELIEVED = 3.0
"""Drafts that the belief about first tokens counts for, until it fades."""
_FIRST_COPY = 6
"""Longest draft of a opportunistic source until one of its drafts was kept; then twice what was
kept."""
_SURE = 3.0
"""Kept nodes that the belief about one block of a tree counts for."""


_LONGEST = Range(1, hint="Draft at least 1 token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One origin of drafts, and what is believed of it before it was tried.

    Attributes:
        name: the `Draft.origin` it is booked under.
        seconds: what drafting one token more takes.
        fixed: what a draft takes beside its tokens, until it is measured in place.
        accept: chance that the first token of a draft is kept.
        goes_on: chance that a later one is, its parent having been kept; None: the same.
        weight: tested tokens that this belief counts for, until it fades like them.
        longest: most tokens drafted at once.
        opportunistic: it drafts only where it happens to find something, and costs nothing
            elsewhere. It is asked before the others, where it promises more than they do.
        reach: for drafters of trees, by the place of a node in the order of its draft, the chance
            that it is kept; never rising. Empty: it drafts chains, and `accept` speaks.
        depth: deepest path of its trees.
    """

    name: str
    seconds: float = 0.0
    fixed: float = 0.0
    accept: float = 0.6
    goes_on: float | None = None
    weight: float = 6.0
    longest: int = 16
    opportunistic: bool = False
    reach: tuple[float, ...] = ()
    depth: int = 8

    def __post_init__(self) -> None:
        goes_on = 0.0 if self.goes_on is None else self.goes_on
        if not (0.0 <= self.accept <= 1.0 and 0.0 <= goes_on <= 1.0 and self.weight > 0):
            raise OptionError(
                f"source {self.name!r} has accept {self.accept} and weight {self.weight}",
                hint="Give a chance from 0 to 1 and a weight above 0",
            )
        if min(self.seconds, self.fixed) < 0.0:
            raise OptionError(
                f"source {self.name!r} takes {self.seconds} seconds a token and {self.fixed} a "
                "draft",
                hint="Give times from 0 up",
            )
        if self.reach and not all(0.0 <= p <= 1.0 for p in self.reach):
            raise OptionError(
                f"source {self.name!r} reaches its nodes with chances {self.reach[:4]} ...",
                hint="Give chances from 0 to 1",
            )
        _LONGEST.check("longest", self.longest)

    def first(self, tally: Tally) -> float:
        """Tracked chance that the first token of a draft is kept."""
        weight = _DRAFTS_BELIEVED * tally.belief
        return (self.accept * weight + tally.begun) / (weight + tally.tested)

    def chance(self, tally: Tally) -> float:
        """Tracked chance that a token is kept once its parent was; the root is no parent."""
        weight = self.weight * tally.belief
        believed = self.accept if self.goes_on is None else self.goes_on
        return (believed * weight + tally.hits) / (weight + tally.trials)

    @property
    def most(self) -> int:
        """Most tokens of one draft."""
        return min(self.longest, len(self.reach)) if self.reach else self.longest

    def reached(self, ranks: Ranks) -> list[float]:
        """Chance that each node of a tree is kept: the belief, corrected block by block.

        Blocks that were never tried share the correction of the last one that was.
        """
        chances: list[float] = []
        factor = 1.0
        for block in range(Ranks.block(self.most - 1) + 1):
            first, last = (1 << block) - 1, min((2 << block) - 1, self.most)
            believed = self.reach[first:last]
            if block < len(ranks.hits):
                expected = ranks.trials[block] * sum(believed) / len(believed)
                factor = (_SURE + ranks.hits[block]) / (_SURE + expected)
            chances += [min(p * factor, 1.0) for p in believed]
        return chances

    def plan(self, tally: Tally, verify: Sequence[float]) -> "Plan":
        """The size of draft that serves best, by what this source's drafts have done so far.

        `verify` holds, by the size of the draft, seconds of a round beside drafting.
        """
        if self.reach:
            return best_tree(self.reached(tally.ranks), self.costs(tally), verify)
        longest = self.longest
        if self.opportunistic:  # texts differ in how far they copy: each must show it
            longest = min(longest, max(_FIRST_COPY, 2 * tally.run))
        chances = self.first(tally), self.chance(tally)
        return best_length(chances, self.costs(tally), verify, longest)

    def costs(self, tally: Tally) -> tuple[float, float]:
        """Seconds of a draft beside its tokens, and of each token.

        What drafts took in place says how much comes on top of the seconds a token; where they
        took less than those, the tokens are cheaper.
        """
        pace = tally.pace
        if not pace.count:
            return self.fixed, self.seconds
        tokens = self.seconds * pace.size
        if pace.seconds < tokens:
            return 0.0, pace.seconds / pace.size
        return pace.seconds - tokens, self.seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """A draft length and the tokens per second it promises."""

    length: int
    speed: float


def best_length(
    accept: tuple[float, float], draft: tuple[float, float], verify: Sequence[float], longest: int
) -> Plan:
    """The k from 0 to `longest` with the most expected tokens per second; the least, if tied.

    Args:
        accept: chance that the first drafted token is kept, and that a later one is once its
            parent was.
        draft: seconds of a draft beside its tokens, and of each token.
        verify: by k, seconds of a round beside drafting; above 0 and never falling.
        longest: largest k; below the length of `verify`.
    """
    fixed, each = draft
    length, speed = 0, 1.0 / verify[0]
    reach, later = accept
    expected = 1.0
    most = 1.0 + reach / (1.0 - later) if later < 1.0 else float("inf")
    for k in range(1, longest + 1):
        expected += reach
        reach *= later
        seconds = fixed + k * each + verify[k]
        if expected > speed * seconds:
            length, speed = k, expected / seconds
        elif most <= speed * seconds:  # not even if all the rest were kept
            break
    return Plan(length, speed)


def best_tree(reach: Sequence[float], draft: tuple[float, float], verify: Sequence[float]) -> Plan:
    """The number of nodes with the most expected tokens per second; the least, if tied.

    Args:
        reach: chance that each node is kept, in the order of the draft.
        draft: seconds of a draft beside its tokens, and of each token.
        verify: by the number of nodes, seconds of a round beside drafting.
    """
    fixed, each = draft
    best, speed = 0, 1.0 / verify[0]
    expected = 1.0
    for n, chance in enumerate(reach, start=1):
        expected += chance
        seconds = fixed + n * each + verify[n]
        if expected > speed * seconds:
            best, speed = n, expected / seconds
    return Plan(best, speed)
