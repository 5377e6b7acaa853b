"""Independent continuations of the text, merged where they agree."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.types import Draw
from outrider.drafters.neural.growth.growing import GrowthSteps
from outrider.drafters.neural.growth.next_tokens import NextTokens, Picking
from outrider.drafters.neural.growth.tree_builder import TreeBuilder
from outrider.protocols.method import Method, Paper
from outrider.sampling.noise import Purpose, gumbel, signed, stream_key

_RANGES: Mapping[str, Range] = {
    "samples": AT_LEAST_ONE,
    "depth": replace(AT_LEAST_ONE, optional=True),
}


@dataclass(frozen=True, slots=True)
class IidTree:
    """`samples` continuations of up to `depth` tokens, drawn independently of each other, as
    `KSeq` judges them, and `RecursiveRejection` with replacement.

    Equal beginnings are one path of the tree; which continuations pass through a node is kept
    (`Draft.samples`). The nodes of the budget must do even where no two agree, so the depth gives
    way first: a tree cut afterwards would keep a draw for being a repetition, and falsify the
    distribution.

    Under `Match` the first continuation is drawn by the noise of the target's choices, the others
    by their own. At temperature 0 there is but one.

    Attributes:
        samples: how many continuations.
        depth: tokens of each; None leaves it to the budget.

    Raises:
        OptionError: a number below 1.
    """

    samples: int = 4
    depth: int | None = None

    draw = Draw.IID
    breadth = 1

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    def grow(self, builder: TreeBuilder) -> GrowthSteps:
        """All continuations by one token at a time."""
        count = 1 if builder.picking is Picking.BEST else min(self.samples, builder.nodes)
        at = dict.fromkeys(range(count), -1)
        for _ in range(min(self.depth or builder.depth, builder.depth, builder.nodes // count)):
            at = {sample: node for sample, node in at.items() if builder.may_grow(node)}
            if not at:
                return
            yield sorted(set(at.values()))
            at = _next_level(builder, at)


def _next_level(builder: TreeBuilder, at: dict[int, int]) -> dict[int, int]:
    """Lead each continuation on by a token; those that can not be read or may not grow end."""
    children: dict[tuple[int, int], int] = {}
    after: dict[int, int] = {}
    for sample, node in at.items():
        following = builder.next_tokens[node]
        if following is None or not builder.may_grow(node):
            continue
        place = _drawn(builder, node, following, sample)
        token = int(following.support.ids[place])
        if (node, token) not in children:
            chance = float(following.support.scores[place].exp())
            worth = 1.0 / (2 + len(builder))  # the order of drawing
            reach = builder.reach_of(node) * chance
            children[node, token] = builder.append(node, token, worth, reach)
        after[sample] = children[node, token]
        builder.samples[after[sample]].append(sample)
    return after


def _drawn(builder: TreeBuilder, node: int, following: NextTokens, sample: int) -> int:
    """Where in the support the next token of this continuation lies."""
    support = following.support
    if builder.picking is Picking.BEST:
        return int(support.scores.argmax())
    if builder.picking is Picking.COUPLED and not sample:
        key = builder.key(node)
    else:
        key = stream_key(builder.branch_key(node), sample, 1, Purpose.BRANCH, builder.tier)
    return int((support.scores + gumbel(signed(key), support.ids)).argmax())


METHOD = Method(
    name="iid",
    cls=IidTree,
    summary="independent continuations, merged where they agree; for the rule kseq",
    paper=Paper("SpecTr", "2310.15141"),
)
