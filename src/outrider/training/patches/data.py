"""Images of a tar as tensors, and training batches by number."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import MissingExtraError, OptionError
from outrider.diffusion.continuous.patches.pictures import to_patches
from outrider.training.patches.config import PatchesRecipe


def read_pictures(recipe: PatchesRecipe, data: Path) -> Float[Tensor, "n side side"]:
    """Return all images of the set, by name, with pixels from -1 (black) to 1 (white).

    Raises:
        OptionError: there is no such file, it is damaged, or it holds no images.
        MissingExtraError: pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError("pillow", "vision") from error
    place, side = data / recipe.pictures.images, recipe.grid.side
    if not place.is_file():
        raise OptionError(f"there is no image set at {place}", hint="Give --data DIR that holds it")
    found: dict[str, np.ndarray] = {}
    try:
        with tarfile.open(place) as tar:
            for member in tar:
                if (file := tar.extractfile(member)) is None:
                    continue
                with Image.open(io.BytesIO(file.read())) as image:
                    grey = image.convert("L")
                    grey = grey if grey.size == (side, side) else grey.resize((side, side), 1)
                    found[member.name] = np.asarray(grey, dtype=np.float32) / 127.5 - 1
    except (tarfile.TarError, UnidentifiedImageError, OSError) as error:
        text = str(error).splitlines()[0]
        raise OptionError(f"{place} cannot be read: {text}", hint="Give a tar of images") from None
    if len(found) < 2 * recipe.held_out:
        raise OptionError(
            f"{place} holds {len(found)} images", hint=f"Give at least {2 * recipe.held_out}"
        )
    return torch.from_numpy(np.stack([found[name] for name in sorted(found)]))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What a step learns.

    Attributes:
        clean: the patches.
        context: the patches with the least noise, as they are drawn.
    """

    clean: Float[Tensor, "images length size"]
    context: Float[Tensor, "images length size"]


class Pictures:
    """The images, and batches of which row r is always the same."""

    def __init__(self, recipe: PatchesRecipe, images: Float[Tensor, "n side side"]) -> None:
        every = torch.arange(len(images)) % recipe.held_out == recipe.held_out - 1
        self.trained_on, self.held_out = images[~every], images[every]
        self._recipe = recipe

    def batch(self, row: int, count: int) -> Batch:
        """Return `count` images from row number `row` on: moved, mirrored, and with noise."""
        recipe = self._recipe
        chosen: list[Tensor] = []
        for number in range(row, row + count):
            rng = np.random.default_rng((recipe.seed, number))
            image = self.trained_on[int(rng.integers(len(self.trained_on)))]
            down, right = rng.integers(-recipe.shift, recipe.shift + 1, size=2)
            image = moved(image, int(down), int(right))
            chosen.append(image.flip(1) if recipe.pictures.flip and rng.integers(2) else image)
        return self._noisy(torch.stack(chosen), generator(recipe.seed, 1, row))

    def measured(self) -> Batch:
        """Return all held-out images, with noise."""
        return self._noisy(self.held_out, generator(self._recipe.seed, 2, 0))

    def _noisy(self, images: Tensor, source: torch.Generator) -> Batch:
        grid = self._recipe.grid
        clean = to_patches(images, grid.patch)
        noise = torch.randn(clean.shape, generator=source)
        return Batch(clean, clean + grid.least_noise * noise)


def moved(image: Float[Tensor, "side side"], down: int, right: int) -> Float[Tensor, "side side"]:
    """Move an image; its edge is repeated where nothing is left."""
    rows = (torch.arange(image.shape[0]) - down).clamp(0, image.shape[0] - 1)
    columns = (torch.arange(image.shape[1]) - right).clamp(0, image.shape[1] - 1)
    return image[rows][:, columns]


def generator(*parts: int) -> torch.Generator:
    """Return a generator whose numbers depend on all `parts`."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))
