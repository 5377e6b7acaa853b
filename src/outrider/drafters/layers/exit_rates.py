"""How often each layer would have drafted the right token, and the exit chosen from these rates.

The statistics and the choice of DEL (arXiv 2504.05598). For each layer, two faded numbers give the
share of right tokens, and two more give its mean confidence for right and for wrong tokens.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.types import BoolArray, IntArray

_RIGHT, _TESTED = 0.5, 1.0
"""The prior counts, before anything was tested."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Exit:
    """The layer after which to exit, the number of tokens to draft, and the confidence
    threshold."""

    depth: int
    length: int
    confidence: float


_FADE = Range(0.0, 1.0, above=True, hint="Give a number above 0, at most 1")


@dataclass(slots=True)
class ExitRates:
    """Faded statistics of the exits after layers 1, 1 + step, ... of a model with L layers.

    Attributes:
        num_layers: L.
        step: layers between two exits; 1 means an exit after each layer but the last.
        fade: factor applied to earlier observations at each new one (the paper's omega).
        right: faded number of right tokens (A), one for each exit.
        tested: faded number of tested tokens (B).
        sure: faded sums of the probability of the best token, for wrong and for right tokens.
        counts: the faded number of terms in these sums.

    Raises:
        OptionError: a model of one layer, or a fade outside 0 to 1.
    """

    num_layers: int
    step: int = 1
    fade: float = 0.95
    right: Floats = field(init=False)
    tested: Floats = field(init=False)
    sure: Floats = field(init=False)
    counts: Floats = field(init=False)
    _best: dict[tuple[int, float], Exit | None] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.num_layers < 2:
            raise OptionError(
                "a model with one layer has no earlier exit", hint="Use another drafter"
            )
        _FADE.check("fade", self.fade)
        exits = len(self.depths)
        self.right, self.tested = np.full(exits, _RIGHT), np.full(exits, _TESTED)
        self.sure, self.counts = np.zeros((2, exits)), np.zeros((2, exits))

    @property
    def depths(self) -> IntArray:
        """`[exits]`: number of layers that are run up to each exit."""
        return np.arange(1, self.num_layers, self.step)

    @property
    def rates(self) -> Floats:
        """`[exits]`: the chance that a token drafted at each exit is right (a)."""
        return self.right / self.tested

    @property
    def thresholds(self) -> Floats:
        """`[exits]`: halfway between the mean confidence of each exit for right and for wrong
        tokens; 0 if one of them has no observation yet, or if the confidence for wrong tokens is
        higher."""
        seen = (self.counts > 1e-3).all(axis=0)
        wrong, right = self.sure / np.maximum(self.counts, 1e-3)
        return np.where(seen & (right > wrong), (right + wrong) / 2.0, 0.0)

    @property
    def nbytes(self) -> int:
        """Bytes of memory of the statistics."""
        return sum(a.nbytes for a in (self.right, self.tested, self.sure, self.counts))

    def note(self, matched: BoolArray, sure: Floats) -> None:
        """Add the shadow tokens of one round.

        Args:
            matched: `[exits, rows]`, whether the token of each exit equals the actual token.
            sure: `[exits, rows]`, the probability of each exit's best token.
        """
        self._best.clear()
        self.right = self.fade * self.right + matched.sum(axis=1)
        self.tested = self.fade * self.tested + matched.shape[1]
        for outcome in (0, 1):
            chosen = matched == bool(outcome)
            self.sure[outcome] = self.fade * self.sure[outcome] + (sure * chosen).sum(axis=1)
            self.counts[outcome] = self.fade * self.counts[outcome] + chosen.sum(axis=1)

    def best(self, longest: int, head: float = 0.0) -> Exit | None:
        """Return the exit and the length, up to `longest`, with the most tokens per layer; None if
        plain decoding is at least as good.
        """
        if longest < 1:
            return None
        asked = (longest, head)
        if asked not in self._best:  # read every round, but changed only by `note`
            self._best[asked] = self._search(longest, head)
        return self._best[asked]

    def _search(self, longest: int, head: float) -> Exit | None:
        depths, lengths = self.depths, np.arange(1, longest + 1)
        gain = tokens_per_layer(
            self.rates[:, None], depths[:, None], lengths[None], self.num_layers, head
        )
        place, length = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if gain[place, length] <= 1.0 / (self.num_layers + head):
            return None
        return Exit(int(depths[place]), int(lengths[length]), float(self.thresholds[place]))


def tokens_per_layer(
    rate: Floats | float,
    exit_after: IntArray | int,
    length: IntArray | int,
    num_layers: int,
    head: float = 0.0,
) -> Floats:
    """Return the expected tokens of a round per executed layer: TPL of the paper.

    `TPL(l, d) = (1 + a + ... + a^d) / (d * l + L)`, where a is `rate`, l `exit_after`, d `length`
    and L `num_layers`. `head` is the cost of the head, in layers; the paper omits it.
    """
    a, d = np.asarray(rate, dtype=np.float64), np.asarray(length)
    sure = a >= 1.0 - 1e-12
    series = (1.0 - a ** (d + 1)) / np.where(sure, 1.0, 1.0 - a)
    tokens = np.where(sure, d + 1.0, series)
    return np.asarray(tokens / (d * (np.asarray(exit_after) + head) + num_layers + head))
