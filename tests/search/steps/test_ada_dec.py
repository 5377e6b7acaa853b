"""AdaDec: greedy decoding that looks ahead where the entropy is high."""

import math

import pytest
import torch

from outrider.core.errors import OptionError
from outrider.search.steps.ada_dec import AdaDec
from outrider.search.steps.lookahead import best_tokens
from outrider.search.steps.threshold import Observation, fitted, logistic, observed
from outrider.testing.rigs import tabular_family
from outrider.testing.searches import END, searched

pytestmark = pytest.mark.method("ada-dec")

MODELS = [tabular_family(seed=seed).target for seed in range(6)]
PROMPT = (1, 2, 3)
LENGTH = 14


def row(model, text) -> torch.Tensor:
    return model.logits_after((*PROMPT, *text)).log_softmax(-1)


def greedy(model, text, count) -> tuple[list[int], float]:
    """Greedy tokens after a text up to the end, and their log-probability."""
    found: list[int] = []
    total = 0.0
    while len(found) < count and [*text, *found][-1:] != [END]:
        best = row(model, [*text, *found])
        found.append(int(best.argmax()))
        total += float(best.max())
    return found, total


def by_hand(model, theta: float, branches: int, lookahead: int) -> tuple[list[int], int]:
    """The text of AdaDec token by token, each continuation read anew; and its pauses."""
    text: list[int] = []
    pauses = 0
    while len(text) < LENGTH and text[-1:] != [END]:
        own = row(model, text)
        token = int(own.argmax())
        if float(-(own.exp() * own).sum()) >= theta:
            pauses += 1
            scores = {}
            for first in own.topk(branches).indices.tolist():
                rest, total = greedy(model, [*text, first], min(lookahead, LENGTH - len(text) - 1))
                scores[first] = (float(own[first]) + total) / (1 + len(rest))
            token = max(scores, key=lambda one: scores[one])
        text.append(token)
    return text, pauses


@pytest.mark.parametrize("reuse", [True, False])
def test_the_text_is_that_of_the_definition(reuse: bool) -> None:
    differ = 0
    for model in MODELS:
        for theta, branches, lookahead in [(0.0, 3, 4), (1.2, 3, 5), (1.4, 2, 1), (1.0, 7, 2)]:
            strategy = AdaDec(theta=theta, branches=branches, lookahead=lookahead, reuse=reuse)
            found = searched(strategy, model, PROMPT, max_new_tokens=LENGTH)
            text, pauses = by_hand(model, theta, branches, lookahead)
            assert list(found.best.token_ids) == text
            assert found.best.about["pauses"] == pauses
            differ += text != greedy(model, [], LENGTH)[0]
    assert differ > 8  # otherwise nothing was tested


@pytest.mark.parametrize(
    "options", [{"theta": math.inf}, {"branches": 1, "theta": 0.0}, {"lookahead": 0, "theta": 0.0}]
)
def test_without_pauses_branches_or_lookahead_it_is_greedy_decoding(options) -> None:
    for model in MODELS:
        found = searched(AdaDec(**options), model, PROMPT, max_new_tokens=LENGTH)
        text, logprob = greedy(model, [], LENGTH)
        assert list(found.best.token_ids) == text
        assert found.best.logprob == pytest.approx(logprob)
        assert found.best.about == {"pauses": 0, "kept": 0}
        assert found.tokens == len(text)  # no row for a candidate


def test_pauses_fall_as_the_threshold_grows() -> None:
    pauses = [
        sum(
            int(str(searched(AdaDec(theta=theta), model, PROMPT).best.about["pauses"]))
            for model in MODELS
        )
        for theta in (0.0, 0.8, 1.2, 1.5, 2.0)
    ]
    assert pauses == sorted(pauses, reverse=True) and pauses[0] > pauses[2] > pauses[-1] == 0


