"""The shape of a model of patches, and the noise levels of its head."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError
from outrider.diffusion.continuous.trajectory import noise_levels

_POSITIVE = Range(0.0, above=True, below=True, hint="Give a number above 0")

_GRID: Mapping[str, Range] = {
    "side": AT_LEAST_ONE,
    "patch": AT_LEAST_ONE,
    "steps": Range(2, 1000, whole=True),
    "least_noise": _POSITIVE,
    "most_noise": _POSITIVE,
    "spread": _POSITIVE,
}
_SHAPE: Mapping[str, Range] = dict.fromkeys(
    ("hidden_size", "layers", "heads", "head_width", "head_blocks"), AT_LEAST_ONE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """What target and draft model share: how an image becomes vectors, and the noise levels.

    Attributes:
        side: width and height of an image, in pixels; images are grey.
        patch: width and height of a patch, in pixels; it must divide `side`.
        steps: denoising steps of the head.
        least_noise: standard deviation of the noise that remains in a value. It is above 0, so that
            the last step is noisy and has a density. Pixels lie between -1 and 1.
        most_noise: standard deviation of the first noise.
        spread: standard deviation of pixels, for the scaling of inputs and outputs.
    """

    side: int = 28
    patch: int = 4
    steps: int = 8
    least_noise: float = 0.15
    most_noise: float = 20.0
    spread: float = 0.7

    def __post_init__(self) -> None:
        check_ranges(self, _GRID)
        if self.side % self.patch:
            raise OptionError(
                f"patch {self.patch} does not divide side {self.side}", hint="Choose a divisor"
            )
        if self.least_noise >= self.most_noise:
            raise OptionError(
                f"least_noise {self.least_noise:g} is not below most_noise {self.most_noise:g}",
                hint="Lower it",
            )

    @property
    def length(self) -> int:
        """Patches of an image."""
        return (self.side // self.patch) ** 2

    @property
    def size(self) -> int:
        """Numbers of a patch."""
        return self.patch**2

    def levels(self) -> Float[Tensor, " levels"]:
        """Return the `steps + 1` noise levels, ascending, from the least to the most noise."""
        return noise_levels(self.least_noise, self.most_noise, self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchShape:
    """The size of one model of patches.

    Attributes:
        hidden_size: numbers of a state of the transformer.
        layers: its layers.
        heads: its attention heads; they must divide `hidden_size`.
        head_width: numbers of a state of the diffusion head.
        head_blocks: residual blocks of the diffusion head.
    """

    hidden_size: int
    layers: int
    heads: int
    head_width: int
    head_blocks: int

    def __post_init__(self) -> None:
        check_ranges(self, _SHAPE)
        if self.hidden_size % self.heads:
            raise OptionError(
                f"heads {self.heads} do not divide hidden_size {self.hidden_size}",
                hint="Choose a divisor",
            )
