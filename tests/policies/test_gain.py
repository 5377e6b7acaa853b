"""The policy of expected gain: optimal against brute force, able to stop and to try again."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.counters import Counters, Pace, Ranks, Tally
from outrider.core.errors import OptionError
from outrider.core.metrics import expected_tokens
from outrider.core.types import Budget
from outrider.policies import CostSurface, ExpectedGain, Source
from outrider.policies.source import best_length, best_tree
from outrider.policies.speed import Speed

pytestmark = pytest.mark.method("expected-gain")

CURVE = CostSurface.of({1: 1.0, 2: 1.1, 4: 1.2, 8: 1.5, 16: 2.4, 32: 4.8})
CHANCES = st.floats(0.0, 1.0)
POINTS = st.dictionaries(st.integers(1, 40), st.floats(1e-4, 10.0), min_size=1, max_size=6)


def policy(*sources: Source, verify: CostSurface = CURVE, **options) -> ExpectedGain:
    return ExpectedGain(verify=verify, sources=sources, **{"overhead": 0.0, **options})


DRAFT = Source(name="draft", seconds=0.1)


def play(
    by: ExpectedGain, accept: dict[str, float], rounds: int, seed: int = 0
) -> tuple[list[Budget], Counters]:
    """Rounds in which each source's tokens are kept with its own chance."""
    dice, counters, budgets = random.Random(seed), Counters(), []
    for _ in range(rounds):
        budget = by.budget(counters)
        budgets.append(budget)
        counters.rounds += 1
        assert budget.shares is not None
        if budget.depth:
            name, size = max(budget.shares.items(), key=lambda share: share[1])
            kept = next((i for i in range(size) if dice.random() >= accept[name]), size)
            tally = counters.tallies.setdefault(name, Tally())
            tally.note(size, kept, kept < size, counters.rounds)
    return budgets, counters


@given(CHANCES, CHANCES, st.floats(0.0, 2.0), st.floats(0.0, 2.0), POINTS, st.integers(0, 20))
def test_best_length_is_the_best(first, accept, fixed, each, points, longest) -> None:
    curve = CostSurface.of(points)
    verify = [curve.seconds(k + 1) for k in range(longest + 1)]
    speeds = [
        (1.0 + first * expected_tokens(accept, k - 1)) / (fixed + k * each + verify[k])
        if k
        else 1.0 / verify[0]
        for k in range(longest + 1)
    ]
    plan = best_length((first, accept), (fixed, each), verify, longest)
    assert plan.speed == pytest.approx(max(speeds), rel=1e-9)
    assert speeds[plan.length] == pytest.approx(max(speeds), rel=1e-9)


@given(
    hits=st.floats(0, 50),
    misses=st.floats(0, 50),
    pace=st.tuples(st.floats(0, 1), st.floats(1, 9), st.integers(0, 3)),
    plain=st.tuples(st.floats(0, 9), st.floats(1, 9), st.integers(0, 3)),
    rounds=st.integers(0, 1000),
    newest=st.integers(0, 1000),
    clean=st.booleans(),
    longest=st.integers(1, 20),
    points=POINTS,
    batch=st.integers(1, 9),
)
def test_never_more_than_allowed(
    hits, misses, pace, plain, rounds, newest, clean, longest, points, batch
) -> None:
    tally = Tally(
        drafts=1,
        hits=hits,
        trials=hits + misses,
        pace=Pace(*pace),
        newest=newest,
        clean=clean,
    )
    counters = Counters(
        rounds=rounds, tallies={"draft": tally, "lookup2": tally}, plain=Pace(*plain)
    )
    by = policy(
        Source(name="draft", longest=longest),
        Source(name="slow", seconds=5.0, longest=3),
        Source(name="lookup2", opportunistic=True, longest=2 * longest),
        verify=CostSurface.of(points),
    )
    budget = by.budget(counters, batch)
    assert budget.shares is not None
    assert budget.depth == budget.nodes == max(budget.shares.values())
    for source in by.sources:
        assert 0 <= budget.shares[source.name] <= source.longest
    assert sum(budget.shares[s] > 0 for s in ("draft", "slow")) <= 1, "one of those at a time"


