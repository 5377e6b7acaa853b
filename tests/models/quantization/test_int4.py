"""Four bits with a scale and a minimum for each group: never worse than plain rounding."""

import pytest
import torch

from outrider.models.quantization.grouped import GROUP, Grouped
from outrider.models.quantization.int4 import quantize_int4

KINDS = ("gauss", "heavy tails", "positive", "one outlier", "tiny", "large", "two values")


def weights(kind: str, outputs: int = 24, inputs: int = 160) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(kind))
    noise = torch.randn(outputs, inputs, generator=generator)
    match kind:
        case "heavy tails":
            return noise / torch.randn(noise.shape, generator=generator).abs().clamp(min=0.05)
        case "positive":
            return 3 + noise.abs()
        case "one outlier":
            return torch.where(torch.arange(inputs) % 32 == 5, 50 * noise, 0.1 * noise)
        case "tiny":
            return noise * 1e-5
        case "large":
            return noise * 5000
        case "two values":
            return noise.sign() * 0.3
        case _:
            return noise * 0.05


def plain(weight: torch.Tensor) -> torch.Tensor:
    """Fifteen equal steps between the extremes of each group, in float16 as Q4_1."""
    groups = weight.view(len(weight), -1, GROUP)
    least, most = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    scale, bottom = ((most - least) / 15).half().float(), least.half().float()
    steps = torch.where(scale > 0, (groups - bottom) / scale, 0)
    return (scale * steps.round().clamp(0, 15) + bottom).view_as(weight)


def errors(weight: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    return (weight - found).double().square().view(len(weight), -1, GROUP).sum(2)


@pytest.mark.parametrize("kind", KINDS)
def test_no_group_is_worse_than_plain_rounding(kind: str) -> None:
    weight = weights(kind)
    ours, theirs = errors(weight, quantize_int4(weight).dequantize()), errors(weight, plain(weight))
    assert (ours <= theirs * (1 + 1e-5)).all()


@pytest.mark.parametrize(("kind", "most"), [("gauss", 0.815), ("positive", 0.81)])
def test_the_search_lowers_the_error(kind: str, most: float) -> None:
    weight = weights(kind, 256, 512)
    ours, theirs = errors(weight, quantize_int4(weight).dequantize()), errors(weight, plain(weight))
    assert ours.sum() < most * theirs.sum()


def test_the_form_is_that_of_the_kernels() -> None:
    found = quantize_int4(weights("gauss"))
    assert (found.bits, found.zero, found.span) == (4, 0, GROUP)
    assert found.quants.dtype == torch.uint8 and int(found.quants.max()) == 15
    assert found.minimums is not None and found.fine is None and found.fine_minimums is None
    assert found.scales.shape == found.minimums.shape == (24, 5)


@pytest.mark.parametrize("scale", [0.25, 0.01])
def test_what_sixteen_levels_hold_stays(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    quants = torch.randint(16, (8, 96), generator=generator)
    quants[:, ::GROUP], quants[:, 1::GROUP] = 0, 15
    scales = torch.full((8, 3), scale).half()
    weight = Grouped(
        bits=4,
        zero=0,
        span=GROUP,
        quants=quants.to(torch.uint8),
        scales=scales,
        minimums=scales * 8,
    ).dequantize()
    assert torch.equal(quantize_int4(weight).dequantize(), weight)


@pytest.mark.parametrize("value", [0.0, -0.5, 0.375, 100.0])
def test_constant_groups(value: float) -> None:
    found = quantize_int4(torch.full((2, 64), value))
    assert torch.equal(found.dequantize(), torch.full((2, 64), value))
    assert not found.scales.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e6])
def test_a_group_that_float16_cannot_hold_is_nan_and_the_others_are_not(bad: float) -> None:
    weight = weights("gauss", 4, 96)
    good = quantize_int4(weight).dequantize()
    weight[2, 40] = bad
    found = quantize_int4(weight).dequantize()
    assert found[2, 32:64].isnan().all()
    found[2, 32:64] = good[2, 32:64]
    assert torch.equal(found, good)


def test_a_short_last_group_uses_all_levels() -> None:
    weight = torch.full((2, 36), 9.0)
    weight[:, 32:] = torch.tensor([3.0, 3.1, 3.25, 3.5])
    assert (quantize_int4(weight).dequantize() - weight).abs().max() < 0.5 / 15


@pytest.mark.parametrize("inputs", [1, 31, 33, 100])
def test_a_short_last_group(inputs: int) -> None:
    weight = weights("positive", 3, 160)[:, :inputs]
    found = quantize_int4(weight)
    assert found.shape == (3, inputs) and found.scales.shape == (3, -(-inputs // GROUP))
    largest = (weight.amax(1) - weight.amin(1)).max() / 15
    assert (found.dequantize() - weight).abs().max() < largest + 5 * 2**-10


def test_rows_do_not_depend_on_others() -> None:
    """Parts of a large matrix are quantized one after the other."""
    weight = weights("gauss", 700, 160)
    whole, last = quantize_int4(weight), quantize_int4(weight[-5:].bfloat16().float())
    again = quantize_int4(weight[-5:])
    assert torch.equal(whole.quants[-5:], again.quants)
    assert torch.equal(whole.scales[-5:], again.scales)
    assert torch.equal(quantize_int4(weight[-5:].bfloat16()).quants, last.quants)
