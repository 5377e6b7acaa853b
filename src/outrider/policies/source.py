"""Expected tokens per second of one origin of drafts, by the size of its draft.

A round that drafts a chain of k tokens, each kept with chance a if the previous one was kept, emits
E(k) = (1 - a^(k+1)) / (1 - a) expected tokens (Leviathan et al. 2023). The first token has a
separate chance b, which gives 1 + b (1 - a^k) / (1 - a): a copy is usually either wrong immediately
or right for many tokens. A tree with nodes from most to least promising emits 1 + p_1 + ... + p_n,
where p_i is the chance that its i-th node is kept. Both take draft + verify + overhead seconds. The
best size may be 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from outrider.core.checks import Range
from outrider.core.counters import Ranks, Tally
from outrider.core.errors import OptionError
from outrider.core.types import Worth

_DRAFTS_BELIEVED = 3.0
"""Weight of the prior for first tokens, in drafts, before it fades."""
_FIRST_COPY = 6
"""Largest draft of an opportunistic source until one of its drafts is kept; then twice the kept
length."""
_DOUBT = 0.5
"""Part of the costs that drafts must gain if their source selects tokens by their chances: these
know more than the few drafts that were tested, and costs are measured in noise."""
_SURE = 3.0
"""Weight of the prior for one block of a tree, in kept nodes."""


_LONGEST = Range(1, hint="Draft at least 1 token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One origin of drafts with its priors.

    Attributes:
        name: the `Draft.origin` under which it is counted.
        seconds: time per additional drafted token.
        fixed: fixed time per draft, until it is measured during generation.
        accept: chance that the first token of a draft is kept.
        goes_on: chance that a later token is kept if its parent was kept; None: the same chance.
        weight: weight of the prior in tested tokens; it fades with new observations.
        longest: largest number of tokens drafted at once.
        opportunistic: it may have nothing to propose, and then costs nothing. It proposes before
            the other sources if its expected gain is larger.
        selects: its drafter drafts only tokens that pay (`Budget.worth`); its share is then
            `longest` unless its drafts lose time.
        waits: it is asked where cheaper sources have no draft; these must gain as much as it
            promises (`Worth.least`).
        reach: for drafters of trees, the chance that each node is kept, in the order of the draft;
            never increasing. Empty: it drafts chains, and `accept` is used.
        depth: largest depth of its trees.
    """

    name: str
    seconds: float = 0.0
    fixed: float = 0.0
    accept: float = 0.6
    goes_on: float | None = None
    weight: float = 6.0
    longest: int = 16
    opportunistic: bool = False
    selects: bool = False
    waits: bool = False
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
                f"source {self.name!r} takes {self.seconds} seconds per token and {self.fixed} per "
                "draft",
                hint="Give times of at least 0",
            )
        if self.reach and not all(0.0 <= p <= 1.0 for p in self.reach):
            raise OptionError(
                f"reach of source {self.name!r} is {self.reach[:4]} ...",
                hint="Give chances from 0 to 1",
            )
        _LONGEST.check("longest", self.longest)

    def first(self, tally: Tally) -> float:
        """Return the estimated chance that the first token of a draft is kept."""
        weight = _DRAFTS_BELIEVED * tally.belief
        return (self.accept * weight + tally.begun) / (weight + tally.tested)

    def chance(self, tally: Tally) -> float:
        """Return the estimated chance that a token is kept if its parent was kept; first tokens are
        not included.
        """
        weight = self.weight * tally.belief
        believed = self.accept if self.goes_on is None else self.goes_on
        return (believed * weight + tally.hits) / (weight + tally.trials)

    @property
    def most(self) -> int:
        """Largest number of tokens of one draft."""
        return min(self.longest, len(self.reach)) if self.reach else self.longest

    def reached(self, ranks: Ranks) -> list[float]:
        """Return the chance that each node of a tree is kept: the prior, corrected block by block.

        Blocks without observations use the correction of the last block that has some.
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

    def survival(self, tally: Tally) -> tuple[float, ...]:
        """Return the chance that each token of a draft is kept, never increasing."""
        if self.reach:
            return tuple(accumulate(self.reached(tally.ranks), min))
        first, later = self.first(tally), self.chance(tally)
        return tuple(first * later**k for k in range(self.longest))

    def plan(self, tally: Tally, verify: Sequence[float]) -> "Plan":
        """Return the best draft size, given the results of this source's drafts so far.

        `verify` holds, by the size of the draft, the seconds of a round without drafting.
        """
        if self.reach:
            return best_tree(self.reached(tally.ranks), self.costs(tally), verify)
        longest = self.longest
        if self.selects:
            costs = [verify[0], *(verify[0] + _DOUBT * (s - verify[0]) for s in verify[1:])]
            return best_length((self.first(tally), self.chance(tally)), (0.0, 0.0), costs, longest)
        if self.opportunistic:  # texts contain different amounts to copy: start small
            longest = min(longest, max(_FIRST_COPY, 2 * tally.run))
        chances = self.first(tally), self.chance(tally)
        return best_length(chances, self.costs(tally), verify, longest)

    def promise(self, tally: Tally, worth: Worth) -> float:
        """Return the largest sum of chances less costs of a chain, at least 0."""
        fixed, each = self.costs(tally)
        gain, most = -worth.rate * fixed, 0.0
        for chance, floor in zip(self.survival(tally), worth.floors, strict=False):
            gain += chance - floor - worth.rate * each
            most = max(most, gain)
        return most

    def costs(self, tally: Tally) -> tuple[float, float]:
        """Return the fixed seconds of a draft, and seconds of each of its tokens.

        The measured time minus the time per token gives the fixed part; if the measured time is
        below the time per token, the tokens count as cheaper.
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
    """A draft length and the expected tokens per second with it."""

    length: int
    speed: float


def best_length(
    accept: tuple[float, float], draft: tuple[float, float], verify: Sequence[float], longest: int
) -> Plan:
    """Return the k from 0 to `longest` with the most expected tokens per second; the smallest k if
    tied.

    Args:
        accept: chance that the first drafted token is kept, and that a later one is kept if its
            parent was kept.
        draft: fixed seconds of a draft, and seconds of each token.
        verify: by k, seconds of a round without drafting; above 0 and non-decreasing.
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
        elif most <= speed * seconds:  # cannot improve even if all others are kept
            break
    return Plan(length, speed)


def best_tree(reach: Sequence[float], draft: tuple[float, float], verify: Sequence[float]) -> Plan:
    """Return the number of nodes with the most expected tokens per second; the smallest number if
    tied.

    Args:
        reach: chance that each node is kept, in the order of the draft.
        draft: fixed seconds of a draft, and seconds of each token.
        verify: by the number of nodes, seconds of a round without drafting.
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
