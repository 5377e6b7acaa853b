"""N-grams grouped by their first token, the newest of each (the pool of lookahead decoding)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from outrider.core.errors import OptionError

_BYTES = (330, 130, 36)
"""CPython's memory for a key with its small dictionary, for an n-gram in it, and for a token."""

Ngram = tuple[int, ...]


@dataclass(slots=True)
class NgramPool:
    """`first token -> the n-grams that followed it`, the newest `per_key` of each (G).

    The least recently updated keys are evicted first.

    Raises:
        OptionError: a capacity below 1.
    """

    per_key: int = 7
    max_keys: int = 50_000
    _table: dict[int, dict[Ngram, None]] = field(default_factory=dict, init=False, repr=False)
    _ngrams: int = field(default=0, init=False, repr=False)
    _tokens: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if min(self.per_key, self.max_keys) < 1:
            raise OptionError(
                f"per_key is {self.per_key} and max_keys {self.max_keys}",
                hint="Give at least 1 of each",
            )

    def __len__(self) -> int:
        return len(self._table)

    @property
    def nbytes(self) -> int:
        """Estimated bytes of memory: 330 per key, 130 per n-gram, 36 per token."""
        parts = len(self._table), self._ngrams, self._tokens
        return sum(a * b for a, b in zip(parts, _BYTES, strict=True))

    def after(self, token: int) -> list[Ngram]:
        """Return the n-grams that followed `token`, newest first."""
        return list(self._table.get(token, ()))[::-1]

    def add(self, token: int, ngram: Ngram) -> None:
        """Record that `ngram` followed `token`."""
        known = self._table.pop(token, None)
        if known is None:
            known = {}
        self._table[token] = known  # becomes the newest key
        if ngram in known:
            del known[ngram]
        else:
            self._count(ngram, 1)
        known[ngram] = None
        if len(known) > self.per_key:
            oldest = next(iter(known))
            del known[oldest]
            self._count(oldest, -1)
        if len(self._table) > self.max_keys:
            for lost in self._table.pop(next(iter(self._table))):
                self._count(lost, -1)

    def add_text(self, text: Sequence[int], size: int) -> None:
        """Record every run of `size` tokens under its first token."""
        for end in range(size, len(text) + 1):
            self.add(text[end - size], tuple(text[end - size + 1 : end]))

    def _count(self, ngram: Ngram, times: int) -> None:
        self._ngrams += times
        self._tokens += times * len(ngram)
