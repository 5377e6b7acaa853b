"""Writes chains on the device: a draft of k tokens takes k replays and one copy to the host."""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.cuda.choosing import Bans, Chooser, Recipe, choose
from outrider.models.cuda.inputs import Inputs, Outputs
from outrider.models.cuda.network import Network
from outrider.models.cuda.runner import Runner, Work
from outrider.models.cuda.storage import StaticCache, StaticStorage
from outrider.models.cuda.transfer import fetch, upload

RUN = 64
"""Largest number of tokens written without synchronization with the host."""


class Pen:
    """Writes tokens one after the other without the host.

    A step chooses from the newest logits, records the choice, reads it, and advances its own
    inputs. The same program, run again, thus writes the next token.
    """

    def __init__(self, network: Network, runner: Runner, outputs: Outputs) -> None:
        self._network, self._runner, self._outputs = network, runner, outputs
        logits = outputs.logits
        self._step = torch.zeros(1, dtype=torch.int64, device=logits.device)
        self._keys = torch.zeros(RUN, dtype=torch.int64, device=logits.device)
        self._weights = torch.ones(3, dtype=torch.float64, device=logits.device)
        self._bans = Bans(logits.shape[-1], logits.device)
        self._written = torch.zeros(RUN, dtype=torch.int64, device=logits.device)
        self._rows = logits.new_zeros(RUN, logits.shape[-1])
        self._choosing: dict[Recipe, Work] = {}

    def run(
        self,
        cache: StaticCache,
        inputs: Inputs,
        logits: Float[Tensor, "1 vocab"],
        chooser: Chooser,
        index: int,
        count: int,
    ) -> IntArray:
        """Write `[count]` tokens, at most `RUN`, after the newest row of `cache`.

        `logits` are those of the newest row; `index` is the generated index of the first token. All
        but the last token are read into the cache's storage, which must be reserved; the
        bookkeeping of the cache does not change. Tokens from the first `UNDECIDED` on are invalid.
        """
        step, last = self._programs(cache.static_storage, inputs, chooser.recipe)
        inputs.follow(cache.frontier(), cache)
        self._outputs.logits.copy_(logits)
        keys = np.zeros(RUN, dtype=np.int64)
        keys[:count] = chooser.keys(range(index, index + count))
        upload(self._keys, keys)
        upload(self._weights, chooser.weights)
        self._bans.load(chooser)
        self._step.zero_()
        for _ in range(count - 1):
            step()
        last()
        return fetch(self._written)[:count]

    def row(self, step: int) -> Float[Tensor, " vocab"]:
        """Return the logits from which the last run chose at `step`."""
        return self._rows[step]

    def _programs(
        self, storage: StaticStorage, inputs: Inputs, recipe: Recipe
    ) -> tuple[Work, Work]:
        """Return the program of a step, and one that only chooses: the last token is not read."""
        if recipe not in self._choosing:
            self._choosing[recipe] = self._runner.prepare(partial(self._choose, recipe))
        if recipe not in storage.programs:
            inputs.park()
            work = partial(self._write, inputs, storage.keys, storage.values, recipe)
            storage.programs[recipe] = self._runner.prepare(work)
        return storage.programs[recipe], self._choosing[recipe]

    def _choose(self, recipe: Recipe) -> None:
        """Choose a token and record the choice."""
        logits = self._outputs.logits
        keys = self._keys.index_select(0, self._step)
        choice = choose(recipe, logits, keys, self._weights, self._bans.mask)
        self._written.index_copy_(0, self._step, choice)
        self._rows.index_copy_(0, self._step, logits)

    def _write(self, inputs: Inputs, keys: Tensor, values: Tensor, recipe: Recipe) -> None:
        """Choose a token, read it, and advance the inputs."""
        self._choose(recipe)
        inputs.tokens.copy_(self._written.index_select(0, self._step).clamp_(min=0))
        inputs.mark()
        self._network.read(inputs, keys, values, self._outputs)
        inputs.advance(self._network.config.context_length - 1)
        self._step.add_(1).clamp_(max=RUN - 1)
