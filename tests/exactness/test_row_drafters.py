"""I1, I2, I5 and I7 for drafters that remember rows and trigrams: trees from memories."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.acceptance import RecursiveRejection
from outrider.core.types import Draft, Prompt, as_ids
from outrider.decoding import Stage
from outrider.drafters import (
    Aded,
    Fallback,
    Lookahead,
    Lookup,
    NoDrafter,
    Qualified,
    Stand,
    TokenRecycling,
)
from outrider.drafters.statistics.puct import Puct
from outrider.models.tabular import TabularModel
from outrider.policies import FixedTree
from outrider.protocols import Drafter
from outrider.sampling.noise import Purpose, stream_key
from tests.exactness.setups.distributions import Trial
from tests.exactness.setups.requests import Asked, assert_each_is_undrafted_alone, requests
from tests.exactness.setups.rigs import (
    PROMPTS,
    SAMPLINGS,
    Family,
    next_turn,
    outputs,
    run,
    stage,
    tabular_family,
    undrafted,
)
from tests.matrix import matrix

FAMILY = tabular_family()
TREE = FixedTree(depth=7, nodes=40)


FREE: dict[str, Callable[[], Drafter]] = {
    "recycling": TokenRecycling,
    "aded": lambda: Aded(search=Puct(iterations=20)),
    "stand": Stand,
    "lookahead": lambda: Lookahead(ngram=4, window=4),
    "pool": lambda: Lookahead(ngram=3, window=0),
}


def nested(drafter: Drafter, family: Family) -> dict[str, Drafter]:
    inner = Qualified(drafter=drafter, qualifier=family.qualifier, policy=TREE)
    low = replace(inner, qualifier=family.small, name="low")
    return {
        "alone": drafter,
        "qualified": inner,
        "twice": replace(inner, drafter=low),
        "fallback": Fallback(first=Lookup(max_ngram=3), second=drafter),
    }


NESTINGS = ("alone", "qualified", "twice", "fallback")


@pytest.mark.parametrize(("name", "sampling"), matrix(FREE, SAMPLINGS))
def test_drafted_equals_undrafted(name: str, sampling: str) -> None:
    """Ragged batches and single requests, with memories that are cold, then hot."""
    options = SAMPLINGS[sampling]
    whole = stage(FAMILY.target, FREE[name](), policy=TREE)
    plain = run(undrafted(whole), PROMPTS, end_ids=(0,), **options)
    for _ in range(2):
        drafted = run(whole, PROMPTS, end_ids=(0,), **options)
        assert outputs(drafted) == outputs(plain)
        assert [g.finish for g in drafted] == [g.finish for g in plain]
    for prompt, expected in zip(PROMPTS, outputs(plain), strict=True):
        assert outputs(run(whole, [prompt], end_ids=(0,), **options)) == [expected]


@given(
    name=st.sampled_from(list(FREE)),
    nesting=st.sampled_from(NESTINGS),
    asked=requests(),
    nodes=st.integers(1, 60),
    depth=st.integers(1, 9),
)
def test_any_nest_any_budget(name: str, nesting: str, asked: Asked, nodes: int, depth: int) -> None:
    policy = FixedTree(depth=min(depth, nodes), nodes=nodes)

    def build(models: Family) -> Stage:
        return stage(models.target, nested(FREE[name](), models)[nesting], policy=policy)

    assert_each_is_undrafted_alone(asked, build)


@pytest.mark.parametrize("name", FREE)
def test_drafts_are_really_accepted_and_refused(name: str) -> None:
    """The matrix proves nothing if every draft is right or every draft is wrong."""
    for temperature in (0.7, 1.3):
        whole = stage(FAMILY.target, FREE[name](), policy=TREE)
        gs = run(whole, [(1, 2), (3, 1)], temperature=temperature, max_new_tokens=100)
        accepted = sum(g.counters.accepted for g in gs)
        assert 20 < accepted < sum(g.counters.drafted for g in gs) - 20
        rounds = sum(g.counters.rounds for g in gs)
        assert sum(g.counters.tokens for g in gs) == accepted + rounds - sum(
            g.counters.cut for g in gs
        )


def poison(name: str) -> Drafter:
    """The drafter after a day with a wider model, NaN rows and another language."""
    drafter = FREE[name]()
    wide = TabularModel.random(vocab_size=50, order=1, seed=9)
    wide.table[::3] = torch.nan
    run(stage(wide, drafter, policy=TREE), [(t, t + 1) for t in range(0, 40, 7)], temperature=1.0)
    return drafter


@pytest.mark.parametrize(("name", "temperature"), matrix(FREE, [0.0, 1.0]))
def test_adversarial_memories_change_speed_only(name: str, temperature: float) -> None:
    options = {"temperature": temperature, "end_ids": (0,)}
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, **options)
    for nesting in NESTINGS:
        drafter = nested(poison(name), FAMILY)[nesting]
        drafted = run(stage(FAMILY.target, drafter, policy=TREE), PROMPTS, **options)
        assert outputs(drafted) == outputs(plain)


@pytest.mark.parametrize("name", FREE)
def test_the_next_turn_takes_over(name: str) -> None:
    next_turn(stage(FAMILY.target, FREE[name](), policy=TREE), (1, 2, 3), temperature=0.8)


# -- the distribution of STAND's texts under recursive rejection --------------------------------

VOCAB = 4
TARGET = TabularModel.random(vocab_size=VOCAB, order=2, seed=1)
STALE = TabularModel.random(vocab_size=VOCAB, order=2, seed=2, near=TARGET, distance=1.0)
BUSHY = FixedTree(depth=3, nodes=14)
TRIAL = Trial(TARGET, Prompt(token_ids=(0, 1)), {"temperature": 0.8}, BUSHY)
DRAWS = 800


def remembering(kind: Callable[..., Stand] = Stand) -> Stand:
    """A memory that begins with another model's rows, so that much is refused."""
    drafter = kind()
    prompts = [(a, b) for a in range(4) for b in range(4)]
    run(stage(STALE, drafter, policy=BUSHY), prompts, temperature=1.0, max_new_tokens=30)
    return drafter


