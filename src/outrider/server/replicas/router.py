"""Which replica reads a prompt: the least loaded one, or one that has read its beginning.

Reading a prompt anew costs time, and so does waiting behind other texts. So the router looks at the
load first: prompts follow their beginnings only while the replicas are about equally busy.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
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

    def choose(self, work: Mapping[str, float], blocks: Sequence[bytes], tokens: int) -> str | None:
        """Return the name of the replica for a prompt; None if there is no replica.

        Args:
            work: samples, or their equivalent, that are open at each replica that takes requests,
                in a fixed order.
            blocks: the prompt, from `hashes`; empty if its beginning cannot be reused.
            tokens: tokens of the prompt.
        """
        if not work:
            return None
        idle = min(work, key=lambda name: work[name])
        if max(work.values()) - work[idle] > self.settings.imbalance:
            return idle
        known = {name: self._common(name, blocks) for name in work}
        best = max(work, key=lambda name: (known[name], -work[name]))
        enough = known[best] and known[best] >= self.settings.least_share * tokens
        return best if enough else idle

    def remember(self, name: str, blocks: Sequence[bytes]) -> None:
        """Note that a replica reads a text, from `hashes`."""
        known = self._known.setdefault(name, OrderedDict())
        for one in reversed(blocks):  # the end of a text is forgotten first
            known[one] = None
            known.move_to_end(one)
        while len(known) > self.settings.blocks:
            known.popitem(last=False)

    def forget(self, name: str) -> None:
        """Note that a replica has lost its caches."""
        self._known.pop(name, None)

    def _common(self, name: str, blocks: Sequence[bytes]) -> int:
        """Return how many tokens of the beginning a replica has read."""
        known = self._known.get(name, OrderedDict())
        count = 0
        for one in blocks:
            if one not in known:
                break
            count += BLOCK
        return count


def hashes(ids: Sequence[int], salt: str, known: Sequence[bytes] = ()) -> list[bytes]:
    """Return, for each full block of a text, a hash of the text up to its end, and of the salt.

    Args:
        ids: `[tokens]` the text.
        salt: another one gives other hashes.
        known: the hashes of the first blocks, which are not computed again.
    """
    found = list(known)
    last = found[-1] if found else hashlib.blake2b(salt.encode(), digest_size=16).digest()
    rest = np.asarray(ids[len(found) * BLOCK :], dtype=np.int64)
    for start in range(0, len(rest) - BLOCK + 1, BLOCK):
        block = rest[start : start + BLOCK].tobytes()
        last = hashlib.blake2b(last + block, digest_size=16).digest()
        found.append(last)
    return found


_RANGES = {
    "imbalance": Range(0.0),
    "least_share": Range(0.0, 1.0),
    "blocks": Range(1, whole=True),
}
