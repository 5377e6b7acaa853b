"""The training of a filter on rounds, and the errors that are counted."""

import pytest
import torch
from torch import Tensor

from outrider.training.unmasking.fit import Examples, Fitting, errors, fit, loss_of
from outrider.training.unmasking.oracle import Seen

BLOCK = 6


def examples(count: int, seed: int = 0) -> Examples:
    """Rounds in which predictions are right where their confidence and the next one are high."""
    random = torch.Generator().manual_seed(seed)

    def one() -> Seen:
        sure = torch.rand(BLOCK, generator=random)
        correct = sure + 0.6 * sure.roll(-1) > 0.8
        masked = torch.rand(BLOCK, generator=random) < 0.6
        return Seen(sure, correct, torch.ones(BLOCK, dtype=torch.bool), masked)

    return Examples.of([[one() for _ in range(1 + i % 3)] for i in range(count)])


def test_rounds_of_an_answer_stay_in_one_part() -> None:
    rows = examples(40)
    parts = rows.split(0)
    texts = [set(part.texts.tolist()) for part in parts]
    assert [len(part) for part in texts] == [32, 4, 4]
    assert set.union(*texts) == set(range(40))
    assert sum(map(len, parts)) == len(rows) == sum(1 + i % 3 for i in range(40))
    assert texts != [set(part.texts.tolist()) for part in rows.split(1)]


def test_a_filter_learns_what_single_confidences_do_not_say() -> None:
    train, validation, test = examples(900).split(0)
    fitting = Fitting(steps=600, evaluate_every=50, learning_rate=0.02)
    found, losses = fit(train, validation, "abc", fitting)
    assert (found.fingerprint, found.block) == ("abc", BLOCK)
    assert not any(weight.requires_grad for weight in found.weights.values())
    assert float(loss_of(found, validation)) == pytest.approx(min(losses))
    assert min(losses) < 0.6 * losses[0]
    own = errors(found(test.confidences) > 0.9, test)
    plain = errors(test.confidences > 0.5, test)
    assert own.false_positives < 0.05 < plain.false_positives
    assert own.recall > 0.5
    assert own.precision > 0.9 > plain.precision


def test_the_best_weights_of_the_validation_rows_stay() -> None:
    """With labels at random and few rows, later weights are worse for rows that were held out."""
    rows = examples(30)
    random = torch.Generator().manual_seed(1)
    labels = torch.rand(rows.correct.shape, generator=random) < 0.5
    noisy = Examples(rows.confidences, labels, rows.within, rows.masked, rows.texts)
    train, validation, _ = noisy.split(0)
    fitting = Fitting(steps=1500, evaluate_every=25, learning_rate=0.03)
    found, losses = fit(train, validation, "", fitting)
    assert losses[-1] > 1.2 * min(losses)
    assert float(loss_of(found, validation)) == pytest.approx(min(losses))


def test_positions_behind_an_answer_have_no_labels() -> None:
    rows = examples(10)
    within = rows.within.clone()
    within[:, 4:] = False
    short = Examples(rows.confidences, rows.correct, within, rows.masked & within, rows.texts)
    flipped = torch.where(within, rows.correct, ~rows.correct)
    other = Examples(rows.confidences, flipped, within, rows.masked & within, rows.texts)
    found, _ = fit(short, short, "", Fitting(steps=5))
    assert torch.equal(loss_of(found, short), loss_of(found, other))
    assert not torch.equal(loss_of(found, rows), loss_of(found, short))


def test_errors_are_counted_at_masked_positions() -> None:
    def flags(text: str) -> Tensor:
        return torch.tensor([[one == "1" for one in text]])

    rows = Examples(
        confidences=torch.zeros(1, 8),
        correct=flags("11100011"),
        within=flags("11111111"),
        masked=flags("11111100"),
        texts=torch.tensor([0]),
    )
    found = errors(flags("11010011"), rows)
    assert found.false_positives == pytest.approx(1 / 3)
    assert found.recall == found.precision == pytest.approx(2 / 3)
    assert found.positions == 6
    nothing = errors(flags("00000000"), rows)
    assert (nothing.false_positives, nothing.recall, nothing.precision) == (0, 0, 1)
