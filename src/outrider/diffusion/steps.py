"""Steps that are given beforehand: how many tokens each round commits."""

from collections.abc import Sequence

from outrider.core.errors import OptionError
from outrider.diffusion.rule import Block, View


def quotas(masks: int, steps: int) -> list[int]:
    """Split `masks` tokens over rounds: `masks // steps` each, and the first `masks % steps` get
    one more. There are no rounds without a token, so at most `masks` rounds."""
    steps = min(steps, masks)
    return [masks // steps + (step < masks % steps) for step in range(steps)]


def steps_of(blocks: Sequence[Block], steps: int | None) -> list[int]:
    """Split the steps of an answer over its blocks, in proportion to their lengths, at least one
    each. None: as many as positions.

    Raises:
        OptionError: there are fewer steps than blocks.
    """
    lengths = [len(block) for block in blocks]
    total = sum(lengths)
    if steps is None or steps >= total:
        return lengths
    if steps < len(blocks):
        raise OptionError(
            f"steps is {steps}, and the answer has {len(blocks)} blocks",
            hint="Give at least one step for each block, or larger blocks",
        )
    # one each, and the rest by the largest remainders; the earliest of equal ones
    shares = [(steps - len(blocks)) * length / total for length in lengths]
    found = [1 + int(share) for share in shares]
    order = sorted(range(len(blocks)), key=lambda at: (int(shares[at]) - shares[at], at))
    for at in order[: steps - sum(found)]:
        found[at] += 1
    return found


class Quotas:
    """The quota of each round of one answer; a block is split when it becomes active.

    Args:
        steps: rounds of each block.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        self._steps = steps
        self._block, self._left = -1, [0]

    def split(self, block: int, masks: int) -> None:
        """Split the open slots of a block, if that is not done yet."""
        if block != self._block:
            self._block, self._left = block, quotas(masks, self._steps[block])

    def at(self, visit: int) -> int:
        """Return the quota of a round of the block; at least 1."""
        return self._left[min(visit, len(self._left) - 1)]

    def of(self, view: View) -> int:
        """Return the quota of a round."""
        self.split(view.block.number, view.open_slots)
        return self.at(view.visit)
