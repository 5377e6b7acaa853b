"""Sources that select their tokens: the policy tells them what a row costs."""

from dataclasses import replace

import numpy as np
import pytest

from outrider.core.counters import Counters, Tally
from outrider.policies import CostSurface, Source
from tests.policies.test_gain import DRAFT, policy

pytestmark = pytest.mark.method("expected-gain")

CHOOSY = Source(name="choosy", opportunistic=True, selects=True, longest=16, accept=0.45)


def test_a_source_that_selects_gets_its_longest_share_and_the_floors() -> None:
    by, counters = policy(CHOOSY, margin=0.1), Counters()
    budget = by.budget(counters)
    assert budget.shares == {"choosy": 16} and budget.depth == 16
    assert budget.worth is not None and budget.worth.least == 0.0
    assert len(budget.worth.floors) == 16
    assert by.budget(counters) is budget  # one decision until a draft is verified
    assert policy(DRAFT).budget(Counters()).worth is None


def test_a_source_that_selects_and_loses_is_left_out_until_its_trial() -> None:
    by, counters = policy(CHOOSY), Counters()
    for _ in range(40):
        counters.rounds += 1
        tally = counters.tallies.setdefault("choosy", Tally())
        tally.note(4, 0, True, counters.rounds)
    budget = by.budget(counters)
    assert budget.depth == 0
    counters.rounds = counters.undrafted_rounds = 40 + 256
    assert by.budget(counters).shares == {"choosy": 16}


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_a_noisy_measurement_does_not_end_drafts_that_pay(factor: float) -> None:
    """One of three first tokens is kept: the costs decide on each token, not on all of them."""
    steep = CostSurface.of({1: 1.0, 2: 1.25, 3: 1.35, 16: 2.7})
    by, counters = policy(CHOOSY, verify=steep), Counters()
    for i in range(40):
        counters.rounds += 1
        tally = counters.tallies.setdefault("choosy", Tally())
        tally.note(2, i % 3 == 0, True, counters.rounds)
        counters.plain.note(1.0, 1)
        counters.checked.note(1.35 * factor, 3)
        assert by.budget(counters).depth == 16


def test_a_source_that_selects_must_gain_as_much_as_the_leader() -> None:
    leader = Source(name="model", seconds=0.01, accept=0.9)
    with_leader = policy(leader, CHOOSY).budget(Counters())
    assert with_leader.shares is not None and with_leader.shares["model"] > 1
    assert with_leader.worth is not None
    assert with_leader.worth.least > 1.0


def test_what_waits_sets_what_others_must_gain() -> None:
    """As much as it promises: its chances less its rows and its time; nothing if it loses."""
    waits = Source(
        name="head", opportunistic=True, selects=True, waits=True, accept=0.5, seconds=0.01
    )
    worth = policy(CHOOSY, waits).budget(Counters()).worth
    assert worth is not None and worth.beside == "head"
    chances = waits.survival(Tally())
    gains = np.cumsum(
        [c - f - worth.rate * 0.01 for c, f in zip(chances, worth.floors, strict=True)]
    )
    assert worth.least == pytest.approx(max(gains)) and worth.least > 0.2
    dear = replace(waits, fixed=5.0)
    worth = policy(CHOOSY, dear).budget(Counters()).worth
    assert worth is not None and worth.least == 0.0 and not worth.beside


def test_dear_rows_beside_a_batch_are_not_drafted() -> None:
    """Looking for drafts costs more than they gain; alone, the same row is cheap."""
    surface = CostSurface(((1, 1.0), (4, 1.3), (64, 40.0)), per_sequence=0.1)
    by, counters = policy(CHOOSY, verify=surface), Counters()
    assert by.budget(counters).depth == 16
    assert by.dear(16) and not by.dear(2)
    assert by.budget(counters, batch=16).depth == 0
    assert by.budget(counters, batch=2).depth == 16


def test_what_was_learned_of_a_text_survives_another_batch() -> None:
    by, counters = policy(CHOOSY), Counters()
    by.budget(counters)
    counters.rounds, counters.next_tokens, counters.undrafted_rounds = 40, 40, 40
    by.budget(counters)
    counters.rounds = counters.undrafted_rounds = counters.next_tokens = 90
    by.budget(counters)
    speed = counters.plan.speed
    assert speed.tokens > 0
    by.budget(counters, batch=3)
    assert counters.plan.batch == 3 and counters.plan.speed is speed
