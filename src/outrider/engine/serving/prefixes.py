"""Finished and preempted texts whose caches later requests continue.

The rows of a common beginning equal those of a fresh read, bit for bit on the CPU, so that reuse
changes no text. Texts are found only by requests with the same salt: how long a first token takes
tells whether somebody else has sent the same prompt before (CVE-2025-46570).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from outrider.core.types import IntArray, as_ids
from outrider.decoding import SequenceState
from outrider.engine.serving.scheduler import slots_of
from outrider.models.caches.prefill import common_length

LEAST = 16
"""Fewest tokens for which a cache is copied."""


@dataclass(slots=True, eq=False)
class Prefix:
    """A text and the caches of all tiers that have read it.

    Attributes:
        salt: requests with this salt find it.
        text: `[tokens]` ids that have rows in the target's cache.
        sequence: the sequence that read it.
        used: number of the last use; larger is newer.
    """

    salt: str
    text: IntArray
    sequence: SequenceState
    used: int

    @property
    def slots(self) -> int:
        """Slots that it takes."""
        return slots_of(len(self.text) + 1)


@dataclass(slots=True)
class Prefixes:
    """Texts that can be continued, up to a number of slots and of texts.

    Attributes:
        most: largest number of texts.
        queries: tokens of prompts that were looked up.
        hits: tokens of these that were found.
    """

    most: int = 64
    queries: int = 0
    hits: int = 0
    _found: list[Prefix] = field(default_factory=list)
    _clock: int = 0

    def __len__(self) -> int:
        return len(self._found)

    @property
    def slots(self) -> int:
        """Slots of all texts."""
        return sum(prefix.slots for prefix in self._found)

    def put(self, salt: str, sequence: SequenceState) -> None:
        """Keep a sequence that has left the session."""
        cache = sequence.cache
        text = as_ids(cache.text[: len(cache.text) - len(cache.pending)])
        if not len(text):
            return
        self._clock += 1
        self._found = [p for p in self._found if not _covers(text, p, salt)]
        self._found.append(Prefix(salt, text, sequence, self._clock))
        while len(self._found) > self.most:
            self._drop_oldest()

    def take(self, salt: str, ids: Sequence[int]) -> tuple[SequenceState | None, int]:
        """Return a sequence that has read the beginning of `ids`, and the tokens of the beginning.

        The sequence itself is handed over if its whole text is the beginning; otherwise a copy is
        made, and the text stays here.
        """
        self.queries += len(ids)
        text = as_ids(ids)[:-1]
        best, known = None, 0
        for prefix in self._found:
            if prefix.salt == salt and (same := common_length(prefix.text, text)) > known:
                best, known = prefix, same
        if best is None or (known < len(best.text) and known < LEAST):
            return None, 0
        self.hits += known
        self._clock += 1
        best.used = self._clock
        if known == len(best.text):
            self._found.remove(best)
            return best.sequence, known
        return forked(best.sequence), known

    def shrink(self, slots: int) -> None:
        """Give up texts, the least recently used first, until they take at most `slots`."""
        while self._found and self.slots > slots:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._found.remove(min(self._found, key=lambda prefix: prefix.used))


def forked(sequence: SequenceState) -> SequenceState:
    """Return a sequence with a copy of the target's cache, for another request; its drafter
    begins anew."""
    return replace(sequence, cache=sequence.cache.fork(), drafting=None)


def _covers(text: IntArray, prefix: Prefix, salt: str) -> bool:
    """Whether a new text makes an older one superfluous."""
    return prefix.salt == salt and common_length(text, prefix.text) == len(prefix.text)
