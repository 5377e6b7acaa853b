"""Which replica reads a prompt: the least loaded one, or one that has read its beginning.

Reading a prompt anew costs time, and so does waiting behind other texts. So the router looks at the
load first: prompts follow their beginnings only while the replicas are about equally busy.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from outrider.core.checks import Range, check_ranges

BLOCK = 16
"""Tokens of a block. An engine does not copy the cache of a shorter beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """When a prompt follows its beginning.

    Attributes:
        imbalance: the least loaded replica is chosen if another one has this much more work, in
            samples.
        least_share: share of the prompt that a replica must know.
        blocks: blocks of texts that are remembered for each replica.

    Raises:
        OptionError: a number out of range.
    """

    imbalance: float = 2.0
    least_share: float = 0.1
    blocks: int = 1 << 16

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)


@dataclass(slots=True)
class Router:
    """Chooses replicas, and remembers which texts each of them has read.

    Texts are remembered as hashes of blocks. The hash of a block includes all earlier blocks and
    the salt, so that a request learns nothing about texts with another salt.
    """

    settings: RouterSettings = field(default_factory=RouterSettings)
    _known: dict[str, OrderedDict[bytes, None]] = field(
        default_factory=dict[str, OrderedDict[bytes, None]]
    )

    def choose(self, work: Mapping[str, float], ids: Sequence[int], salt: str) -> str | None:
        """Return the name of the replica for a prompt; None if there is no replica.

        Args:
            work: samples, or their equivalent, that are open at each replica that takes requests,
                in a fixed order.
            ids: `[tokens]` the prompt; empty if its beginning cannot be reused.
            salt: texts of the same salt only count as known.
        """
        if not work:
            return None
        idle = min(work, key=lambda name: work[name])
        if max(work.values()) - work[idle] > self.settings.imbalance:
            return idle
        chain = list(hashes(ids, salt))
        known = {name: self._common(name, chain) for name in work}
        best = max(work, key=lambda name: (known[name], -work[name]))
        enough = known[best] and known[best] >= self.settings.least_share * len(ids)
        return best if enough else idle

    def remember(self, name: str, ids: Sequence[int], salt: str) -> None:
        """Note that a replica reads a text."""
        known = self._known.setdefault(name, OrderedDict())
        for one in reversed(list(hashes(ids, salt))):  # the end of a text is forgotten first
            known[one] = None
            known.move_to_end(one)
        while len(known) > self.settings.blocks:
            known.popitem(last=False)

    def forget(self, name: str) -> None:
        """Note that a replica has lost its caches."""
        self._known.pop(name, None)

    def known(self, name: str) -> int:
        """Return the number of blocks that are remembered for a replica."""
        return len(self._known.get(name, ()))

    def _common(self, name: str, chain: Sequence[bytes]) -> int:
        """Return how many tokens of the beginning a replica has read."""
        known = self._known.get(name, OrderedDict())
        count = 0
        for one in chain:
            if one not in known:
                break
            count += BLOCK
        return count


def hashes(ids: Sequence[int], salt: str) -> Iterator[bytes]:
    """Yield, for each full block of a text, a hash of the text up to its end, and of the salt."""
    last = hashlib.blake2b(salt.encode(), digest_size=16).digest()
    blocks = np.asarray(ids, dtype=np.int64)
    for start in range(0, len(blocks) - BLOCK + 1, BLOCK):
        block = blocks[start : start + BLOCK].tobytes()
        last = hashlib.blake2b(last + block, digest_size=16).digest()
        yield last


_RANGES = {
    "imbalance": Range(0.0),
    "least_share": Range(0.0, 1.0),
    "blocks": Range(1, whole=True),
}
