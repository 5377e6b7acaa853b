"""Requests whose contexts differ much are not compared."""

from itertools import pairwise

import numpy as np
import pytest
from benchmarks.guard.machine import Machine, Round, exact

from outrider.policies.guard.phase import BASE, OTHER, Phase, is_other
from outrider.policies.guard.watch import FLANK

REQUEST = 35
"""Rounds of one request."""


def turns(make: Round, rounds: int, seed: int = 1) -> Machine:
    """Run requests of which every second one has a long context and slow rounds."""

    def is_long(n: int) -> int:
        return n // REQUEST % 2

    machine = Machine(
        make,
        noise=0.02,
        stalls=0.0,
        slower=lambda n: 10.0 if is_long(n) else 1.0,
        context=lambda n: 100.0 + 4000.0 * is_long(n) + n % REQUEST,
        seed=seed,
    )
    return machine.run(rounds)


@pytest.mark.parametrize("seed", range(3))
def test_drafts_that_gain_stay_on_whatever_the_contexts(seed: int) -> None:
    found = turns(lambda n, rng: (1.3, 1.0 + rng.binomial(5, 0.12)), 1500, seed)
    assert not found.switches and len(found.drafted) > 0.8 * 1500


@pytest.mark.parametrize("speed", [0.6, 0.87])
def test_drafts_that_lose_are_switched_off_whatever_the_contexts(speed: float) -> None:
    found = turns(exact(speed), 1500)
    assert found.switches[0][1] == "off" and found.switches[0][0] < 400
    assert len(found.drafted) < 0.3 * 1500


def test_an_epoch_begins_anew_with_a_request_of_another_context() -> None:
    found = turns(exact(1.02), 3 * REQUEST)
    plain = set(range(3 * REQUEST)) - set(found.drafted)
    for first in (REQUEST, 2 * REQUEST):
        assert {first + n for n in range(FLANK)} <= plain


def test_a_trial_begins_anew_and_the_state_stays() -> None:
    found = turns(exact(0.5), 30)
    watch = found.guard._watch(1)
    assert watch.state == "off"
    watch._trial = first = watch._fresh()
    for phase, context in ((Phase.PROBE, 9000.0), (Phase.CHECK, 10.0)):
        watch.phase = phase
        watch._seen = watch._fresh()
        watch._seen.add(1.0, 1.0)
        watch._follow(context)
        assert watch.phase is Phase.PROBE and watch.state == "off" and watch._trial is first
        assert not watch._seen.rounds and not watch.drafts(lambda: "greedy", 30, context)
    assert watch.note(1, False, 0.02, 1.0) is None and watch.drafts(lambda: "greedy", 31, 10.0)


def test_a_text_that_grows_by_a_few_tokens_per_round_is_no_other_context() -> None:
    contexts = np.arange(0.0, 9000.0, 250.0).tolist()
    assert not any(is_other(after, before) for before, after in pairwise(contexts))
    assert is_other(BASE * OTHER - BASE + 1.0, 0.0) and is_other(0.0, 400.0)