def test_a_useless_source_is_given_up_soon() -> None:
    budgets, counters = play(policy(DRAFT), {"draft": 0.0}, 60)
    assert budgets[0].depth > 0
    drafted = [i for i, b in enumerate(budgets) if b.depth]
    gave_up = next(i for i, b in enumerate(budgets) if not b.depth)
    assert gave_up <= 12
    assert counters.tallies["draft"].drafted < 50
    assert all(budgets[i].depth == 1 for i in drafted if i > gave_up), "probes are short"


def test_probes_come_back_ever_more_rarely_but_always() -> None:
    budgets, _ = play(policy(DRAFT), {"draft": 0.0}, 3000)
    tried = [i for i, b in enumerate(budgets) if b.depth]
    gaps = [b - a for a, b in pairwise(tried) if b - a > 1]
    assert all(a <= b + 1 for a, b in pairwise(gaps)), "but for a round that must be undrafted"
    assert gaps[0] <= 16 and max(gaps) <= 258
    assert gaps[-1] >= 255
    assert len(tried) < 30


def test_a_source_that_becomes_good_is_found_again() -> None:
    by = policy(DRAFT)
    _, counters = play(by, {"draft": 0.0}, 200)
    assert by.budget(counters).depth <= 1
    dice = random.Random(1)
    for _ in range(400):
        budget = by.budget(counters)
        counters.rounds += 1
        if budget.depth:
            kept = next((i for i in range(budget.depth) if dice.random() > 0.9), budget.depth)
            counters.tallies["draft"].note(budget.depth, kept, kept < budget.depth, counters.rounds)
    assert by.budget(counters).depth > 2


def test_better_acceptance_longer_drafts() -> None:
    lengths = []
    for accept in (0.05, 0.3, 0.6, 0.8, 0.95):
        by = policy(Source(name="draft", seconds=0.1, accept=accept))
        lengths.append(by.budget(Counters()).depth)
    assert lengths[0] == 0
    assert lengths == sorted(lengths) and lengths[-1] >= 8


def test_costs_measured_in_place_replace_the_estimate() -> None:
    cheap, dear = Tally(), Tally()
    for _ in range(30):
        cheap.pace.note(0.05, 5)
        dear.pace.note(4.5, 5)
    by = policy(DRAFT)
    lengths = [by.budget(Counters(tallies={"draft": t})).depth for t in (dear, Tally(), cheap)]
    assert lengths[0] < lengths[1] < lengths[2]


def test_what_a_draft_takes_beside_its_tokens_is_told_apart() -> None:
    """A short draft that took long must not make long drafts look dear."""
    tally = Tally()
    for _ in range(30):
        tally.pace.note(0.4, 1)
    assert DRAFT.costs(tally) == pytest.approx((0.3, 0.1))
    for _ in range(30):
        tally.pace.note(0.8, 5)
    assert DRAFT.costs(tally) == pytest.approx((0.3, 0.1), rel=0.02)
    cheaper = Tally()
    cheaper.pace.note(0.2, 4)
    assert DRAFT.costs(cheaper) == pytest.approx((0.0, 0.05))


def test_one_stall_does_not_count() -> None:
    tally = Tally()
    for _ in range(20):
        tally.pace.note(0.1, 1)
    tally.pace.note(50.0, 1)
    assert tally.pace.seconds == pytest.approx(0.11)
    tally.pace.note(0.5, 5)
    assert tally.pace.seconds > 0.14, "a longer draft is no stall"


def test_a_stall_in_the_only_undrafted_round_starts_no_drafting() -> None:
    """A round without a draft is never believed to take longer than one with a draft."""
    counters = Counters(rounds=60)
    counters.plain.note(50.0, 1)
    useless = counters.tallies["draft"] = Tally()
    for round_ in range(50):
        counters.checked.note(1.1, 2)
        useless.note(1, 0, True, round_)
    assert policy(DRAFT).budget(counters).depth == 0


def test_rounds_that_take_longer_here_than_measured() -> None:
    """A busy machine slows forwards over several rows more than those over one, say."""
    by = policy(DRAFT)
    slow, usual = Counters(), Counters()
    for _ in range(20):
        for counters, factor in ((slow, 3.0), (usual, 1.0)):
            counters.plain.note(CURVE.seconds(1), 1)
            counters.checked.note(factor * CURVE.seconds(5), 5)
    assert by.budget(usual) == by.budget(Counters())
    assert by.budget(usual).depth > 0 == by.budget(slow).depth
    both = Counters(checked=replace(slow.checked), plain=Pace(3.0, 1.0, 20))
    assert by.budget(both).depth > 0, "if all is slow, drafting still pays"