def test_keeping_the_continuation_saves_forwards_and_leaves_the_text_unchanged() -> None:
    saved = 0
    for model in MODELS:
        own = AdaDec(theta=1.3, lookahead=4)
        kept = searched(own, model, PROMPT, ignore_eos=True, max_new_tokens=40)
        fresh = searched(
            AdaDec(theta=1.3, lookahead=4, reuse=False),
            model,
            PROMPT,
            ignore_eos=True,
            max_new_tokens=40,
        )
        assert kept.best.token_ids == fresh.best.token_ids
        assert kept.best.logprob == pytest.approx(fresh.best.logprob)
        assert kept.best.about["pauses"] == fresh.best.about["pauses"]
        assert kept.forwards <= fresh.forwards and fresh.best.about["kept"] == 0
        saved += fresh.forwards - kept.forwards
    assert saved > 10


def test_the_score_is_that_of_teacher_forcing() -> None:
    for model in MODELS:
        found = searched(AdaDec(theta=1.1), model, PROMPT)
        tokens = found.best.token_ids
        total = sum(float(row(model, tokens[:i])[token]) for i, token in enumerate(tokens))
        assert found.best.logprob == pytest.approx(total, abs=1e-9)
        assert found.best.score == pytest.approx(total / len(tokens), abs=1e-9)


def test_penalties_and_bans_hold_in_continuations() -> None:
    kept = 0
    for model in MODELS:
        for theta in (0.0, 1.2):
            given = {"banned_tokens": (0, 4), "frequency_penalty": 0.9}
            found = searched(AdaDec(theta=theta), model, PROMPT, **given)
            assert not {0, 4} & set(found.best.token_ids)
            alone = searched(AdaDec(theta=theta, reuse=False), model, PROMPT, **given)
            assert alone.best.token_ids == found.best.token_ids
            assert alone.best.about["pauses"] == found.best.about["pauses"]
            kept += int(str(found.best.about["kept"]))
    assert kept > 10


def test_candidates_are_the_best_allowed_tokens() -> None:
    assert best_tokens(torch.tensor([0.5, -math.inf, 1.0]), 3) == [2, 0]
    assert best_tokens(torch.tensor([0.5, 0.7, 1.0]), 2) == [2, 1]


def test_observations_are_those_of_teacher_forcing() -> None:
    model = MODELS[0]
    solution = (4, 1, 0, 2, 6, 5)
    found = observed(model, PROMPT, solution)
    for i, one in enumerate(found):
        own = row(model, solution[:i])
        assert one.entropy == pytest.approx(float(-(own.exp() * own).sum()), abs=1e-9)
        assert one.right == (int(own.argmax()) == solution[i])
    assert observed(model, PROMPT, ()) == []


def test_the_threshold_separates_right_from_wrong() -> None:
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(4000, generator=generator).tolist()
    observations = [Observation(0.3 + 0.2 * abs(x), True) for x in draws[:3000]]
    observations += [Observation(2.0 + 0.2 * x, False) for x in draws[3000:]]
    found = fitted(observations)
    assert 0.9 < found.theta < 1.7
    assert found.accuracy > 0.99 and found.positions == 2000
    shifted = fitted([Observation(one.entropy + 1, one.right) for one in observations])
    assert shifted.theta == pytest.approx(found.theta + 1, abs=0.1)
    with pytest.raises(OptionError, match="not larger where the best token is wrong"):
        fitted([Observation(one.entropy, not one.right) for one in observations])
    with pytest.raises(OptionError, match="2 right and 0 wrong"):
        fitted(observations[:2])


def test_the_regression_is_at_the_minimum_of_its_loss() -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(300, generator=generator, dtype=torch.float64)
    labels = (torch.rand(300, generator=generator) < torch.sigmoid(2 * values - 1)).double()
    found = logistic(values.numpy(), labels.numpy())

    def loss(slope: float, shift: float) -> float:
        scores = slope * values + shift
        own = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels, reduction="sum")
        return float(own) + 0.5 * slope**2

    least = loss(*found)
    for near in [(1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)]:
        assert loss(found[0] + near[0], found[1] + near[1]) > least


def test_options_out_of_range_are_refused() -> None:
    for options in ({"theta": -1.0}, {"branches": 0}, {"lookahead": -1}):
        with pytest.raises(OptionError):
            AdaDec(**options)
