"""Draws images with a model of patches, alone or with a draft model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import AT_LEAST_ONE
from outrider.core.errors import StrategyError, reject_unknown
from outrider.diffusion.continuous.cspd import RULES, CSpD
from outrider.diffusion.continuous.patches.files import load_model
from outrider.diffusion.continuous.patches.model import PatchModel
from outrider.diffusion.continuous.patches.pictures import Pixels, from_patches, to_pixels
from outrider.diffusion.continuous.rounds import Counts

MODES = (*RULES, "none")


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """Images of one call.

    Attributes:
        images: grey images without the noise of values: the expected clean patches.
        values: the values that were drawn, with the least noise; their distribution is what mode
            `exact` keeps, and images are a function of them.
        counts: of each image.
    """

    images: Sequence[Pixels]
    values: Float[Tensor, "images length size"]
    counts: Sequence[Counts]


def draw(
    target: Path | str | PatchModel,
    draft: Path | str | PatchModel | None = None,
    *,
    count: int = 1,
    seed: int = 0,
    mode: str = "exact",
    length: int = 8,
    prefill: float = 0.15,
    shared: bool = True,
    batch: int = 16,
) -> Drawing:
    """Draw images.

    Args:
        target: the model whose images are wanted, or its folder.
        draft: a smaller model that was trained with it, or its folder; None: the target alone.
        count: images. Image i has the same noise for every count.
        seed: of all noise.
        mode: `exact`: the images have the distribution of the target's own; `published`: the lossy
            rule of the released code of CSpD; `none`: the target alone.
        length: patches of a draft.
        prefill: share of an image that the target draws alone at the beginning.
        shared: whether both models read the same noise.
        batch: images that are drawn together.

    Raises:
        OptionError: an option is out of its range.
        CheckpointError: a folder holds no model of patches.
        StrategyError: the models do not fit together, or mode `published` has no draft model.
        LogitsError: a density of the target is not finite.
    """
    AT_LEAST_ONE.check("count", count)
    reject_unknown("mode", [mode], MODES)
    if mode == "published" and draft is None:
        raise StrategyError("mode published has no draft model", hint="Give one, or mode none")
    method = CSpD(
        mode="exact" if mode == "none" else mode, length=length, prefill=prefill, shared=shared
    )
    model = _loaded(target)
    small = None if draft is None or mode == "none" else _loaded(draft)
    if small is not None and small.grid != model.grid:
        raise StrategyError(
            "target and draft model have other patches or noise levels",
            hint="Give a draft model that was trained with this target",
        )
    found = sorted(
        method.write(model, small, range(count), seed, batch), key=lambda one: one.sample
    )
    values = torch.stack([one.values for one in found])
    return Drawing(pictures(model, values), values, [one.counts for one in found])


def pictures(model: PatchModel, values: Float[Tensor, "images length size"]) -> list[Pixels]:
    """Return the images of values: the expected clean patches, as the model sees them."""
    return to_pixels(from_patches(model.clean(values), model.grid.side))


def _loaded(source: Path | str | PatchModel) -> PatchModel:
    return source if isinstance(source, PatchModel) else load_model(Path(source))
