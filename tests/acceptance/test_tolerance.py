"""Top-beta tolerance: who passes, the strict form, and what it promises."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.acceptance import Match, TopBeta
from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.types import Draw, Exactness
from outrider.drafters import NoDrafter, TreeDrafter
from outrider.drafters.neural.growth import TopK
from outrider.models.tabular import TabularModel
from outrider.policies import FixedTree
from outrider.strategy import Strategy
from tests.acceptance.hand import Seedling, chain, random_logits, seedlings, tree, view
from tests.acceptance.trees import chances
from tests.exactness.setups.rigs import PROMPTS, outputs, run, stage, tabular_family

pytestmark = pytest.mark.method("top-beta")

ROWS = chances(0.5, 0.3, 0.15, 0.05).log().expand(6, 4)


def path(rule: TopBeta, tokens: list[int], **options) -> tuple[int, ...]:
    draft = chain(tokens)
    return rule(draft, view(draft, ROWS, **options)).path


@pytest.mark.parametrize(
    ("beta", "tau", "kept"),
    [
        (1, 9.0, [True, False, False, False]),
        (2, 9.0, [True, True, False, False]),
        (4, 0.0, [True, False, False, False]),
        (4, math.log(0.5 / 0.3) + 1e-9, [True, True, False, False]),
        (4, math.log(0.5 / 0.3) - 1e-9, [True, False, False, False]),
        (3, 9.0, [True, True, True, False]),
    ],
)
def test_rank_and_gap_both_count(beta: int, tau: float, kept: list[bool]) -> None:
    rule = TopBeta(beta=beta, tau=tau)
    assert [bool(path(rule, [x])) for x in range(4)] == kept


def test_above_temperature_0_the_noise_of_the_choice_counts() -> None:
    """The best is always the choice, so the choice always passes and nothing passes at beta 1."""
    for sample in range(60):
        choice = view(chain([]), ROWS, temperature=1.0, sample=sample).choose(-1)
        for x in range(4):
            kept = bool(path(TopBeta(beta=1, tau=9.0), [x], temperature=1.0, sample=sample))
            assert kept == (x == choice)
            if x == choice:
                assert path(TopBeta(beta=2, tau=0.5), [x], temperature=1.0, sample=sample)


@given(seedlings(), st.sampled_from([0.0, 0.8]), st.sampled_from([(1, 5.0), (7, 0.0), (1, 0.0)]))
def test_the_strict_form_is_match(seedling: Seedling, temperature: float, form: tuple) -> None:
    draft = seedling.grow()
    rows = random_logits(len(draft) + 1, 3, seedling.seed + 7)
    seen = [view(draft, rows, temperature=temperature) for _ in range(2)]
    rule = TopBeta(beta=form[0], tau=form[1])
    assert rule.exactness is Exactness.IDENTICAL
    assert rule(draft, seen[0]).emitted == Match()(draft, seen[1]).emitted


@given(seedlings(), st.sampled_from([0.0, 0.8]), st.integers(1, 3), st.floats(0, 3))
def test_more_tolerance_keeps_no_less(
    seedling: Seedling, temperature: float, beta: int, tau: float
) -> None:
    draft = seedling.grow()
    rows = random_logits(len(draft) + 1, 3, seedling.seed + 7)
    rules = (TopBeta(beta=beta, tau=tau), TopBeta(beta=beta + 1, tau=tau + 0.5))
    seen = [view(draft, rows, temperature=temperature) for _ in rules]
    strict, loose = (len(r(draft, v).path) for r, v in zip(rules, seen, strict=True))
    assert strict <= loose


def test_takes_the_longest_path_then_the_smallest_gaps() -> None:
    rule = TopBeta(beta=4, tau=9.0)
    draft = tree([2, 1, 0], [-1, -1, 0])
    assert rule(draft, view(draft, ROWS)).path == (0, 2)
    level = tree([2, 1], [-1, -1])
    verdict = rule(level, view(level, ROWS))
    assert verdict.path == (1,) and verdict.changed == (True, False)


@given(st.integers(0, 60), st.sampled_from([0.0, 0.1, 0.34, 1.0]))
def test_the_budget_holds_at_every_token(seed: int, share: float) -> None:
    """I8."""
    ledger = Counters(accepted=3, next_tokens=2, changed=0)
    draft = chain([0, 1, 2, 0, 1])
    rule = TopBeta(beta=3, tau=9.0, max_changed=share)
    verdict = rule(draft, view(draft, random_logits(6, 3, seed), ledger=ledger))
    for n in range(len(verdict.changed)):
        assert sum(verdict.changed[: n + 1]) <= math.floor(share * (5 + n + 1))
    assert len(verdict.path) == 5 or share < 1.0


def test_tokens_outside_the_vocabulary_never_pass() -> None:
    assert not path(TopBeta(beta=99, tau=99.0), [7])


@pytest.mark.parametrize("wrong", [{"beta": 0}, {"tau": -0.1}, {"tau": math.nan}])
def test_wrong_numbers_are_refused(wrong: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        TopBeta(**wrong)


def test_what_it_promises() -> None:
    rule, model = TopBeta(beta=3, tau=1.0), TabularModel.random()
    assert rule.exactness is Exactness.LOSSY and rule.draws == frozenset(Draw)
    drafter = TreeDrafter(model=model, growth=TopK((2, 2)))
    assert Strategy(target=model, drafter=drafter, rule=rule).exactness is Exactness.LOSSY
    assert Strategy(target=model, drafter=drafter, rule=TopBeta()).exactness is Exactness.IDENTICAL


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_over_whole_texts(temperature: float) -> None:
    family = tabular_family()
    drafter = TreeDrafter(model=family.draft, growth=TopK((3, 2, 1)))
    policy = FixedTree(depth=3, nodes=9)
    options = {"temperature": temperature}

    def texts(rule: TopBeta) -> list[tuple[int, ...]]:
        return outputs(run(stage(family.target, drafter, rule, policy=policy), PROMPTS, **options))

    plain = outputs(run(stage(family.target, NoDrafter()), PROMPTS, **options))
    assert texts(TopBeta()) == plain
    assert texts(TopBeta(beta=4, tau=3.0, max_changed=0.0)) == plain
    assert texts(TopBeta(beta=4, tau=3.0)) != plain
