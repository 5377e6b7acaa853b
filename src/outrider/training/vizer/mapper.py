"""ViZer's mapper: from hidden states of a caption in the text stack to the features of its image.

Unifying Vision-Language Latents for Zero-label Image Caption Enhancement (arXiv 2510.12931): `h` is
an MLP of two layers, and the loss is 1 - cos(F, h(H)), where F is the mean of the image's features
and H the mean of the last hidden states over the caption's tokens. The mean of all features is
subtracted first: otherwise, and without negatives, the mean image has a low loss for every caption.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from outrider.captioning.metrics.retrieval import retrieval_rate
from outrider.training.vision_family.contrast import info_nce
from outrider.training.vizer.config import VizerConfig

_WEIGHT_DECAY = 0.01
_BATCH = 64


class Mapper(nn.Module):
    """`h`: norm, a hidden layer, GELU, and an output layer to image features.

    Args:
        hidden: size of the hidden states of the text stack.
        width: size of the hidden layer.
        features: size of the image features.
    """

    def __init__(self, hidden: int, width: int, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.inner = nn.Linear(hidden, width)
        self.outer = nn.Linear(width, features)
        self.centre = nn.Buffer(torch.zeros(features))

    def forward(self, states: Float[Tensor, "n hidden"]) -> Float[Tensor, "n features"]:
        """Map hidden states to unit vectors."""
        return F.normalize(self.outer(F.gelu(self.inner(self.norm(states)))), dim=-1)

    def aims(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n features"]:
        """Return the targets: centered image features as unit vectors."""
        return F.normalize(features - self.centre, dim=-1)

    def loss(
        self,
        states: Float[Tensor, "n hidden"],
        features: Float[Tensor, "n features"],
        config: VizerConfig,
    ) -> Tensor:
        """Return the mean loss over a batch."""
        caption_states, seen = self(states), self.aims(features)
        if config.loss == "infonce":
            return info_nce(seen, caption_states, 1 / config.temperature_scale)
        return (1 - (caption_states * seen).sum(dim=-1)).mean()


@dataclass(frozen=True, slots=True)
class Vectors:
    """Data of phase A: vectors of captions and of their images.

    Attributes:
        states: `[n, hidden]` means over a caption's tokens.
        features: `[n, features]` means over an image's patches.
    """

    states: Float[Tensor, "n hidden"]
    features: Float[Tensor, "n features"]

    def __len__(self) -> int:
        return len(self.states)

    def part(self, rows: Tensor | slice) -> "Vectors":
        """Return the given rows."""
        return Vectors(self.states[rows], self.features[rows])


def train_mapper(
    vectors: Vectors, config: VizerConfig, held_out: Vectors
) -> tuple[Mapper, dict[str, float]]:
    """Fit a mapper; return it with its figures on `held_out`, before and after."""
    draw = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        mapper = Mapper(vectors.states.shape[1], config.mapper_width, vectors.features.shape[1]).to(
            vectors.states.device
        )
    if config.centre:
        mapper.centre.copy_(vectors.features.mean(dim=0))
    before = mapper_figures(mapper, held_out, config)
    rate = config.mapper_learning_rate
    optimizer = torch.optim.AdamW(mapper.parameters(), lr=rate, weight_decay=_WEIGHT_DECAY)
    size = min(_BATCH, len(vectors))
    per_epoch = len(vectors) // size
    steps, order = per_epoch * config.mapper_epochs, torch.arange(len(vectors))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps + 1, pct_start=max(0.03, 1.5 / (steps + 1))
    )
    for step in range(steps):
        at = step % per_epoch
        order = torch.randperm(len(vectors), generator=draw) if at == 0 else order
        rows = order[at * size : (at + 1) * size]
        loss = mapper.loss(*_pair(vectors.part(rows)), config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(mapper.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    optimizer.zero_grad(set_to_none=True)
    after = mapper_figures(mapper, held_out, config)
    named = {f"{key}_untrained": value for key, value in before.items()}
    return mapper.eval().requires_grad_(False), {**after, **named}


@torch.no_grad()
def mapper_figures(mapper: Mapper, vectors: Vectors, config: VizerConfig) -> dict[str, float]:
    """Return loss, mean cosine and in-batch retrieval, and those of a constant output for
    comparison.
    """
    caption_states, seen = mapper(vectors.states), mapper.aims(vectors.features)
    constant = F.normalize(seen.mean(dim=0), dim=-1)
    found = retrieval_rate(caption_states, seen, min(RETRIEVAL_BATCH, len(caption_states)))
    return {
        "loss": float(mapper.loss(*_pair(vectors), config)),
        "cosine": float((caption_states * seen).sum(dim=-1).mean()),
        "cosine_constant": float((seen @ constant).mean()),
        "retrieval": found.rate,
        "chance": found.chance,
    }


RETRIEVAL_BATCH = 32
"""Number of images in a batch for retrieval."""


def _pair(vectors: Vectors) -> tuple[Tensor, Tensor]:
    return vectors.states, vectors.features
