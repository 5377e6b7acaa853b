"""The distribution of what `Rejection` emits, in one and two steps, against the distribution it
should have."""

from dataclasses import dataclass, field, fields

import numpy as np
import pytest
import torch
from torch import Tensor

from outrider.acceptance import Rejection
from outrider.core.types import Draft, Draw, Exactness, Verdict
from outrider.protocols.view import View
from outrider.sampling.noise import Purpose
from tests.acceptance.hand import chain, random_logits, surplus, total_variation, tree, view

pytestmark = pytest.mark.method("rejection")

TARGET = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
FAR = torch.tensor([0.4, 0.4, 0.1, 0.1], dtype=torch.float64)
LOGITS = TARGET.log().expand(2, 4)
STEPS = 40


def probs(*shares: float) -> Tensor:
    return torch.tensor(shares, dtype=torch.float64)


def judge(draft: Draft, seen: View) -> Verdict:
    return Rejection()(draft, seen)


@dataclass
class Spread(View):
    """Shows which distribution a token would be drawn from, at a chosen acceptance test."""

    test: float = 0.5
    probs_drawn: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))

    def uniform(self, node: int, sibling: int = 0) -> float:
        return self.test

    def draw(self, probs: Tensor, node: int, purpose: Purpose) -> int:
        self.probs_drawn = probs / probs.sum()
        return int(probs.argmax())


def first_probs(draft: Draft) -> Tensor:
    """The exact distribution (to 1 / STEPS) of the first token emitted for a given draft."""
    out = torch.zeros(4, dtype=torch.float64)
    base = view(draft, LOGITS[: len(draft) + 1], temperature=1.0)
    parts = {f.name: getattr(base, f.name) for f in fields(View) if f.init}
    for step in range(STEPS):
        seen = Spread(**parts, test=(step + 0.5) / STEPS)
        verdict = judge(draft, seen)
        if verdict.path:
            out[verdict.tokens[0]] += 1 / STEPS
        else:
            out += seen.probs_drawn / STEPS
    return out


def emitted_probs(really: Tensor, claimed: Tensor) -> Tensor:
    drafts = [chain([x], probs=[claimed]) for x in range(len(really))]
    return sum(
        (float(p) * first_probs(d) for p, d in zip(really, drafts, strict=True) if p > 0),
        torch.zeros(4, dtype=torch.float64),
    )


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().sum() / 2)


EXACTLY = 1 / STEPS


@pytest.mark.parametrize(
    "drafted",
    [
        FAR,
        probs(0.25, 0.25, 0.25, 0.25),
        probs(0.5, 0.0, 0.0, 0.5),
        probs(0.5, 0.3, 0.2),
        probs(0.2, 0.1, 0.1, 0.2, 0.3, 0.1),
        TARGET,
    ],
    ids=["far", "flat", "holes", "narrow", "wide", "equal"],
)
def test_emits_the_targets_distribution(drafted: Tensor) -> None:
    assert distance(emitted_probs(drafted, drafted), TARGET) < EXACTLY


@pytest.mark.parametrize("distributions", [[None], None])
@pytest.mark.parametrize("token", [0, 3, 6])
def test_emits_the_targets_distribution_for_point_masses(
    token: int, distributions: list | None
) -> None:
    draft = chain([token], probs=distributions, draw=Draw.DETERMINISTIC)
    assert distance(first_probs(draft), TARGET) < EXACTLY


def test_emits_the_targets_distribution_without_a_usable_draft() -> None:
    assert distance(first_probs(chain([])), TARGET) < 1e-9
    broken = chain([2], probs=[torch.full((4,), torch.nan)])
    assert distance(first_probs(broken), TARGET) < 1e-9


@pytest.mark.parametrize(
    ("really", "claimed"),
    [
        (FAR, TARGET),
        (FAR, probs(0.25, 0.25, 0.25, 0.25)),
        (FAR, FAR.flip(0)),
        (probs(1, 0, 0, 0), FAR),
    ],
    ids=["the target's", "flat", "mirrored", "greedy claimed as drawn"],
)
def test_a_false_distribution_shows(really: Tensor, claimed: Tensor) -> None:
    assert distance(emitted_probs(really, claimed), TARGET) > 4 * EXACTLY