def test_now_and_then_a_round_is_undrafted() -> None:
    """Otherwise nobody would know what that takes by now."""
    depths = [policy(DRAFT).budget(Counters(rounds=rounds)).depth for rounds in range(128)]
    assert [i for i, depth in enumerate(depths) if not depth] == [63, 127]


def test_of_two_models_the_better_leads_and_the_other_is_tried() -> None:
    by = policy(DRAFT, Source(name="qualifier", seconds=0.3, accept=0.6))
    budgets, counters = play(by, {"draft": 0.3, "qualifier": 0.9}, 400)
    late = [b.shares for b in budgets[200:] if b.shares]
    assert sum(s["qualifier"] > 0 for s in late) > 0.9 * len(late)
    assert counters.tallies["draft"].drafts >= 3
    budgets, _ = play(by, {"draft": 0.9, "qualifier": 0.9}, 400)
    late = [b.shares for b in budgets[200:] if b.shares]
    assert sum(s["draft"] > 0 for s in late) > 0.9 * len(late)


def test_opportunistic_sources_stand_back_where_the_model_promises_more() -> None:
    good = Source(name="lookup5", accept=0.95, opportunistic=True, longest=24)
    poor = Source(name="lookup1", accept=0.2, opportunistic=True, longest=24)
    shares = (
        policy(Source(name="draft", seconds=0.1, accept=0.7), good, poor).budget(Counters()).shares
    )
    assert shares is not None
    assert shares["lookup5"] > shares["draft"] > shares["lookup1"] == 0
    alone = policy(good, poor).budget(Counters()).shares
    assert alone is not None and alone["lookup1"] > 0, "without a model even a guess pays"


def test_in_a_batch_a_row_costs_more() -> None:
    """Eight requests of one row each already fill what makes four rows cheap."""
    depths = [policy(DRAFT).budget(Counters(), batch).depth for batch in (1, 4, 16)]
    assert depths[0] > depths[1] >= depths[2]


def test_no_sources_no_drafts() -> None:
    assert policy().budget(Counters()) == Budget(depth=0, nodes=0, shares={})


def test_what_is_carried_to_the_next_request_is_bounded() -> None:
    tally = Tally()
    for i in range(40):
        tally.note(5, 4, True, i)
    tally.pace.note(0.2, 2)
    carried = tally.carried()
    assert carried.trials == pytest.approx(16.0)
    assert carried.hits / carried.trials == pytest.approx(tally.hits / tally.trials)
    assert (carried.drafts, carried.newest) == (0, 39)
    assert (carried.pace.seconds, carried.pace.size) == (0.2, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Source(name="x", accept=1.2),
        lambda: Source(name="x", weight=0.0),
        lambda: Source(name="x", seconds=-1.0),
        lambda: Source(name="x", fixed=-1.0),
        lambda: Source(name="x", longest=0),
        lambda: policy(DRAFT, DRAFT),
        lambda: policy(DRAFT, probe_after=9, probe_within=8),
    ],
)
def test_bad_options_are_refused(make) -> None:
    with pytest.raises(OptionError):
        make()


def test_sources_that_have_nothing_are_asked_ever_more_rarely() -> None:
    """Where asking counts; a token of theirs that is kept brings them back at once."""
    copies = Source(name="lookup5", accept=0.9, opportunistic=True)
    by = policy(copies, asking=0.05)
    counters, asked = Counters(), []
    for _ in range(400):
        asked.append(by.budget(counters).depth > 0)
        counters.rounds += 1
    assert all(asked[:8])
    assert sum(asked[8:]) < 0.25 * len(asked[8:])
    assert any(asked[-80:]), "but always again"
    counters.tallies["lookup5"] = Tally()
    counters.tallies["lookup5"].note(4, 4, False, counters.now)
    after = []
    for _ in range(8):
        after.append(by.budget(counters).depth > 0)
        counters.rounds += 1
    assert sum(after) >= 7, "an undrafted round now and then"
    free = policy(copies)
    idle = Counters()
    for rounds in range(60):
        idle.rounds = rounds
        assert free.budget(idle).depth > 0, "where asking costs nothing it goes on"


def test_a_decision_stands_until_something_happens() -> None:
    by, counters = policy(DRAFT), Counters(past=1000)
    first = by.budget(counters)
    counters.rounds += 1
    counters.undrafted_rounds += 1
    assert by.budget(counters) is first
    counters.rounds += 1
    counters.tallies["draft"] = Tally()
    counters.tallies["draft"].note(5, 0, True, counters.now)
    assert by.budget(counters) is not first


