"""Independent continuations of the text, merged where they are equal."""

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
    """`samples` continuations of up to `depth` tokens, drawn independently of each other, for
    `KSeq` and for `RecursiveRejection` with replacement.

    Equal prefixes share one path of the tree; `Draft.samples` records which continuations pass
    through each node. The node budget must suffice even if no two continuations share a token, so
    the depth is reduced first. Cutting the tree afterwards would keep a draw because it is a
    repetition, and so bias the distribution.

    Under `Match`, the first continuation uses the noise of the target's choices, the others use
    separate noise. At temperature 0 there is only one.

    Attributes:
        samples: number of continuations.
        depth: tokens of each; None uses the budget.

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
        """Grow one tree: all continuations advance by one token at a time."""
        count = 1 if builder.picking is Picking.BEST else min(self.samples, builder.nodes)
        at = dict.fromkeys(range(count), -1)
        for _ in range(min(self.depth or builder.depth, builder.depth, builder.nodes // count)):
            at = {sample: node for sample, node in at.items() if builder.may_grow(node)}
            if not at:
                return
            yield sorted(set(at.values()))
            at = _next_level(builder, at)


def _next_level(builder: TreeBuilder, at: dict[int, int]) -> dict[int, int]:
    """Extend each continuation by one token; those without a usable row or that may not grow
    end."""
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
            worth = 1.0 / (2 + len(builder))  # keeps the order of drawing
            reach = builder.reach_of(node) * chance
            children[node, token] = builder.append(node, token, worth, reach)
        after[sample] = children[node, token]
        builder.samples[after[sample]].append(sample)
    return after


def _drawn(builder: TreeBuilder, node: int, following: NextTokens, sample: int) -> int:
    """Return the index in the support of this continuation's next token."""
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
