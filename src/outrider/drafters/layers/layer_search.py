"""The search of SWIFT: which layers can be left out, evaluated on text that the model generated.

This module only proposes sets and records their scores; `swift.py` computes the scores.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from math import comb

import numpy as np
from numpy.typing import NDArray

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError
from outrider.core.layers import LayerSet
from outrider.core.types import BoolArray
from outrider.core.values import JsonValue
from outrider.protocols import Cache

_MOST_OBSERVED = 256
"""Number of newest scores to which the surrogate is fitted; the cost is cubic in this number."""
_RIVALS = 256
"""Number of candidate sets from which the surrogate selects one."""


_RANGES: Mapping[str, Range] = {
    "skip_ratio": Range(0.0, 1.0, above=True, below=True, hint="Give a share above 0 and below 1"),
    "context": AT_LEAST_ONE,
    "surrogate_every": AT_LEAST_ONE,
    "most_misses": AT_LEAST_ONE,
    "most_tries": AT_LEAST_ONE,
    "noise": Range(0.0, above=True, hint="Give a number above 0"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """Length and width of the search. The defaults are those of the authors' code.

    Attributes:
        skip_ratio: share of the halves between the first and the last layer that is left out.
        context: number of generated tokens that a set must predict (W); one more is read.
        surrogate_every: every this many tries the surrogate proposes; otherwise the set is random.
        good: a score above which the search ends.
        most_misses: number of tries without a better score after which the search ends.
        most_tries: number of tries after which the search ends.
        kappa: weight of the uncertainty in the surrogate's selection (UCB).
        noise: variance of a score, as a share of the variance of all scores (the GP's alpha).
        seed: of the random sets.

    Raises:
        OptionError: a number outside its range.
    """

    skip_ratio: float = 0.45
    context: int = 32
    surrogate_every: int = 25
    good: float = 0.93
    most_misses: int = 300
    most_tries: int = 1000
    kappa: float = 2.5
    noise: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)


@dataclass(slots=True)
class LayerSetSearch:
    """The state of a search, and the best set so far.

    A set is a vector of `2 * (L - 2)` bits: which attention halves, then which MLP halves, of the
    layers between the first and the last are left out; L is `num_layers`. Every set leaves out
    exactly `budget` halves.

    Attributes:
        num_layers: of the model; at least 3.
        settings: see `SearchSettings`.
        best: bits of the best set.
        score: its share of right tokens; below 0 before the first score.
        tries: number of sets proposed.
        misses: number of tries since the score last rose.
        key: identifies the text of the scores; scores of different texts are not comparable.
        prompt: a cache of the prompt of that text, computed with all layers.

    Raises:
        OptionError: so few layers that none can be left out.
    """

    num_layers: int
    settings: SearchSettings = field(default_factory=SearchSettings)
    best: BoolArray = field(init=False)
    score: float = -1.0
    tries: int = 0
    misses: int = 0
    key: Hashable = None
    prompt: Cache | None = None
    _seen: set[bytes] = field(default_factory=set)
    _sets: list[BoolArray] = field(default_factory=list)
    _scores: list[float] = field(default_factory=list)
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        if self.num_layers < 3 or self.budget < 1:
            raise OptionError(
                f"skip_ratio {self.settings.skip_ratio:.0%} leaves out none of the layers between "
                f"the first and the last of {self.num_layers}",
                hint="Use a model with more layers, a larger skip_ratio, or another drafter",
            )
        self._random = np.random.default_rng(self.settings.seed)
        self.best = self._first()

    @property
    def width(self) -> int:
        """Number of halves that can be left out."""
        return 2 * (self.num_layers - 2)

    @property
    def budget(self) -> int:
        """Number of halves that each set leaves out."""
        return int(self.settings.skip_ratio * self.width)

    @property
    def done(self) -> bool:
        """Whether the search has ended permanently."""
        s = self.settings
        return (
            self.score > s.good
            or self.misses >= s.most_misses
            or self.tries >= min(s.most_tries, comb(self.width, self.budget))
        )

    @property
    def layers(self) -> LayerSet:
        """The best set found so far."""
        return self.layers_of(self.best)

    @property
    def nbytes(self) -> int:
        """Bytes of its records, without the prompt: at most `most_tries` sets of `width` bytes, and
        256 of them once more with their scores."""
        return self.width * (len(self._seen) + len(self._sets) + 1) + 8 * len(self._scores)

    def layers_of(self, bits: BoolArray) -> LayerSet:
        """Return the set that leaves out the halves marked in `bits`."""
        attention, mlp = (np.flatnonzero(half) + 1 for half in np.split(bits, 2))
        return LayerSet.skipping(
            self.num_layers,
            attention=[int(layer) for layer in attention],
            mlp=[int(layer) for layer in mlp],
        )

    def _first(self) -> BoolArray:
        """Return the initial set: odd layers, lowest first, up to the budget; then even layers."""
        inner = np.arange(1, self.num_layers - 1)
        order = np.argsort((inner % 2 == 0).repeat(2), kind="stable")
        halves = np.stack((np.arange(len(inner)), np.arange(len(inner)) + len(inner)), axis=1)
        bits = np.zeros(self.width, dtype=np.bool_)
        bits[halves.reshape(-1)[order][: self.budget]] = True
        return bits

    # -- one try ----------------------------------------------------------------------------

    def propose(self) -> BoolArray:
        """Return the next set to score: the best one for a new text, otherwise one without a
        score.
        """
        if self.score < 0.0:
            return self.best
        if (self.tries + 1) % self.settings.surrogate_every == 0 and len(self._scores) > 1:
            return self._promising()
        return self._fresh()

    def note(self, bits: BoolArray, score: float) -> None:
        """Record a score."""
        self.tries += 1
        self._seen.add(bits.tobytes())
        self._sets.append(bits)
        self._scores.append(score)
        del self._sets[:-_MOST_OBSERVED], self._scores[:-_MOST_OBSERVED]
        if score > self.score:
            self.best, self.score, self.misses = bits, score, 0
        else:
            self.misses += 1

    def begin(self, key: Hashable, prompt: Cache | None = None) -> None:
        """Switch to another text: scores are reset, but tries and misses continue to count."""
        self.key, self.prompt, self.score = key, prompt, -1.0
        self._sets, self._scores = [], []

    def _fresh(self) -> BoolArray:
        """Return a random set, if possible one that was not tried yet."""
        bits = self._sample()
        for _ in range(16):
            if bits.tobytes() not in self._seen:
                break
            bits = self._sample()
        return bits

    def _sample(self) -> BoolArray:
        bits = np.zeros(self.width, dtype=np.bool_)
        bits[self._random.choice(self.width, self.budget, replace=False)] = True
        return bits

    def _swapped(self) -> BoolArray:
        """Return the best set with one half exchanged for another."""
        bits = self.best.copy()
        bits[self._random.choice(np.flatnonzero(bits))] = False
        bits[self._random.choice(np.flatnonzero(~self.best))] = True
        return bits

    def _promising(self) -> BoolArray:
        """Return the candidate with the highest upper confidence bound: mean + kappa * deviation of
        a Gaussian process over the scores. Half of the candidates are neighbours of the best set.

        The paper maximises over points of the unit cube and keeps the largest coordinates;
        selecting among valid sets needs no such rounding.
        """
        rivals = [self._swapped() if i % 2 else self._sample() for i in range(_RIVALS)]
        rivals = [bits for bits in rivals if bits.tobytes() not in self._seen] or rivals[:1]
        mean, deviation = _posterior(
            np.array(self._sets), np.array(self._scores), np.array(rivals), self.settings.noise
        )
        return rivals[int(np.argmax(mean + self.settings.kappa * deviation))]

    # -- serialization ----------------------------------------------------------------------

    def to_dict(self) -> dict[str, JsonValue]:
        """Return a JSON-compatible form, which `restore` reads."""
        return {
            "layers": self.layers.to_dict(),
            "score": self.score,
            "tries": self.tries,
            "misses": self.misses,
        }

    def restore(self, saved: dict[str, JsonValue]) -> None:
        """Continue from the output of `to_dict`. Raises `OptionError` for any other value, and for
        a set with another number of layers or another budget."""
        try:
            layers = LayerSet.from_dict(saved["layers"])
            score, tries, misses = (saved[name] for name in ("score", "tries", "misses"))
            numbers = float(score), int(tries), int(misses)
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError("this is not a saved search for layers") from error
        layers.check(self.num_layers, "of this search")
        bits = self._bits(layers)
        if int(bits.sum()) != self.budget:
            raise OptionError(
                f"the saved set leaves out {int(bits.sum())} halves, but this search {self.budget}",
                hint="Use the skip_ratio of the saved set, or search again",
            )
        self.best = bits
        self.score, self.tries, self.misses = numbers

    def _bits(self, layers: LayerSet) -> BoolArray:
        every, inner = set(range(self.num_layers)), np.arange(1, self.num_layers - 1)
        skipped = [every.difference(half) for half in (layers.attention, layers.mlp)]
        bits = np.concatenate([np.isin(inner, list(half)) for half in skipped])
        if int(bits.sum()) != 2 * self.num_layers - layers.num_halves:
            raise OptionError("the saved set leaves out the first or the last layer")
        return bits


def _posterior(
    sets: BoolArray, scores: NDArray[np.float64], rivals: BoolArray, noise: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and deviation of a Gaussian process at `rivals`, in units of the scores'
    deviation.

    The kernel is exp(-distance / width), where the distance of two sets is the number of halves in
    which they differ.
    """
    spread = float(scores.std()) or 1.0
    target = (scores - scores.mean()) / spread
    known = _kernel(sets, sets) + noise * np.eye(len(sets))
    across = _kernel(rivals, sets)
    solved = np.linalg.solve(known, np.column_stack((target, across.T)))
    variance = 1.0 - np.einsum("rs,sr->r", across, solved[:, 1:])
    return across @ solved[:, 0], np.sqrt(np.maximum(variance, 0.0))


def _kernel(a: BoolArray, b: BoolArray) -> NDArray[np.float64]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    distance = x.sum(1)[:, None] + y.sum(1)[None] - 2.0 * (x @ y.T)
    return np.exp(-distance / (0.25 * a.shape[1]))
