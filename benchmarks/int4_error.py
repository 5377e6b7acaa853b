"""The squared error of `quantize_int4` against rounding to 15 equal steps between the extremes.

    python -m benchmarks.int4_error

Random matrices of one million weights, with a scale and a minimum in float16 in both cases.
"""

import torch
from torch import Tensor

from outrider.models.quantization.grouped import GROUP
from outrider.models.quantization.int4 import quantize_int4

_SHAPE = (1000, 1024)


def gain(weight: Tensor) -> float:
    """Return by which share the search lowers the squared error of all weights."""
    groups = weight.view(-1, GROUP)
    least = groups.amin(1, keepdim=True).half().float()
    scale = ((groups.amax(1, keepdim=True) - least) / 15).half().float()
    plain = ((groups - least) / scale).round().clamp(0, 15) * scale + least
    searched = (quantize_int4(weight).dequantize() - weight).square().sum()
    return 1 - float(searched / (plain - groups).square().sum())


def main() -> None:
    """Print one line for each distribution."""
    torch.manual_seed(0)
    tails = torch.distributions.StudentT(3.0).sample(_SHAPE)
    for name, weight in (("normal", torch.randn(_SHAPE)), ("Student t, 3 degrees", tails)):
        print(f"{name}: {gain(weight):.1%} less")


if __name__ == "__main__":
    main()
