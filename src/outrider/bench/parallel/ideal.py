"""The closed forms, measured with a denoiser whose predictions are the exact conditionals.

A perfect model loses on these tasks only what the rule loses: all positions in one round succeed as
often as the closed form says, and one token a round always succeeds.
"""

from collections.abc import Sequence
from math import sqrt

from outrider.core.values import JsonValue
from outrider.diffusion.denoising import Denoising
from outrider.diffusion.drawing import Drawing
from outrider.diffusion.parallel.closed_forms import FORMS, ClosedForm, closed_form
from outrider.diffusion.rules.low_confidence import LowConfidence
from outrider.models.denoisers.tabular import TabularDenoiser


def ideal_rows(
    sizes: Sequence[int] = (3, 4, 5, 6), draws: int = 200, seed: int = 0
) -> list[dict[str, JsonValue]]:
    """Return a row for each form and size: success in one round, in two, and of one token a round.

    Args:
        sizes: names of the lists.
        draws: answers of each row.
        seed: seed of the draws.
    """
    return [_row(closed_form(name, n), draws, seed) for name in FORMS for n in sizes]


def success(form: ClosedForm, steps: int | None, draws: int, seed: int = 0) -> float:
    """Return the share of answers that are correct when a model of the exact conditionals writes
    them in so many rounds, at temperature 1; None: one token a round, in random order."""
    model = TabularDenoiser(form.joint, vocab_size=form.n + 1)
    right = {tuple(text) for text in form.joint.texts.tolist()}
    rule = LowConfidence(steps=steps, confidence="random", block=None)
    found = 0
    for number in range(draws):
        drawing = Drawing(temperature=1.0, seed=seed + number)
        request = Denoising(model, (), rule, max_new_tokens=form.n, drawing=drawing)
        ids, _ = request.run()
        found += tuple(ids) in right
    return found / draws


def _row(form: ClosedForm, draws: int, seed: int) -> dict[str, JsonValue]:
    expected = form.success
    return {
        "form": form.name,
        "n": form.n,
        "correlation": form.correlation,
        "expected": expected,
        "one_round": success(form, 1, draws, seed),
        "error": sqrt(expected * (1 - expected) / draws),
        "two_rounds": success(form, 2, draws, seed),
        "one_token": success(form, None, draws, seed),
        "draws": draws,
    }
