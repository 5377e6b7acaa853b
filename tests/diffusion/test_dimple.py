"""Dimple (arXiv 2505.16990): confident decoding, a prompt that is read once, structure priors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.diffusion import Denoising, Drawing, Template
from outrider.diffusion.rules.confident import Confident, scheduled
from outrider.diffusion.rules.low_confidence import LowConfidence
from outrider.diffusion.rules.threshold import Threshold
from tests.diffusion.models import PROMPT, RULES, PairDenoiser, answered

pytestmark = pytest.mark.method("confident")


def sizes(rule: Confident, slots: int = 12, **more: float) -> list[int]:
    return [len(one.slots) for one in answered(rule, slots, **more).trace.rounds]


def test_a_tiny_gamma_commits_all_at_the_first_step() -> None:
    assert sizes(Confident(gamma=1e-9)) == [12]
    assert sizes(Confident(gamma=1e-9, block=4)) == [4, 4, 4]


@pytest.mark.parametrize("confidence", ["probability", "margin", "entropy", "random", "left"])
@pytest.mark.parametrize("steps", [None, 5, 3, 1])
def test_a_gamma_of_one_or_zero_is_the_schedule(steps: int | None, confidence: str) -> None:
    """The schedule by hand: after a step, the ratio of open positions is at most that of the next
    value of linspace(1, 0.001, steps + 1) that allows a token."""
    count = 12 if steps is None else steps
    values, masks, expected = np.linspace(1.0, 1e-3, count + 1), 12, []
    while masks:
        lower = [v for v in values if v < masks / 12 - 1e-12]
        commits = next((int(masks - v * 12 + 1e-9) for v in lower if masks - v * 12 >= 1), masks)
        commits = masks if len(expected) == count - 1 else commits
        expected.append(commits)
        masks -= commits
    for gamma in (1.0, 2.0, 0.0):
        rule = Confident(gamma=gamma, steps=steps, confidence=confidence)
        assert sizes(rule, temperature=0.2) == expected
    if confidence == "left":
        assert answered(rule).trace.slots == list(range(12))


@given(
    slots=st.integers(1, 16),
    steps=st.integers(1, 16),
    gamma=st.floats(0.0, 1.2),
    block=st.sampled_from([None, 8]),
)
def test_forwards_are_at_most_the_steps(
    slots: int, steps: int, gamma: float, block: int | None
) -> None:
    steps = max(steps, 2) if block and slots > block else steps
    rule = Confident(gamma=gamma, steps=steps, block=block)
    assert answered(rule, slots, temperature=0.5).trace.forwards <= steps


def test_the_schedule_of_one_step_commits_everything() -> None:
    assert scheduled(9, 9, 1) == 8, "the last value leaves one"
    assert scheduled(1, 9, 9) == 1
    assert scheduled(10, 10, 5) == 1 and scheduled(10, 10, 2) == 4


def test_all_above_gamma_are_committed_before_temperature() -> None:
    request = answered(Confident(gamma=0.4), 20, temperature=0.2)
    above = [one for one in request.trace.rounds if (one.probs > 0.4).any()]
    assert len(request.trace) < 20, "no round is the last step"
    assert any(len(one.slots) > 1 for one in above)
    for one in above:
        assert (one.probs > 0.4).all()


@pytest.mark.parametrize("name", RULES)
def test_fixed_slots_survive(name: str) -> None:
    template = Template(([4, 4], 3, [5], 4, [1, 2]))
    assert template.length == 12
    assert template.fixed == {0: 4, 1: 4, 5: 5, 10: 1, 11: 2}
    request = Denoising(
        PairDenoiser(),
        PROMPT,
        RULES[name](block=4),
        max_new_tokens=template.length,
        fixed=template.fixed,
    )
    assert request.prefix == [4, 4]
    tokens, trace = request.run()
    assert {slot: tokens[slot] for slot in template.fixed} == template.fixed
    assert sorted(trace.slots) == [2, 3, 4, 6, 7, 8, 9]


def test_a_fixed_end_token_ends_the_answer() -> None:
    model = PairDenoiser(end_ids=(5,))
    request = Denoising(
        model, PROMPT, Threshold(block=4, suppress="logit"), max_new_tokens=12, fixed={6: 5}
    )
    tokens, _ = request.run()
    assert len(tokens) == 7 and tokens[6] == 5
    assert max(max(rows) for rows in model.read_rows) == 3 + 6


@pytest.mark.parametrize("fixed", [{12: 1}, {-1: 1}, {2: 6}, {2: 99}, {1: 5, 3: 2}])
def test_fixed_tokens_are_checked(fixed: dict[int, int]) -> None:
    model = PairDenoiser(end_ids=(5,))
    with pytest.raises(OptionError):
        Denoising(model, PROMPT, Threshold(block=4), max_new_tokens=12, fixed=fixed)
    with pytest.raises(OptionError, match="open slots"):
        Template(([1], -2))


def test_blocks_without_open_slots_are_skipped() -> None:
    fixed = dict.fromkeys(range(4, 8), 2)
    rule = LowConfidence(block=4, steps=6)
    request = Denoising(PairDenoiser(), PROMPT, rule, max_new_tokens=12, fixed=fixed)
    assert sorted(request.run()[1].slots) == [0, 1, 2, 3, 8, 9, 10, 11]
    whole = Denoising(
        PairDenoiser(), PROMPT, rule, max_new_tokens=4, fixed=dict.fromkeys(range(4), 1)
    )
    assert whole.done and whole.run()[0] == [1] * 4 and len(whole.trace) == 0


def test_the_prompt_is_computed_once_and_never_sees_the_answer() -> None:
    """Images are rows of the prompt. The counter is that of all rows that the model has read."""
    model = PairDenoiser()
    request = Denoising(model, PROMPT, Confident(cache="prompt", steps=6), max_new_tokens=12)
    request.run()
    times = [sum(position in rows for rows in model.read_rows) for position in range(15)]
    assert times[:3] == [1, 1, 1]
    assert model.read_rows[0] == [0, 1, 2], "alone, before the first round"
    assert all(rows == list(range(3, 15)) for rows in model.read_rows[1:])
    trace = request.trace
    assert trace.forwards == len(trace) + 1 == model.forwards and len(trace) <= 6
    assert trace.rows == 3 + 12 * len(trace) == model.rows
    assert trace.forwards_before == 1 and trace.rows_before == 3
    empty = PairDenoiser()
    Denoising(empty, [], Confident(cache="prompt", steps=6), max_new_tokens=12).run()
    assert all(rows for rows in empty.read_rows)


def test_settings_of_the_paper() -> None:
    drawing = Drawing(temperature=0.2, top_p=0.95, seed=1)
    request = Denoising(PairDenoiser(), PROMPT, Confident(), max_new_tokens=30, drawing=drawing)
    _, trace = request.run()
    assert len(trace) < 30 and trace.tokens == 30
