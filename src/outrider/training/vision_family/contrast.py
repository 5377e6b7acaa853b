"""Contrastive training of an image and a text encoder: matching pairs close, all others far apart.

The loss of CLIP (Radford et al. 2021): in a batch, each image must select its sentence and each
sentence its image, by cosine similarity times a learned scale.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from outrider.training.core.config import Stage
from outrider.training.core.loop import StopSignal, train_one
from outrider.training.vision_family.pictures import Pairs

_HELD_OUT = 256
_WARMEST = 4.6
"""Largest logarithm of the scale: a scale of 100, as in CLIP."""


class TwoEncoders(nn.Module):
    """An image encoder and a text encoder with projections into one space.

    Args:
        image: maps pixels `[n, 3, side, side]` to `[n, width]`.
        text: maps ids `[n, length]` of sentences and a mask to `[n, width]`.
    """

    def __init__(self, image: nn.Module, text: nn.Module, widths: tuple[int, int], size: int):
        super().__init__()
        self.image, self.text = image, text
        self.image_projection = nn.Linear(widths[0], size, bias=False)
        self.text_projection = nn.Linear(widths[1], size, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit vectors `[n, size]` of images and of texts."""
        images = self.image_projection(self.image(pixels))
        texts = self.text_projection(self.text(ids, mask))
        return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)


def info_nce(
    images: Float[Tensor, "n size"], texts: Float[Tensor, "n size"], scale: Tensor | float
) -> Tensor:
    """Return the symmetric loss over unit vectors; row i of both is pair i."""
    logits = scale * images @ texts.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def hit_rate(images: Float[Tensor, "n size"], texts: Float[Tensor, "n size"]) -> float:
    """Return the share of images whose own text is the most similar one."""
    nearest = (images @ texts.T).argmax(dim=-1)
    return float((nearest == torch.arange(len(images), device=images.device)).float().mean())


def train_contrast(
    name: str,
    model: nn.Module,
    encode: Callable[[Tensor, list[str]], tuple[Tensor, Tensor]],
    scale: nn.Parameter,
    pairs: tuple[Pairs, Pairs],
    stage: Stage,
    stop: StopSignal,
    **where: Any,
) -> dict[str, Any]:
    """Train `model`; `encode(pixels, texts)` returns the unit vectors of a batch.

    `pairs` are the training and the held-out pairs; `where` is passed to `StageRun`.
    """
    training, held_out = pairs

    def step(row: int) -> dict[str, float]:
        images, texts = encode(*training.batch(row, stage.batch))
        loss = info_nce(images, texts, scale.exp())
        loss.backward()
        with torch.no_grad():
            scale.clamp_(max=_WARMEST)
        return {"loss": float(loss.detach())}

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        model.eval()
        images, texts = encode(*held_out.batch(0, _HELD_OUT))
        model.train()
        return {
            "heldout_loss": float(info_nce(images, texts, scale.exp())),
            "heldout_hits": hit_rate(images, texts),
        }

    return train_one(name, model, stage, stop, step, evaluate, **where)
