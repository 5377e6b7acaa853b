"""SpecMQuant: trees that a qualifier turns into chains of its own text, and when that pays."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from outrider.acceptance import Match, RecursiveRejection, Rejection
from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.metrics import expected_tokens
from outrider.core.tree import is_chain
from outrider.core.types import NO_IDS, Budget, Draft, as_ids
from outrider.drafters import Bypass, ModelDrafter, NoDrafter, Qualified, SpecMQuant, TreeDrafter
from outrider.drafters.given import Costs, Given
from outrider.drafters.neural.growth import Eagle2, RsdS
from outrider.policies import CostSurface, FixedLength
from outrider.protocols import AcceptanceRule, Needs, Request
from outrider.strategy.catalogue import drafter_record
from outrider.strategy.making import with_priors
from outrider.testing.distribution import DRAFT, QUALIFIER, Trial
from tests.exactness.setups.rigs import (
    PROMPTS,
    check_counters,
    generation,
    outputs,
    run,
    stage,
    tabular_family,
)

pytestmark = [pytest.mark.method("specmquant"), pytest.mark.usefixtures("unchecked")]

FAMILY: Any = tabular_family(seed=2)
TREE = TreeDrafter(model=FAMILY.draft, growth=Eagle2(width=3))
DEEP = Budget.chain(20)
TEXTS = ("greedy", "sampled")
SAMPLINGS: dict[str, dict[str, Any]] = {"greedy": {}, "sampled": {"temperature": 0.9}}


def nest(rule: AcceptanceRule | None = None, **options: Any) -> SpecMQuant:
    drafter = options.pop("drafter", TREE)
    return SpecMQuant(drafter=drafter, qualifier=FAMILY.qualifier, rule=rule or Match(), **options)


def request(prompt: Sequence[int] = (1, 2, 3), **options: Any) -> Request:
    return generation(prompt, **options).request


def propose(drafter: Qualified, asked: Request, budget: Budget = DEEP) -> Draft:
    [draft] = drafter.propose(drafter.begin([asked]), [NO_IDS], [budget])
    return draft


@pytest.mark.parametrize("sampling", TEXTS)
def test_specmquant_writes_the_undrafted_text(sampling: str) -> None:
    """Identical to the target's own text, greedy as in the paper, and sampled."""
    options = {**SAMPLINGS[sampling], "end_ids": (0,), "max_new_tokens": 40}
    whole = stage(FAMILY.target, nest(), policy=FixedLength(9))
    drafted, plain = (
        run(s, PROMPTS, **options) for s in (whole, stage(FAMILY.target, NoDrafter()))
    )
    assert outputs(drafted) == outputs(plain)
    assert sum(g.counters.accepted for g in drafted) > 8
    for g in drafted:
        check_counters(g.counters, len(g.output))


@pytest.mark.parametrize("sampling", TEXTS)
def test_specmquant_chains_have_6_to_6_plus_steps_tokens(sampling: str) -> None:
    """And they are the text that the qualifier writes alone."""
    options = SAMPLINGS[sampling]
    prompts = [(i, j) for i in range(7) for j in (0, 3)]
    alone = run(stage(FAMILY.qualifier, NoDrafter()), prompts, max_new_tokens=9, **options)
    lengths = set()
    for prompt, own in zip(prompts, alone, strict=True):
        draft = propose(nest(), request(prompt, **options))
        assert is_chain(draft.parents)
        assert draft.tokens.tolist() == own.output[: len(draft)]
        lengths.add(len(draft))
    assert lengths <= {6, 7, 8, 9} and len(lengths) > 2, "6 to 6 + 3"


def test_specmquant_chains_end_with_the_budget_and_with_the_text() -> None:
    assert [len(propose(nest(), request(), Budget.chain(n))) for n in range(8)] == [
        *range(7),
        len(propose(nest(), request(), Budget.chain(7))),
    ]
    own = run(stage(FAMILY.qualifier, NoDrafter()), [(1, 2, 3)])[0].output
    for end in set(own[:6]):
        draft = propose(nest(), request(end_ids=(end,)))
        assert draft.tokens.tolist() == own[: own.index(end) + 1]
    assert 12 <= len(propose(nest(least=12, steps=2, nodes=8), request())) <= 14


def test_the_specmquant_qualifier_owes_two_rows_after_full_acceptance_and_one_otherwise() -> None:
    drafter, asked = nest(), request()
    [state] = drafter.begin([asked])
    for kept, owed in ((None, 2), (3, 1), (0, 1), (None, 2)):
        [draft] = drafter.propose([state], [NO_IDS], [DEEP])
        tokens = draft.tokens[:kept].tolist()
        following = int(draft.tokens[kept]) if kept is not None else 5
        emitted = [*tokens, (following + 1) % 7]
        asked.output.extend(emitted)
        drafter.commit([state], [as_ids(emitted)])
        assert state.sequence is not None and len(state.sequence.cache.pending) == owed


