"""The tree of SWIFT: one chain, and beside each token as many siblings as its confidence says."""

import numpy as np
import pytest

from outrider.core.errors import OptionError
from outrider.drafters.neural.growth import Picking, Spine
from tests.drafters.neural.growth_rigs import VOCAB, Memory, builder, drafted, grown

pytestmark = pytest.mark.method("spine")

WIDTHS = (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("best", "children"), [(0.97, 1), (0.9, 2), (0.6, 3), (0.4, 4)], ids=["sure", "", " ", "unsure"]
)
def test_siblings_follow_the_confidence(best: float, children: int) -> None:
    """SWIFT, section 4: the less sure the drafter, the more candidates at a place."""
    probs = np.full(VOCAB, (1 - best) / (VOCAB - 1))
    probs[1] = best
    table = np.log(np.tile(probs, (1, VOCAB, 1)))
    own = builder(Picking.BEST, depth=3, nodes=30)
    memory = grown(Spine(widths=WIDTHS, sampled=WIDTHS), [own], table)
    assert isinstance(memory, Memory)
    draft = drafted(own)
    parents = [int(parent) for parent in draft.parents]
    assert {parents.count(parent) for parent in set(parents)} == {children}
    assert len(set(parents)) == 3 == memory.readings, "siblings are not grown from"


@pytest.mark.parametrize("widths", [(1, 2, 3), (0, 1, 2, 3)])
def test_widths_are_four_numbers_from_one(widths: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="four numbers"):
        Spine(widths=widths)  # pyright: ignore[reportArgumentType]
