"""A virtual machine: rounds with known costs, and a guard that sees them with noise.

One undrafted round takes one second and writes one token. What is judged are the true costs of the
rounds; the guard sees noise and stalls on top.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from outrider.policies.guard import Guard

Round = Callable[[int, np.random.Generator], tuple[float, float]]
"""Returns seconds and tokens of drafted round number n."""

NOISE, STALLS, STALL = 0.15, 0.001, 10.0
"""Noise of a round (of the logarithm of its seconds), and how often and how long it is stalled.
With this noise, x of an epoch of 32 rounds has a standard deviation of about 0.1."""


def steady(speed: float, spread: bool = True, tokens: float = 1.5) -> Round:
    """Rounds of this speed. With a spread, they write 1 to 5 tokens, 2 on average; else always the
    same number."""
    if not spread:
        return lambda n, rng: (tokens / speed, tokens)
    return lambda n, rng: (2.0 / speed, 1.0 + rng.binomial(4, 0.25))


def exact(speed: float) -> Round:
    """Rounds of two tokens and of exactly this speed."""
    return steady(speed, spread=False, tokens=2.0)


def turning(first: Round, then: Round, at: int) -> Round:
    """Rounds that change once."""
    return lambda n, rng: (first if n < at else then)(n, rng)


def alternating(first: Round, then: Round, every: int) -> Round:
    """Rounds that change every so many rounds."""
    return lambda n, rng: (then if n // every % 2 else first)(n, rng)


def stalling(own: Round, chance: float, seconds: float) -> Round:
    """Rounds of which some, at random, take so much longer."""

    def make(n: int, rng: np.random.Generator) -> tuple[float, float]:
        spent, tokens = own(n, rng)
        return spent + seconds * (rng.random() < chance), tokens

    return make


@dataclass
class Machine:
    """Runs rounds under a guard.

    Attributes:
        seconds: true seconds of the rounds so far, in sums.
        tokens: likewise.
        drafted: numbers of the rounds that drafted.
        switches: number of the round, and the state after it.
    """

    make: Round
    guard: Guard = field(default_factory=Guard)
    noise: float = NOISE
    stalls: float = STALLS
    batch: Callable[[int], int] = lambda n: 1
    kind: Callable[[int], str] = lambda n: "greedy"
    asks: Callable[[int], bool] = lambda n: True
    slower: Callable[[int], float] = lambda n: 1.0
    context: Callable[[int], float] = lambda n: 0.0
    seed: int = 0
    seconds: list[float] = field(default_factory=lambda: [0.0])
    tokens: list[float] = field(default_factory=lambda: [0.0])
    drafted: list[int] = field(default_factory=list)
    switches: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def run(self, rounds: int, until: Callable[["Machine"], bool] = lambda m: False) -> "Machine":
        """Run so many more rounds, at most `until` something happens."""
        for n in range(len(self.seconds) - 1, len(self.seconds) - 1 + rounds):
            self.step(n)
            if until(self):
                break
        return self

    def step(self, n: int) -> None:
        """Run round number n."""
        batch, before = self.batch(n), sum(self.guard.switches.values())
        allowed = self.guard.drafts(batch, lambda: self.kind(n), context=self.context(n))
        asked = allowed and self.asks(n)
        spent, tokens = self.make(n, self.rng) if asked else (1.0, 1.0)
        if asked:
            self.drafted.append(n)
        self.seconds.append(self.seconds[-1] + spent)
        self.tokens.append(self.tokens[-1] + tokens)
        seen = spent * np.exp(self.rng.normal(0.0, self.noise)) if self.noise else spent
        seen += STALL * (self.rng.random() < self.stalls)
        self.guard.note(batch, asked, float(seen) * self.slower(n) * 0.03, tokens * batch)
        if sum(self.guard.switches.values()) > before:
            self.switches.append((n, str(self.guard.report.state)))

    def speed(self, first: int = 0, last: int | None = None) -> float:
        """Tokens per second of rounds, in relation to undrafted ones."""
        end = len(self.seconds) - 1 if last is None else last
        return (self.tokens[end] - self.tokens[first]) / (self.seconds[end] - self.seconds[first])

    def slowest(self, window: int = 2000) -> float:
        """The smallest speed of any window of so many rounds."""
        seconds, tokens = np.array(self.seconds), np.array(self.tokens)
        window = min(window, len(seconds) - 1)
        spent, written = seconds[window:] - seconds[:-window], tokens[window:] - tokens[:-window]
        return float((written / spent).min())


def off(machine: Machine) -> bool:
    """Whether the guard has switched drafting off."""
    return any(state == "off" for _, state in machine.switches)
