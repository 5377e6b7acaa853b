"""Makes the choices for the rows of a forward on the device and fetches them together."""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.cuda.choosing import Bans, Chooser, Recipe, choose, chooser_for
from outrider.models.cuda.inputs import width_for
from outrider.models.cuda.runner import Runner, Work
from outrider.models.cuda.transfer import fetch, upload
from outrider.sampling import Sampler


class RowChoices:
    """Choices of a sampler for the rows of one forward; one program for each width."""

    def __init__(self, runner: Runner, vocab_size: int, like: Tensor) -> None:
        self._runner = runner
        self._vocab_size, self._like = vocab_size, like
        self._bans = Bans(vocab_size, like.device)
        self._buffers: dict[int, _Buffers] = {}
        self._programs: dict[tuple[int, Recipe], Work] = {}

    def of(
        self, logits: Float[Tensor, "rows vocab"], sampler: Sampler, indices: IntArray
    ) -> IntArray | None:
        """Return the token after each row, or -1 where the host must decide.

        None for samplers that the device does not support. Row i has generated index `indices[i]`.
        """
        width = width_for(len(logits))
        chooser = chooser_for(sampler, int(indices.min())) if len(indices) else None
        if chooser is None or width is None or len(logits) != len(indices):
            return None
        buffers = self._buffers.get(width)
        if buffers is None:
            buffers = self._buffers[width] = _Buffers(
                width, self._vocab_size, self._like, self._bans
            )
        program = self._program(width, buffers, chooser.recipe)
        buffers.load(logits, chooser, indices)
        program()
        return fetch(buffers.choices)[: len(logits)]

    def _program(self, width: int, buffers: "_Buffers", recipe: Recipe) -> Work:
        key = (width, recipe)
        if key not in self._programs:
            self._programs[key] = self._runner.prepare(partial(buffers.choose, recipe))
        return self._programs[key]


class _Buffers:
    """Buffers of one width: inputs of the choice, and the choices."""

    def __init__(self, width: int, vocab_size: int, like: Tensor, bans: Bans) -> None:
        self._width, self._bans = width, bans
        self._logits = like.new_zeros(width, vocab_size)
        self._keys = torch.zeros(width, dtype=torch.int64, device=like.device)
        self._weights = torch.ones(3, dtype=torch.float64, device=like.device)
        self.choices = torch.zeros(width, dtype=torch.int64, device=like.device)

    def load(self, logits: Tensor, chooser: Chooser, indices: IntArray) -> None:
        keys = np.zeros(self._width, dtype=np.int64)
        keys[: len(indices)] = chooser.keys(indices)
        upload(self._keys, keys)
        upload(self._weights, chooser.weights)
        self._bans.load(chooser)
        self._logits[: len(logits)].copy_(logits)

    def choose(self, recipe: Recipe) -> None:
        found = choose(recipe, self._logits, self._keys, self._weights, self._bans.mask)
        self.choices.copy_(found)
