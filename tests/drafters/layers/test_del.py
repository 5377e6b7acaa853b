"""Exits, and what is known of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.acceptance import Match
from outrider.core.layers import LayerSet
from outrider.core.tree import chain_parents
from outrider.core.types import NO_IDS, Budget, Draft, Rows, Verified, as_ids
from outrider.drafters import NoDrafter, Qualified
from outrider.drafters.layers.del_ import DynamicExit
from outrider.drafters.layers.exit_rates import Exit, ExitRates, tokens_per_layer
from outrider.models.llama.decoder import Decoder
from outrider.policies import FixedLength
from outrider.protocols import Segment
from outrider.protocols.view import View
from outrider.sampling import Sampler
from tests.drafters.layers.layer_rigs import LAYERS, PROMPTS, request_of
from tests.exactness.setups.rigs import outputs, run, stage

pytestmark = pytest.mark.method("del")


@given(st.floats(0, 1), st.integers(1, 40), st.integers(0, 30), st.integers(2, 60))
def test_tokens_per_layer(rate: float, exit_after: int, length: int, layers: int) -> None:
    assert tokens_per_layer(rate, exit_after, 0, layers) == pytest.approx(1 / layers)
    expected = sum(rate**i for i in range(length + 1)) / (length * exit_after + layers)
    assert tokens_per_layer(rate, exit_after, length, layers) == pytest.approx(expected)
    if length and rate < 0.99:
        assert tokens_per_layer(rate + 0.01, exit_after, length, layers) > expected
    assert tokens_per_layer(rate, exit_after, length, layers, head=1.0) < expected


def test_where_nothing_is_right_nothing_is_drafted() -> None:
    rates = ExitRates(12)
    rates.right[:] = 0.0
    assert rates.best(16) is None
    rates.right[:] = rates.tested
    assert rates.best(0) is None


def test_a_layer_that_is_always_right_drafts_to_the_end() -> None:
    rates = ExitRates(12)
    rates.right[:] = 0.0
    rates.right[1] = rates.tested[1]
    assert rates.best(16) == Exit(2, 16, 0.0)
    assert rates.best(5) == Exit(2, 5, 0.0)
    assert rates.best(16, head=0.5) == Exit(2, 16, 0.0)


def test_rates_fade_and_thresholds_lie_between() -> None:
    rates = ExitRates(4, fade=0.5)
    assert rates.rates.tolist() == [0.5, 0.5, 0.5] and rates.thresholds.tolist() == [0, 0, 0]
    matched = np.array([[True, False], [True, True], [False, True]])
    sure = np.array([[0.8, 0.4], [0.9, 0.7], [0.9, 0.2]])
    rates.note(matched, sure)
    assert rates.right == pytest.approx([1.25, 2.25, 1.25])
    assert rates.tested == pytest.approx([2.5, 2.5, 2.5])
    assert rates.thresholds == pytest.approx([0.6, 0.0, 0.0]), "never wrong; surer when wrong"
    rates.note(~matched[:, :1], sure[:, :1])
    assert rates.right == pytest.approx([0.625, 1.125, 1.625])
    assert rates.tested == pytest.approx([2.25, 2.25, 2.25])
    assert rates.thresholds[0] == pytest.approx((0.8 + (0.2 + 0.8) / 1.5) / 2)


def test_wide_vocabularies_look_at_every_other_layer(model: Decoder) -> None:
    assert DynamicExit(model=model).rates.depths.tolist() == [1, 2, 3, 4, 5]
    wide = DynamicExit(model=model, wide_vocabulary=10, every=1)
    assert wide.rates.depths.tolist() == [1, 3, 5]
    plain = run(stage(model, NoDrafter()), PROMPTS, max_new_tokens=20)
    assert outputs(run(stage(model, wide), PROMPTS, max_new_tokens=20)) == outputs(plain)
    assert (wide.rates.tested > 5).all()


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("right", [0, 1, 3])
def test_statistics_come_from_valid_rows_only(
    model: Decoder, right: int, temperature: float
) -> None:
    """A draft of five tokens whose first `right` are the target's: the rows of the others count
    for nothing, and each layer's rate is what the model left after that layer says."""
    request = request_of(model, temperature=temperature)
    [truth] = run(stage(model, NoDrafter()), PROMPTS[:1], max_new_tokens=6, temperature=temperature)
    tokens = truth.output[:5]
    tokens[right] = (tokens[right] + 1) % 48
    drafter = DynamicExit(model=model, every=1)
    states = drafter.begin([request])
    drafter.propose(states, [NO_IDS], [Budget.chain(3)])
    draft = Draft(tokens=as_ids(tokens), parents=chain_parents(5), sources=("x",) * 5)
    [rows] = model.forward([Segment(request.target_cache, draft.tokens)], [np.arange(-1, 5)])
    sampler = request.sampler
    verdict = Match()(draft, view_of(draft, rows, sampler))
    assert len(verdict.emitted) == right + 1
    drafter.observe(states, [Verified("target", NO_IDS, draft, rows, verdict)])
    matched = []
    for depth in range(1, LAYERS):
        part = model.subset(LayerSet.exit_at(LAYERS, depth))
        [cache] = model.start([request.prompt])
        read = as_ids(verdict.tokens)
        [seen] = part.forward([Segment(cache, read)], [np.arange(-1, len(read))])
        chosen = [
            sampler.choose(seen.logits[i], list(verdict.emitted[:i])) for i in range(right + 1)
        ]
        matched.append(sum(c == t for c, t in zip(chosen, verdict.emitted, strict=True)))
    assert drafter.rates.tested == pytest.approx([0.95 + right + 1] * 5)
    assert drafter.rates.right == pytest.approx(0.95 * 0.5 + np.array(matched))
    cache: Any = request.target_cache
    assert not cache.watched


def view_of(draft: Draft, rows: Rows, sampler: Sampler) -> View:
    from outrider.core.counters import Counters

    return View(
        sampler=sampler,
        generated=[],
        draft=draft,
        rows=rows,
        tier=0,
        name="target",
        model="model",
        ledger=Counters(),
    )


def test_statistics_are_taken_every_so_often(model: Decoder) -> None:
    noted: list[int] = []
    for every in (1, 3):
        drafter = DynamicExit(model=model, every=every, confidence=0.0)
        drafter.rates.fade = 1.0
        [g] = run(stage(model, drafter, window=2), PROMPTS[:1], max_new_tokens=31)
        noted.append(int(drafter.rates.tested[0]) - 1)
        assert noted[-1] <= len(g.output)
    assert 31 >= noted[0] > 25 and noted[0] > 2 * noted[1] > 10


def test_statistics_are_taken_below_a_qualifier(model: Decoder) -> None:
    """Several drafts come before one verification, which is watched for any of them."""
    drafter = DynamicExit(model=model, every=2, confidence=0.0)
    drafter.rates.fade = 1.0
    nest = Qualified(drafter=drafter, qualifier=model, policy=FixedLength(1))
    [g] = run(stage(model, nest, window=6), PROMPTS[:1], max_new_tokens=40)
    assert int(drafter.rates.tested[0]) - 1 > 0.8 * len(g.output)