def surplus(drafter: Stand, draws: int = DRAWS) -> float:
    return TRIAL.surplus(drafter, draws, RecursiveRejection())


class Sorted(Stand):
    """Puts siblings in the order of their probability, as if they had been drawn so."""

    __slots__ = ()

    def propose(self, states: Sequence, tails: Sequence, budgets: Sequence) -> list[Draft]:
        drafts = Stand.propose(self, states, tails, budgets)
        return [self._sorted(d) if len(d) else d for d in drafts]

    def _sorted(self, draft: Draft) -> Draft:
        if draft.probs is None:
            return draft
        tokens = draft.tokens.copy()
        for parent in {int(p) for p in draft.parents}:
            children = draft.children(parent)
            probs = draft.probs[children[0]]
            assert probs is not None
            ranked = sorted((int(tokens[c]) for c in children), key=lambda t: -float(probs[t]))
            tokens[children] = ranked
        return replace(draft, tokens=as_ids(tokens))


class Flattering(Stand):
    """Claims to have drawn from a flatter distribution than it did."""

    __slots__ = ()

    def propose(self, states: Sequence, tails: Sequence, budgets: Sequence) -> list[Draft]:
        flat = torch.full((VOCAB,), 1.0 / VOCAB, dtype=torch.float64)
        drafts = Stand.propose(self, states, tails, budgets)
        return [replace(d, probs=(flat,) * len(d)) if len(d) else d for d in drafts]


def test_stand_under_recursive_rejection_has_the_targets_distribution() -> None:
    assert surplus(remembering()) < 4.0


@pytest.mark.slow
def test_stand_under_recursive_rejection_has_the_targets_distribution_at_length() -> None:
    assert surplus(remembering(), 60_000) < 4.0


def test_noise_that_several_nodes_share_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(seed: int, sample: int, *place: int) -> int:
        return stream_key(seed, sample, 0, Purpose.BRANCH)

    drafter = remembering()
    monkeypatch.setattr("outrider.drafters.statistics.stand.stream_key", shared)
    assert surplus(drafter) > 8.0


@pytest.mark.parametrize("kind", [Sorted, Flattering])
def test_siblings_out_of_order_and_lies_are_caught(kind: Callable[..., Stand]) -> None:
    assert surplus(remembering(kind), DRAWS // 2) > 8.0
