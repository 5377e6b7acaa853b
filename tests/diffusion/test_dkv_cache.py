"""dKV-Cache (arXiv 2505.15781): rows are stored one round after their tokens are committed."""

import numpy as np
import pytest

from outrider.diffusion import caching
from outrider.diffusion.caching import DelayedCache, Plan, Situation
from outrider.diffusion.rules.low_confidence import LowConfidence
from outrider.diffusion.rules.threshold import Threshold
from outrider.models.denoisers.runner import MaskedDenoiser
from tests.diffusion.models import PROMPT, Denoising, PairDenoiser, answered
from tests.diffusion.test_fast_dllm import runners, worst

__all__ = ["runners"]

pytestmark = pytest.mark.method("low-confidence")


@pytest.mark.parametrize("cache", ["delayed", "greedy"])
def test_a_refresh_every_round_is_no_cache(cache: str, runners: dict[int, MaskedDenoiser]) -> None:
    def run(**more: str | int) -> Denoising:
        rule = LowConfidence(block=6, confidence="random", steps=9, **more)
        request = Denoising(runners[2], [5, 6, 7], rule, max_new_tokens=14)
        request.run()
        return request

    plain, cached = run(), run(cache=cache, refresh=1)
    assert cached.prefix == plain.prefix and cached.trace.slots == plain.trace.slots
    assert cached.trace.rows == plain.trace.rows


@pytest.mark.parametrize("cache", ["delayed", "greedy"])
def test_one_layer_is_exact_and_two_are_approximate(
    cache: str, runners: dict[int, MaskedDenoiser]
) -> None:
    exact, request = worst(runners[1], cache=cache, confidence="random")
    assert exact < 1e-12
    assert request.trace.rows < 13 * 16
    assert worst(runners[2], cache=cache, confidence="random")[0] > 1e-5


class AtOnce(DelayedCache):
    """Stores the rows of masks, as if a token could be cached when it is committed."""

    def plan(self, now: Situation) -> Plan:
        """Return the rows of the forward that begins a round."""
        every = np.arange(now.length)
        if self.whole(now):
            return Plan(keep=every, fresh=True)
        return Plan(rows=np.flatnonzero(~now.held), keep=np.flatnonzero(~now.held))


def test_caching_when_a_token_is_committed_is_badly_wrong(
    monkeypatch: pytest.MonkeyPatch, runners: dict[int, MaskedDenoiser]
) -> None:
    """Also with one layer: the stored row is that of the mask."""
    monkeypatch.setitem(caching._MODES, "delayed", AtOnce)
    assert worst(runners[1], cache="delayed")[0] > 1e-2


def test_the_rows_of_each_round() -> None:
    """Round t computes what was not committed two rounds before, and reads all other rows."""
    model = PairDenoiser()
    request = Denoising(model, PROMPT, LowConfidence(block=6, cache="delayed"), max_new_tokens=6)
    committed = [{0, 1, 2}]
    while not request.done:
        store = request._reader.stored.tolist()
        one = request.step()
        rows = set(model.read_rows[-1])
        round_number = len(committed) - 1
        if round_number < 2:
            assert rows == set(range(9))
        else:
            assert rows == set(range(9)) - committed[round_number - 1]
            assert set(store) == committed[round_number - 1]
            assert len(rows) + len(store) == 9, "computed and stored rows together are all rows"
        committed.append(committed[-1] | {slot + 3 for slot in one.slots.tolist()})
    assert [len(rows) for rows in model.read_rows] == [9, 9, 5, 4, 3, 2]


@pytest.mark.parametrize(("refresh", "whole"), [(0, [0, 1]), (4, [0, 1, 4]), (3, [0, 1, 3, 6])])
def test_whole_forwards(refresh: int, whole: list[int]) -> None:
    model = PairDenoiser()
    rule = LowConfidence(block=7, cache="delayed", refresh=refresh)
    Denoising(model, PROMPT, rule, max_new_tokens=14).run()
    sizes = [len(rows) for rows in model.read_rows]
    full = [place for place, size in enumerate(sizes) if size == 17]
    assert full == whole + [place + 7 for place in whole]


@pytest.mark.method("threshold")
def test_a_model_of_one_layer_in_effect_writes_the_same_answer() -> None:
    for temperature in (0.0, 0.7):
        plain, cached = (
            answered(Threshold(block=8, threshold=0.7, cache=cache), 20, temperature=temperature)
            for cache in ("none", "delayed")
        )
        assert cached.prefix == plain.prefix
        assert cached.trace.rows < plain.trace.rows


def test_greedy_computes_few_rows_beside_those_it_commits() -> None:
    model = PairDenoiser()
    rule = LowConfidence(block=None, confidence="random", cache="greedy")
    request = Denoising(model, PROMPT, rule, max_new_tokens=20)
    request.run()
    plain = answered(LowConfidence(block=None, confidence="random"), 20)
    assert request.prefix == plain.prefix and request.trace.slots == plain.trace.slots
    sizes = [len(rows) for rows in model.read_rows]
    assert sizes[:2] == [23, 23] and max(sizes[2:]) <= 1 + 1 + 4
    order = request.trace.slots
    for number, rows in enumerate(model.read_rows[2:], start=2):
        assert {order[number] + 3, order[number - 1] + 3} <= set(rows)
