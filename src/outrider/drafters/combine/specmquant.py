"""SpecMQuant: a middle model turns trees into chains, because wide forwards of a quantised target
are dear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.metrics import expected_tokens
from outrider.core.types import Budget
from outrider.drafters.combine.bypass import Bypass
from outrider.drafters.combine.pyramid import Qualified
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.growth import Eagle2
from outrider.drafters.neural.tree import TreeDrafter
from outrider.policies import FixedTree, Source
from outrider.protocols import Drafter, DraftPolicy
from outrider.protocols.method import Paper, Value

_RANGES: Mapping[str, Range] = {
    "least": AT_LEAST_ONE,
    "steps": AT_LEAST_ONE,
    "nodes": AT_LEAST_ONE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecMQuant(Qualified):
    """Hierarchical speculation for quantised targets (SpecMQuant, arXiv 2505.22179).

    The qualifier verifies trees of `drafter`, one after another, until its chain has at least
    `least` tokens; what the last tree adds beyond them is kept. The target then verifies the chain.
    A forward of a target with 4-bit weights takes much longer over a tree of 30 nodes than over one
    row; the small model takes little longer.

    A chain has `least` to `least + steps` tokens, or fewer where the budget is smaller or the text
    ends. Whether its length is a whole tree or not depends on tokens that stay in the chain only,
    so no rule is biased.

    The chain is the qualifier's own text: greedy at temperature 0, otherwise with the noise that
    all models of a request share (`Match`). `rule=RecursiveRejection()` verifies trees drawn
    without replacement instead. In both cases each token carries the qualifier's distribution, if
    the rule of the target reads it. The paper's code is greedy only, and starts some chains with
    a token that the qualifier chooses without a tree, because its drafter reads the qualifier's
    hidden states; a draft model of its own needs none.

    Attributes:
        least: fewest tokens of a chain.
        steps: depth of the trees.
        nodes: nodes of each tree.

    Raises:
        OptionError: a number below 1, or fewer nodes than steps.
    """

    policy: DraftPolicy = field(init=False, repr=False)
    least: int = 6
    steps: int = 3
    nodes: int = 30

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        object.__setattr__(self, "policy", FixedTree(depth=self.steps, nodes=self.nodes))

    @property
    def longest(self) -> int:
        """The largest number of tokens of a chain."""
        return self.least + self.steps

    def _enough(self, count: int, budget: Budget) -> bool:
        return count >= min(self.least, budget.depth)


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Drafter:
    """Build the nest. If costs were measured, `Bypass` lets the policy choose between the chain and
    a tree that the target verifies itself."""
    qualifiers, draft = given.qualifiers("specmquant"), given.draft_model("specmquant")
    tree = TreeDrafter(model=draft, growth=Eagle2())
    nest = SpecMQuant(drafter=tree, qualifier=qualifiers[0], **options)  # pyright: ignore[reportArgumentType]
    return nest if given.costs is None else Bypass(qualified=nest)


def _priors(drafter: SpecMQuant, given: Given) -> tuple[Source, ...]:
    """Return the prior of the chain. That of the tree is the drafter's own, so that `ExpectedGain`
    compares `(d T_d + T_v(n)) / tau(n, d)` of both with the measured costs of the target."""
    [tree] = given.priors_of(drafter.drafter)
    level = tree.fixed / tree.depth if tree.reach else tree.seconds
    overhead = given.measured.overhead
    verify = given.qualifier_costs(drafter.qualifier).seconds(drafter.nodes + 1) + 2 * overhead
    tokens = expected_tokens(given.chances.inner, drafter.steps)
    return (
        Source(
            name=drafter.name,
            seconds=(drafter.steps * level + verify) / tokens,
            fixed=overhead,
            accept=given.chances.qualifier,
            longest=drafter.longest,
        ),
    )


METHOD = DrafterMethod(
    name="specmquant",
    cls=SpecMQuant,
    summary="trees of the draft model, made chains by a qualifier; where a wide forward of the "
    "target is cheap, trees",
    paper=Paper("SpecMQuant", "2505.22179"),
    needs="a draft model and a qualifier",
    memory="both models and their caches",
    make=_make,
    priors=_priors,
    models=2,
)
