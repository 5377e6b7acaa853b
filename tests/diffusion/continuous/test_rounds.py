"""Rounds over values: edges, seeds, faulty densities, and counts."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from outrider.core.errors import LogitsError, OptionError, OutriderWarning, StrategyError
from outrider.diffusion.continuous import rules
from outrider.diffusion.continuous.cspd import METHOD, CSpD
from outrider.diffusion.continuous.residual import Correction
from outrider.diffusion.continuous.scalar import ScalarModel
from outrider.diffusion.continuous.values import Densities
from tests.diffusion.continuous.setups import (
    DRAFT,
    TARGET,
    distances,
    model,
    numbers,
    written,
)

EAGER = CSpD(prefill=0.0, length=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faulty(ScalarModel):
    """Some of its densities are NaN."""

    share: float = 0.5

    def denoise(self, states: torch.Tensor, noise: torch.Tensor) -> Densities:
        found = ScalarModel.denoise(self, states, noise)
        bad = noise[..., 0, :] < math.sqrt(2) * torch.erfinv(torch.tensor(2 * self.share - 1))
        return Densities(torch.where(bad, math.nan, found.mean), found.std, found.log_spread)


def test_the_same_seed_gives_the_same_sequences() -> None:
    first, again = (numbers(written(EAGER, 40, 5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, numbers(written(EAGER, 40, 6)))
    few = numbers(written(EAGER, 10, 5))
    assert torch.equal(few, first[:10]), "a sequence does not depend on the others"


def test_lengths_that_nothing_is_left_for() -> None:
    whole = numbers(written(replace(EAGER, length=9), 100, 5))
    assert torch.equal(whole, numbers(written(replace(EAGER, length=1000), 100, 5)))
    for one in written(replace(EAGER, length=9), 100, 5):
        assert one.counts.drafted <= 2 + 1  # a second draft only after a rejection
        assert one.counts.accepted + one.counts.target_forwards == 3


def test_a_sequence_of_one_value_is_the_target_s() -> None:
    short, small = replace(TARGET, length=1), replace(DRAFT, length=1)
    own = written(CSpD(), 50, 5, draft=None, target=short)
    found = written(EAGER, 50, 5, target=short, draft=small)
    assert torch.equal(numbers(own), numbers(found))
    assert all(one.counts.drafted == 0 and one.counts.target_forwards == 1 for one in found)


def test_the_target_alone_is_the_same_loop_with_drafts_of_nothing() -> None:
    own = numbers(written(CSpD(), 50, 5, draft=None))
    for method in (replace(EAGER, length=0), CSpD(prefill=1.0)):
        assert torch.equal(own, numbers(written(method, 50, 5)))


def test_counts_sum_up() -> None:
    found = written(replace(EAGER, length=4), 300, 5)
    for one in found:
        counts = one.counts
        assert counts.target_forwards + counts.accepted == TARGET.length
        assert counts.target_rows == counts.target_forwards + counts.drafted
        assert counts.draft_forwards == counts.drafted
        assert counts.accepted + counts.rejected <= counts.drafted
        assert (counts.tries > 0) == (counts.rejected > 0)
    assert any(one.counts.accepted == 2 for one in found)
    assert math.isnan(written(CSpD(prefill=1.0), 1, 5)[0].counts.acceptance)


def test_the_beginning_is_the_target_s() -> None:
    method = CSpD(prefill=0.34, length=2)
    assert torch.equal(
        numbers(written(method, 50, 5))[:, 0], numbers(written(CSpD(), 50, 5, draft=None))[:, 0]
    )
    assert all(one.counts.drafted <= 1 for one in written(method, 50, 5))


def test_a_draft_model_without_densities_costs_only_speed() -> None:
    """NaN ends its chain, and the target writes the value itself."""
    kinds = {name: getattr(DRAFT, name) for name in ("weights", "means", "stds", "pull", "length")}
    all_bad = written(EAGER, 50, 5, draft=Faulty(**kinds, share=1.0 - 1e-9))
    assert torch.equal(numbers(all_bad), numbers(written(CSpD(), 50, 5, draft=None)))
    assert all(one.counts.drafted == 0 for one in all_bad)
    some = written(EAGER, 3000, 22, draft=Faulty(**kinds, share=0.3))
    assert sum(one.counts.drafted for one in some) > 0
    own = numbers(written(CSpD(), 3000, 21, draft=None))
    assert max(distances(own, numbers(some))) < 1


def test_a_target_without_densities_is_an_error() -> None:
    kinds = {name: getattr(TARGET, name) for name in ("weights", "means", "stds", "length")}
    for draft in (DRAFT, None):
        with pytest.raises(LogitsError, match="not finite"):
            written(EAGER, 20, 5, target=Faulty(**kinds), draft=draft)


def test_a_bound_that_is_reached_is_counted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(p: Densities, *_: object) -> Correction:
        return Correction(p.mean, 10, enveloped=True, bounded=True)

    monkeypatch.setattr(rules, "residual_draw", never)
    with pytest.warns(OutriderWarning, match="tries were used up"):
        found = written(EAGER, 50, 5)
    assert sum(one.counts.bounded for one in found) == sum(one.counts.rejected for one in found)
    assert sum(one.counts.enveloped for one in found) > 0


def test_models_that_do_not_fit() -> None:
    with pytest.raises(StrategyError, match="3 and 4 values"):
        written(EAGER, 1, 0, draft=replace(DRAFT, length=4))
    with pytest.raises(StrategyError, match="8 and 9 denoising steps"):
        written(EAGER, 1, 0, draft=replace(DRAFT, steps=9))


@pytest.mark.parametrize(
    "options", [{"mode": "exakt"}, {"length": -1}, {"prefill": 1.5}, {"length": 2.5}]
)
def test_faulty_options(options: dict[str, float | str]) -> None:
    with pytest.raises(OptionError):
        CSpD(**options)  # type: ignore[arg-type]
    with pytest.raises(OptionError):
        list(CSpD().write(TARGET, None, [0], batch=0))


def test_the_record() -> None:
    assert METHOD.build({"length": 3, "mode": "published"}) == CSpD(length=3, mode="published")


def test_ragged_rounds_of_patches_equal_rounds_of_one_image() -> None:
    """Caches of several images at different positions, against one image at a time."""
    target, draft = model(1), model(2, hidden=8)
    method = CSpD(prefill=0.0, length=3)
    together = sorted(method.write(target, draft, range(6), 3, 6), key=lambda one: one.sample)
    for one in together:
        [alone] = method.write(target, draft, [one.sample], 3, 1)
        assert torch.allclose(alone.values, one.values, atol=1e-4)
        assert alone.counts == one.counts
    assert len({one.counts.target_forwards for one in together}) > 1


def test_a_draft_model_that_is_the_target_is_always_accepted() -> None:
    """The caches of a draft model then hold what those of the target hold."""
    target = model(1)
    own = list(CSpD().write(target, None, range(4), 3))
    for length in (1, 2, 3):
        found = list(CSpD(prefill=0.0, length=length).write(target, target, range(4), 3))
        kept = sum(one.counts.accepted for one in found)
        assert kept >= 0.98 * sum(one.counts.accepted + one.counts.rejected for one in found)
        for one, other in zip(found, own, strict=True):
            if not one.counts.rejected:  # the ratio is 1 up to the rounding of float32
                assert torch.allclose(one.values, other.values, atol=1e-4)
