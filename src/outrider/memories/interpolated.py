"""The interpolated n-gram model of Superposed Decoding (arXiv 2405.18400), on a sorted corpus.

The probability of a token is a weighted sum, over the lengths of the context, of the share of the
occurrences of the context in the corpus that the token follows. The suffix array of the corpus
gives these counts for any length, so nothing but the corpus is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from outrider.core.errors import OptionError
from outrider.memories.corpus import SORTED_DEPTH, Corpus

WEIGHTS = (0.01, 0.04, 0.15, 0.18, 0.12)
"""Weights of contexts of 1 to 5 tokens; those of the published code."""
_KEPT = 4096


@dataclass(slots=True)
class Interpolated:
    """Counts of what follows the last n tokens, for several n.

    Attributes:
        corpus: where n-grams are counted.
        weights: for contexts of 1, 2, ... tokens. A sum below 1 is a constant factor.

    Raises:
        OptionError: no weight, a negative one, a sum above 1, or more than the corpus is sorted by.
    """

    corpus: Corpus
    weights: tuple[float, ...] = WEIGHTS
    _followers: dict[tuple[int, ...], NDArray[np.int32]] = field(
        default_factory=dict[tuple[int, ...], NDArray[np.int32]], repr=False
    )

    def __post_init__(self) -> None:
        few = 0 < len(self.weights) < SORTED_DEPTH
        if not few or min(self.weights) < 0 or sum(self.weights) > 1:
            raise OptionError(
                f"the weights of n-grams are {self.weights}",
                hint="Give 1 or more weights of at least 0, with a sum of at most 1",
            )

    def probs(self, text: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float64]:
        """Return the probability of each of these tokens after a text: `[tokens]`."""
        wanted = np.asarray(tokens, dtype=np.int32)
        found = np.zeros(len(wanted))
        for length, weight in enumerate(self.weights, start=1):
            if length > len(text):
                break
            followers = self._after(tuple(text[-length:]))
            if not len(followers):  # no longer context occurs either
                break
            counts = np.searchsorted(followers, wanted, "right") - np.searchsorted(
                followers, wanted, "left"
            )
            found += weight * counts / len(followers)
        return found

    def _after(self, context: tuple[int, ...]) -> NDArray[np.int32]:
        """Return the tokens after all occurrences of a context, in ascending order; the end of a
        document counts as one."""
        found = self._followers.get(context)
        if found is None:
            match = self.corpus.find(context)
            places = self.corpus.arrays["order"][match.begin : match.end].astype(np.int64)
            # Suffixes are sorted beyond the context, so what follows it is in order.
            found = self.corpus.arrays["tokens"][places + len(context)]
            if len(self._followers) >= _KEPT:
                self._followers.clear()
            self._followers[context] = found
        return found
