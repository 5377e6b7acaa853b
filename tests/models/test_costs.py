"""Timing forwards."""

from dataclasses import replace

import pytest

from outrider.core.errors import OptionError
from outrider.models.costs import forward_seconds, measure_costs
from outrider.models.tabular import TabularModel


class Recording:
    """A tabular model that notes how many rows each forward was asked for, behind what."""

    def __init__(self, model: TabularModel, context_length: int = 64) -> None:
        self.model, self.info = model, replace(model.info, context_length=context_length)
        self.seen: list[tuple[int, int]] = []

    def __getattr__(self, name: str):
        return getattr(self.model, name)

    def forward(self, segments, want):
        [segment] = segments
        if len(want[0]):
            self.seen.append((len(segment.cache.text), len(want[0])))
            assert len(segment.tokens) == len(want[0]) - 1
            assert not segment.cache.fed, "the round before was forgotten"
        return self.model.forward(segments, want)


@pytest.fixture
def model() -> TabularModel:
    return TabularModel.random(vocab_size=7, order=2, seed=0)


def test_every_width_is_timed_in_turn(model: TabularModel) -> None:
    recording = Recording(model)
    seconds = forward_seconds(recording, (1, 2, 4), context=20, repeats=3)
    assert list(seconds) == [1, 2, 4]
    assert all(s > 0 for s in seconds.values())
    assert recording.seen == [(21, n) for _ in range(4) for n in (1, 2, 4)]


def test_context_is_clipped_to_the_window(model: TabularModel) -> None:
    recording = Recording(model, context_length=10)
    assert list(forward_seconds(recording, (1, 4, 8, 16), repeats=1)) == [1, 4, 8]
    assert {text for text, _ in recording.seen} == {3}


def test_a_limit_leaves_one_run_of_each(model: TabularModel) -> None:
    recording = Recording(model)
    forward_seconds(recording, (1, 2), context=5, repeats=100, limit=0.0)
    assert [n for _, n in recording.seen] == [1, 2, 1, 2]


def test_narrow_widths_are_repeated_within_ten_limits(model: TabularModel) -> None:
    recording = Recording(model)
    forward_seconds(recording, (1, 16), context=5, repeats=9, limit=1e-9, least=3)
    assert [n for _, n in recording.seen] == [1, 16, 1, 16]  # ten limits are over as well
    recording.seen.clear()

    class Clock:
        now = 0.0

        def __call__(self) -> float:
            Clock.now += 1.0
            return Clock.now

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("outrider.models.costs.perf_counter", Clock())
        forward_seconds(recording, (1, 16), context=5, repeats=9, limit=5.0, least=3)
    assert [n for _, n in recording.seen] == [1, 16, 1, 16, 1, 1]


def test_a_curve_of_a_model(model: TabularModel) -> None:
    curve = measure_costs(model, (1, 2, 4), limit=0.01)
    assert curve.seconds(4) >= curve.seconds(1) > 0


def test_no_window_no_curve(model: TabularModel) -> None:
    with pytest.raises(OptionError, match=r"has a context of 1, too few tokens to measure"):
        measure_costs(Recording(model, context_length=1))