def sampled(claimed: Tensor, samples: int = 700) -> np.ndarray:
    """First tokens emitted with the real noise, the draft drawn on a tier of its own."""
    counts = np.zeros(4)
    for sample in range(samples):
        empty = view(chain([]), LOGITS, temperature=1.0, sample=sample, tier=7)
        draft = chain([empty.draw(FAR, -1, Purpose.CHOICE)], probs=[claimed])
        seen = view(draft, LOGITS, temperature=1.0, sample=sample)
        counts[judge(draft, seen).emitted[0]] += 1
    return counts


@pytest.mark.usefixtures("unchecked")
def test_the_noise_of_its_decisions_is_independent() -> None:
    assert surplus(sampled(FAR), TARGET.numpy()) < 3.5
    lied = sampled(FAR.flip(0))
    assert surplus(lied, TARGET.numpy()) > 8
    assert total_variation(lied, TARGET.numpy()) > 0.1


@pytest.mark.usefixtures("unchecked")
def test_joint_distribution_of_two_steps() -> None:
    tables = random_logits(8, 3, seed=4, scale=1.0)
    target, drafter = tables[:4], tables[4:]  # row 0 after the text, row 1 + x after token x
    counts = np.zeros((3, 3))
    for sample in range(700):
        options = {"temperature": 0.9, "sample": sample}
        at = [view(chain([]), drafter[:1], tier=7, **options)]
        first = at[0].draw(at[0].probs(-1), -1, Purpose.CHOICE)
        second_view = view(
            chain([]), drafter[1 + first : 2 + first], tier=7, generated=[first], **options
        )
        second = second_view.draw(second_view.probs(-1), -1, Purpose.CHOICE)
        draft = chain([first, second], probs=[at[0].probs(-1), second_view.probs(-1)])
        rows = torch.stack((target[0], target[1 + first], target[1 + second]))
        out = list(judge(draft, view(draft, rows, **options)).emitted)
        if len(out) == 1:
            empty = chain([])
            again = view(empty, target[1 + out[0]][None], generated=out, **options)
            out += judge(empty, again).emitted
        counts[out[0], out[1]] += 1
    at = [view(chain([]), row[None], temperature=0.9).probs(-1) for row in target]
    joint = torch.stack([at[0][x] * at[1 + x] for x in range(3)])
    assert surplus(counts, joint.numpy()) < 3.5


def test_equal_distributions_are_accepted_whatever_the_rounding() -> None:
    for sample in range(40):
        draft = chain([sample % 4], probs=[TARGET * (1 - 1e-16)])
        seen = view(draft, LOGITS, temperature=1.0, sample=sample)
        assert judge(draft, seen).path == (0,)
    # Where rounding refuses anyway, the residual is empty and the target's distribution serves.
    refused = view(chain([0]), LOGITS, temperature=1.0)
    parts = {f.name: getattr(refused, f.name) for f in fields(View) if f.init}
    draft = chain([0], probs=[TARGET * (1 + 1e-9)])
    seen = Spread(**{**parts, "draft": draft}, test=1 - 1e-12)
    assert not judge(draft, seen).path
    assert distance(seen.probs_drawn, TARGET) < 1e-9


def test_temperature_zero_is_match() -> None:
    logits = torch.eye(4, dtype=torch.float64)[[2, 1, 0]]
    draft = chain([2, 3], probs=[torch.eye(4)[2].double(), torch.eye(4)[3].double()])
    assert judge(draft, view(draft, logits)).emitted == (2, 1)


def test_reports_the_targets_distribution_and_ends_at_end_tokens() -> None:
    logits = TARGET.log().expand(3, 4)
    draft = chain([3, 3], probs=[TARGET, TARGET])
    seen = view(draft, logits, temperature=1.0, end_ids=(3,))
    verdict = Rejection(with_probs=True)(draft, seen)
    assert verdict.emitted == (3,) and verdict.next_token is None
    [reported] = verdict.distributions
    assert reported is not None and torch.allclose(reported, TARGET)


def test_judges_first_children_only() -> None:
    draft = tree([0, 3], [-1, -1], probs=[probs(1, 0, 0, 0), probs(0, 0, 0, 1)])
    one_hot = torch.eye(4, dtype=torch.float64)[[3, 0, 0]]
    verdict = judge(draft, view(draft, one_hot))
    assert verdict.path == () and verdict.emitted == (3,)


def test_what_it_promises() -> None:
    rule = Rejection()
    assert rule.exactness is Exactness.DISTRIBUTION and rule.tracks_probs
    assert rule.needs.probs and not rule.needs.reference
    assert rule.draws == {Draw.DETERMINISTIC, Draw.IID}
