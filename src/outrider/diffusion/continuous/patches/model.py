"""A causal transformer over patches in raster order, with a diffusion head at each position."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from outrider.diffusion.continuous.patches.config import Grid, PatchShape
from outrider.diffusion.continuous.patches.head import DiffusionHead
from outrider.diffusion.continuous.values import Densities


@dataclass(slots=True)
class PatchCache:
    """Keys and values of some images; slot i belongs to the input of position i.

    Slots behind the committed values are overwritten by the next forward, so that nothing has to be
    taken back after a rejection.

    Attributes:
        keys: `[layers, images, heads, length + 1, width]`; the last slot takes the rows of
            positions behind the end, which nothing reads.
        values: of the same shape.
    """

    keys: Float[Tensor, "layers images heads slots width"]
    values: Float[Tensor, "layers images heads slots width"]

    def keep(self, images: Bool[Tensor, " images"]) -> None:
        """Forget the other images."""
        self.keys, self.values = self.keys[:, images], self.values[:, images]


class _Layer(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.into = nn.Linear(hidden, 3 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)
        self.up = nn.Linear(hidden, 4 * hidden, bias=False)
        self.down = nn.Linear(4 * hidden, hidden, bias=False)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.down.weight)

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values `[images, heads, positions, width]`."""
        normed = F.layer_norm(hidden, hidden.shape[-1:])
        parts = self.into(normed).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        return query, key, value

    def finish(self, hidden: Tensor, read: Tensor) -> Tensor:
        hidden = hidden + self.out(read.transpose(1, 2).flatten(-2))
        normed = F.layer_norm(hidden, hidden.shape[-1:])
        return hidden + self.down(F.gelu(self.up(normed)))


class PatchModel(nn.Module):
    """Predicts each patch of an image from the noisy patches before it.

    The input of position i is the value of position i - 1; that of position 0 is learned. It
    fulfils `ValueModel`.
    """

    def __init__(self, grid: Grid, shape: PatchShape, seed: int = 0) -> None:
        super().__init__()
        self.grid, self.shape = grid, shape
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed_input = nn.Linear(grid.size, shape.hidden_size)
            self.embed_start = nn.Parameter(torch.randn(shape.hidden_size) / 4)
            self.embed_place = nn.Parameter(torch.randn(grid.length + 1, shape.hidden_size) / 4)
            self.layers = nn.ModuleList(
                _Layer(shape.hidden_size, shape.heads) for _ in range(shape.layers)
            )
            self.head = DiffusionHead(grid, shape)

    @property
    def length(self) -> int:
        """Values of an image."""
        return self.grid.length

    @property
    def size(self) -> int:
        """Numbers of a value."""
        return self.grid.size

    @property
    def steps(self) -> int:
        """Denoising steps of a value."""
        return self.grid.steps

    @property
    def parameters_count(self) -> int:
        """Number of weights."""
        return sum(one.numel() for one in self.parameters())

    def _inputs(self, places: Tensor, before: Tensor) -> Tensor:
        embedded = self.embed_input(before)
        embedded = torch.where((places == 0)[..., None], self.embed_start, embedded)
        return embedded + self.embed_place[places]

    def forward(self, before: Float[Tensor, "images n size"]) -> Float[Tensor, "images n hidden"]:
        """Return the states of positions 0 to n - 1, without a cache; `before[:, i]` is the value
        of position i - 1, and `before[:, 0]` is not read."""
        hidden = self._inputs(torch.arange(before.shape[1]).expand(before.shape[:2]), before)
        for layer in self.layers:
            read = F.scaled_dot_product_attention(*layer.project(hidden), is_causal=True)  # type: ignore[operator]
            hidden = layer.finish(hidden, read)  # type: ignore[operator]
        return F.layer_norm(hidden, hidden.shape[-1:])

    def start(self, count: int) -> PatchCache:
        """Return an empty cache for `count` images."""
        shape = self.shape
        width = shape.hidden_size // shape.heads
        size = (shape.layers, count, shape.heads, self.length + 1, width)
        return PatchCache(torch.zeros(size), torch.zeros(size))

    @torch.inference_mode()
    def read(
        self,
        cache: PatchCache,
        places: Int[Tensor, "images n"],
        before: Float[Tensor, "images n size"],
    ) -> Float[Tensor, "images n hidden"]:
        """Read the inputs of `places`, write their slots, and return their states.

        Args:
            cache: the images; the slots below the first of `places` hold committed values.
            places: positions, ascending; `length` stands for none.
            before: for each place, the value of the position before it.
        """
        hidden = self._inputs(places, before.float())
        last = int(places.max()) + 1
        seen = (torch.arange(last) <= places[..., None])[:, None]
        images = torch.arange(len(places))[:, None]
        for number, layer in enumerate(self.layers):
            query, key, value = layer.project(hidden)  # type: ignore[operator]
            cache.keys[number][images, :, places] = key.transpose(1, 2)
            cache.values[number][images, :, places] = value.transpose(1, 2)
            keys = cache.keys[number][:, :, :last]
            scores = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            hidden = layer.finish(hidden, weights @ cache.values[number][:, :, :last])  # type: ignore[operator]
        return F.layer_norm(hidden, hidden.shape[-1:])

    def denoise(
        self, states: Float[Tensor, "*rows hidden"], noise: Float[Tensor, "*rows steps size"]
    ) -> Densities:
        """Run the head's trajectory; see `DiffusionHead.denoise`."""
        return self.head.denoise(states, noise.float())

    @torch.inference_mode()
    def clean(
        self, values: Float[Tensor, "images length size"]
    ) -> Float[Tensor, "images length size"]:
        """Return the expected clean value of each position, given the values of whole images."""
        values = values.float()
        before = torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], dim=1)
        level = torch.zeros(values.shape[:2], dtype=torch.long)
        return self.head(values, level, self(before))[0]
