"""Measures whether a caption identifies its image among others."""

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.captioning.metrics.intervals import Mean
from outrider.core.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """How often the nearest image of a batch is the image of the caption.

    Attributes:
        rate: share of captions; images with equal similarity share the hit.
        low: lower end of the 95 % bootstrap interval of `rate` (captions drawn one by one).
        high: its upper end.
        chance: rate of embeddings without information: 1 / batch.
        batch: number of images to choose from.
        pairs: number of captions; an incomplete last batch is left out.
    """

    rate: float
    low: float
    high: float
    chance: float
    batch: int
    pairs: int

    def to_dict(self) -> dict[str, float]:
        """Return plain numbers for JSON."""
        return asdict(self)


def retrieval_rate(
    text_embeddings: Float[Tensor, "pairs width"],
    image_embeddings: Float[Tensor, "_ _"],
    batch: int = 16,
    *,
    seed: int = 0,
) -> Retrieval:
    """Compute retrieval by cosine within batches, which are formed in the given order.

    Swapped arguments give retrieval of captions by images. Features are only normalized to unit
    length here; subtract a mean before if wanted.

    Args:
        text_embeddings: embeddings of the captions; row i belongs to image i.
        image_embeddings: embeddings of the images, in the same space and order: [pairs, width].
        batch: number of images to choose from, at least 2.
        seed: seed of the interval.

    Raises:
        OptionError: shapes differ, numbers are not finite, or there are fewer pairs than a batch.
    """
    _check(text_embeddings, image_embeddings, batch)
    pairs = len(text_embeddings) // batch * batch
    texts, images = (
        torch.nn.functional.normalize(each[:pairs].cpu().double(), dim=-1).unflatten(0, (-1, batch))
        for each in (text_embeddings, image_embeddings)
    )
    # Dot products of equal vectors may differ in their last bits: rounding makes them equal.
    near = (texts @ images.mT).round(decimals=12)
    best = near == near.amax(dim=-1, keepdim=True)
    own = best.diagonal(dim1=-2, dim2=-1) / best.sum(dim=-1)
    found = Mean.of(own.flatten().tolist(), seed=seed)
    return Retrieval(
        rate=found.mean,
        low=found.low,
        high=found.high,
        chance=1 / batch,
        batch=batch,
        pairs=pairs,
    )


def _check(texts: Tensor, images: Tensor, batch: int) -> None:
    if texts.shape != images.shape:
        raise OptionError(
            f"text embeddings have shape {tuple(texts.shape)}, image embeddings "
            f"{tuple(images.shape)}",
            hint="Give one text and one image embedding per pair, of equal width",
        )
    if batch < 2:
        raise OptionError(f"batch is {batch}", hint="Give 2 or more")
    if len(texts) < batch:
        raise OptionError(
            f"{len(texts)} pairs do not fill a batch of {batch}",
            hint="Give more pairs, or a smaller batch",
        )
    for name, given in (("text", texts), ("image", images)):
        bad = (~given.isfinite()).any(dim=-1).nonzero()
        if len(bad):
            raise OptionError(f"{name} embedding {int(bad[0])} holds a number that is not finite")
