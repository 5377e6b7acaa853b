"""What a frozen target guesses after prompt tokens, with gradients to their embeddings alone.

The rows of the text do not depend on prompt tokens, so they are read once, without gradients.
Groups of prompt rows, each after another place of the text, then share one pass.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import BoolArray, IntArray, Prompt, as_ids
from outrider.models.caches.kv_cache import DecoderCache, Storage
from outrider.models.caches.narrowing import narrowed
from outrider.models.llama.attention import Part, Reach, attend
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.layers import Batch, DecoderLayer, entering, logits_of, rms_norm
from outrider.models.llama.rope import RotaryTable
from outrider.protocols import Segment


@dataclass(frozen=True, slots=True)
class ReadText:
    """A text as the target has read it.

    Attributes:
        storage: keys and values of its rows.
        length: number of rows.
        first: the first place with logits.
        logits: `[length - first, vocab]` the target's logits after each place.
    """

    storage: Storage
    length: int
    first: int
    logits: Float[Tensor, "places vocab"]


class _GuessingLayer(DecoderLayer):
    """A layer whose rows read the keys of a text and their own; no key is stored."""

    def _attend(self, part: Part, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        stored = part.storage.keys[self.index], part.storage.values[self.index]
        return attend(
            queries,
            torch.cat((stored[0][:, : part.start], keys.transpose(0, 1)), dim=1),
            torch.cat((stored[1][:, : part.start], values.transpose(0, 1)), dim=1),
            part.reaches[self.window].mask,
            self.config.attention_scale,
            self.config.scales.attention_cap,
        )


class Guesser:
    """Runs prompt tokens through a frozen target.

    Args:
        target: the target, in float32.
    """

    def __init__(self, target: Decoder) -> None:
        self.target = target
        config = target.config
        self._layers = [
            _GuessingLayer(i, layer, config) for i, layer in enumerate(target.weights.layers)
        ]
        self._rotary = RotaryTable(config.rope, target.dtype, target.device)
        local = config.local_rope
        self._local_rotary = local and RotaryTable(local, target.dtype, target.device)

    def read(self, ids: IntArray, first: int) -> ReadText:
        """Read a text, and keep the logits from place `first` on.

        Raises:
            ContextError: it does not fit the window.
        """
        [cache] = self.target.start([Prompt(token_ids=tuple(ids[: first + 1].tolist()))])
        tail = ids[first + 1 :]
        [rows] = self.target.forward([Segment(cache, as_ids(tail))], [as_ids(range(-1, len(tail)))])
        storage = narrowed(cache, DecoderCache, self.target.info.name).storage
        storage.keys, storage.values = storage.keys.clone(), storage.values.clone()
        return ReadText(storage, len(ids), first, rows.logits.clone())

    def logits(
        self, table: Float[Tensor, "prompts copies hidden"], text: ReadText, places: IntArray
    ) -> Float[Tensor, "places prompts vocab"]:
        """Return the logits of each prompt token after each place, the mean over its copies.

        Prompt token i of a group reads the text up to its place, and the same copy of the prompt
        tokens before it.
        """
        prompts, copies, hidden = table.shape
        config, group = self.target.config, prompts * copies
        rows = len(places) * group
        own = places[:, None, None] + 1 + np.arange(prompts)[:, None]
        positions = np.broadcast_to(own, (len(places), prompts, copies)).reshape(-1)
        x = table.reshape(group, hidden).repeat(len(places), 1)
        bound = int(positions.max()) + 1
        at = torch.from_numpy(positions.copy())
        part = Part(
            rows=slice(0, rows),
            start=text.length,
            end=text.length + rows,
            storage=text.storage,
            reaches={
                window: Reach(0, _scores(_seen(text.length, places, positions, table, window)))
                for window in set(config.windows)
            },
        )
        local = self._local_rotary and self._local_rotary.at(at, bound)
        batch = Batch([part], self._rotary.at(at, bound), local)
        x = entering(x, config)
        for layer in self._layers:
            x = layer(x, batch)
        normed = rms_norm(x, self.target.weights.norm, config.norm_eps)
        logits = logits_of(normed, self.target.weights, config)
        return logits.view(len(places), prompts, copies, -1).mean(dim=2)


def _seen(
    length: int,
    places: IntArray,
    positions: IntArray,
    table: Float[Tensor, "prompts copies hidden"],
    window: int | None,
) -> BoolArray:
    """Return `[rows, length + rows]`: the slots that each prompt row reads."""
    prompts, copies, _ = table.shape
    last = np.repeat(places, prompts * copies)
    text = np.arange(length)[None] <= last[:, None]
    count = len(positions)
    group = np.arange(count) // (prompts * copies)
    copy = np.arange(count) % copies
    own = (group[:, None] == group[None]) & (copy[:, None] == copy[None])
    own &= positions[None] <= positions[:, None]
    seen = np.concatenate((text, own), axis=1)
    if window is not None:
        slots = np.concatenate((np.arange(length), positions))
        seen &= positions[:, None] - slots[None] < window
    return seen


def _scores(seen: BoolArray) -> Float[Tensor, "rows slots"]:
    return torch.zeros(seen.shape).masked_fill_(torch.from_numpy(~seen), -torch.inf)