# -- trees -------------------------------------------------------------------------------------


def tree_source(first: float = 0.6, **options) -> Source:
    reach = tuple(first * 0.8**place for place in range(40))
    return Source(name="tree", reach=reach, longest=40, depth=5, **options)


@given(
    reach=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20),
    draft=st.tuples(st.floats(0.0, 2.0), st.floats(0.0, 2.0)),
    points=POINTS,
)
def test_best_tree_is_the_best(reach, draft, points) -> None:
    curve = CostSurface.of(points)
    verify = [curve.seconds(n + 1) for n in range(len(reach) + 1)]
    speeds = [1.0 / verify[0]] + [
        (1.0 + sum(reach[:n])) / (draft[0] + n * draft[1] + verify[n])
        for n in range(1, len(reach) + 1)
    ]
    plan = best_tree(reach, draft, verify)
    assert plan.speed == pytest.approx(max(speeds), rel=1e-9)
    assert speeds[plan.length] == pytest.approx(max(speeds), rel=1e-9)


def test_a_tree_is_as_large_as_its_rows_are_cheap() -> None:
    cheap = CostSurface.of({1: 1.0, 64: 1.2})
    dear = CostSurface.of({1: 1.0, 64: 20.0})
    sizes = [policy(tree_source(), verify=c).budget(Counters()).nodes for c in (dear, CURVE, cheap)]
    assert sizes[0] < sizes[1] < sizes[2]
    budget = policy(tree_source(), verify=cheap).budget(Counters())
    assert budget.depth == 5 and budget.nodes_of("tree") == budget.nodes > 5


def test_nodes_that_are_never_kept_are_left_out() -> None:
    by = policy(tree_source())
    assert by.budget(Counters()).nodes > 4
    tally = Tally()
    for i in range(60):
        tally.note(40, 1, True, i)
        tally.ranks.note(40, [0])  # the first node always, no other ever
    counters = Counters(tallies={"tree": tally}, rounds=60)
    assert 1 <= by.budget(counters).nodes <= 3


def test_ranks_count_by_blocks() -> None:
    ranks = Ranks()
    assert [ranks.block(place) for place in (0, 1, 2, 3, 6, 7, 14, 15)] == [0, 1, 1, 2, 2, 3, 3, 4]
    ranks.note(4, [0, 3])
    assert ranks.trials == [1.0, 2.0, 1.0] and ranks.hits == [1.0, 0.0, 1.0]
    source = tree_source()
    chances = source.reached(ranks)
    assert len(chances) == 40 and chances[0] > source.reach[0]
    assert chances[1] < source.reach[1]
    assert chances[7] / source.reach[7] == pytest.approx(chances[3] / source.reach[3])
    assert source.reached(Ranks()) == pytest.approx(list(source.reach))


def test_copies_that_go_wrong_at_once_are_told_from_those_that_end() -> None:
    """One long run must not make many false starts look good."""
    tally = Tally()
    for i in range(12):
        right = i % 6 == 5
        tally.note(20, 20 if right else 0, not right, i)
    source = Source(name="copy", accept=0.5, opportunistic=True, longest=20)
    assert source.first(tally) < 0.35 < 0.8 < source.chance(tally)
    even = Tally()
    for i in range(12):
        even.note(4, 3, True, i)
    assert source.first(even) > 0.8 and 0.6 < source.chance(even) < 0.8


def test_a_batch_whose_rounds_take_what_the_surface_says_is_priced_by_it() -> None:
    """Paces of a batch are compared with the costs of its sequences, not with those of one."""
    surface = CostSurface(((1, 1.0), (8, 2.0), (64, 8.0)), per_sequence=0.5)
    gain = policy(Source(name="draft", longest=3), verify=surface)
    counters = Counters()
    for _ in range(40):
        counters.plain.note(surface.seconds(8, 8), 8)
        counters.checked.note(surface.seconds(24, 8), 24)
    assert gain._here(counters, 8) == pytest.approx(gain._table(8))
    decision = Speed()
    counters.rounds, counters.undrafted_rounds = 10, 5
    decision.note(counters, gain._table(8), lambda rows: surface.seconds(rows, 8))
    assert decision.slower == pytest.approx(1.0)