@pytest.mark.parametrize("rule", [Match(), RecursiveRejection()], ids=["match", "rrsw"])
def test_specmquant_chains_carry_the_rows_of_the_qualifier(rule: AcceptanceRule) -> None:
    """The target may then apply the ratio rule with q = the qualifier's row at each position."""
    drafter = nest(rule, drafter=TreeDrafter(model=FAMILY.draft, growth=RsdS(width=3)))
    asked = request(temperature=0.9)
    draft = propose(drafter.bind(Needs(probs=True), 1), asked)
    assert draft.probs is not None and len(draft) >= 6
    for node, probs in enumerate(draft.probs):
        before = draft.tokens[:node].tolist()
        logits = FAMILY.qualifier.logits_after([1, 2, 3, *before])
        assert probs is not None
        assert torch.allclose(probs, asked.sampler.probs(logits, before))


@pytest.mark.parametrize("rule", [Match(), RecursiveRejection()], ids=["match", "rrsw"])
def test_specmquant_keeps_the_distribution_of_the_target(rule: AcceptanceRule) -> None:
    """Chain lengths depend on tokens, but on none that is dropped."""
    tree = TreeDrafter(model=DRAFT, growth=RsdS(width=2))
    drafter = SpecMQuant(drafter=tree, qualifier=QUALIFIER, rule=rule, least=1, steps=2, nodes=6)
    assert Trial().surplus(drafter, 150, Rejection(), FixedLength(3)) < 4.0


# -- chain or tree, by the measured costs of the target -------------------------------------------


def built(verify: dict[int, float]) -> tuple[Bypass, Given]:
    """What `specmquant` builds for a target with these costs; the smaller models are cheap."""
    costs = Costs(CostSurface.of(verify), overhead=0.0)
    given = with_priors(
        Given(target=FAMILY.target, below=(FAMILY.qualifier, FAMILY.draft), costs=costs)
    )
    given._curves[id(FAMILY.qualifier), 4] = CostSurface.of({1: 0.05, 32: 0.08})
    given._curves[id(FAMILY.draft), 2] = CostSurface.of({1: 0.01})
    drafter = drafter_record("specmquant").drafter(given, (), {})
    assert isinstance(drafter, Bypass)
    return drafter, given


COSTS = {
    "full precision": ({1: 1.0, 8: 1.02, 64: 1.05}, "draft-tree"),
    "4 bits": ({1: 1.0, 8: 1.3, 64: 6.0}, "qualifier"),
}


@pytest.mark.parametrize("case", COSTS)
def test_specmquant_chooses_chain_or_tree_by_the_measured_costs(case: str) -> None:
    """The smaller of both (d T_d + T_v(n)) / tau(n, d), each with its best size; the choice changes
    with the costs alone."""
    verify, wanted = COSTS[case]
    drafter, given = built(verify)
    policy = given.gain(given.measured.target, given.priors_of(drafter))
    shares = policy.budget(Counters()).shares
    assert shares is not None
    assert [name for name, share in shares.items() if share] == [wanted]
    seconds = given.measured.target.seconds
    chain, tree = sorted(policy.sources, key=lambda source: bool(source.reach))
    chains = [
        (chain.fixed + chain.seconds * n + seconds(n + 1)) / expected_tokens(chain.accept, n)
        for n in range(1, chain.longest + 1)
    ]
    trees = [
        (tree.fixed + seconds(n + 1)) / (1 + sum(tree.reach[:n]))
        for n in range(1, tree.longest + 1)
    ]
    assert (min(chains) < min(trees)) == (wanted == "qualifier")


def test_specmquant_drafts_trees_or_chains_in_the_way_that_the_share_names() -> None:
    drafter, _ = built(COSTS["4 bits"][0])
    assert drafter.origins == ("qualifier", "draft-tree")
    asked = request()
    for shares, chains in (({"qualifier": 9, "draft-tree": 0}, True), ({"qualifier": 0}, False)):
        budget = Budget(depth=9, nodes=20, shares=shares)
        [draft] = drafter.propose(drafter.begin([asked]), [NO_IDS], [budget])
        assert is_chain(draft.parents) == chains and len(draft) >= 6


def test_specmquant_refuses_sizes_that_are_none() -> None:
    for options in ({"least": 0}, {"steps": 0}, {"nodes": 2}):
        with pytest.raises(OptionError, match=next(iter(options))):
            SpecMQuant(
                drafter=ModelDrafter(model=FAMILY.draft), qualifier=FAMILY.qualifier, **options
            )
