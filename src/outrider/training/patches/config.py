"""The configuration of the training of models of patches, read from a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass

from outrider.core.checks import AT_LEAST_ONE, ZERO_OR_MORE, Range, check_ranges
from outrider.diffusion.continuous.patches.config import Grid, PatchShape
from outrider.training.core.config import Stage

_GRID = Grid()
_RANGES: Mapping[str, Range] = {
    "shift": Range(0, whole=True, hint="Give a whole number of at least 0"),
    "held_out": AT_LEAST_ONE,
    "draws": AT_LEAST_ONE,
    "threads": ZERO_OR_MORE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSet:
    """A tar of images, relative to the data folder.

    Attributes:
        images: its path.
        licence: of the images, for the card.
        origin: where they are published, for the card.
        flip: whether images are also trained on mirrored.
    """

    images: str
    licence: str = ""
    origin: str = ""
    flip: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchesRecipe:
    """All options of `outrider train patches`.

    Attributes:
        name: name of the models.
        pictures: the images; they are turned grey and reduced to the side of the grid.
        grid: how images become vectors, and the noise levels.
        target: shape of the target.
        draft: shape of the draft model.
        target_stage: training of the target; a token is a patch.
        draft_stage: training of the draft model, on the predictions of the target.
        shift: largest number of pixels by which images are moved in each direction.
        held_out: one image in so many is never trained on.
        draws: noise levels of each patch in a step.
        out: folder of the run.
        data: folder of the data sets.
        seed: seed of weights, order, moves and noise.
        threads: threads of PyTorch; 0 lets it choose.
        checkpoint_minutes: time between two checkpoints.
        evaluate_minutes: time between two measurements.
    """

    name: str
    pictures: PictureSet
    target: PatchShape
    draft: PatchShape
    target_stage: Stage
    draft_stage: Stage
    grid: Grid = _GRID
    shift: int = 1
    held_out: int = 10
    draws: int = 2
    out: str = "runs/patches"
    data: str = "data"
    seed: int = 1
    threads: int = 0
    checkpoint_minutes: float = 1.0
    evaluate_minutes: float = 2.0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
