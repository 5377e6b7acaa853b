"""Which tokens of a text were left to the slow side, and which of them it changed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from outrider.core.types import Prompt, as_ids
from outrider.guidance.mixed import Mixed
from outrider.guidance.routing.fs_gen import Asking
from outrider.protocols import LanguageModel, Segment


@dataclass(frozen=True, slots=True)
class Steps:
    """What happened at each token of a text.

    Attributes:
        routed: `[tokens]` whether the slow side was asked.
        changed: `[tokens]` whether it was asked, and its best token is not that of the small model.
    """

    routed: NDArray[np.bool_]
    changed: NDArray[np.bool_]

    @property
    def frequency(self) -> float:
        """The share of tokens for which the slow side was asked."""
        return float(self.routed.mean()) if len(self.routed) else 0.0

    @property
    def mismatch(self) -> float:
        """The share of these for which it changed the token; 0 if it was never asked."""
        asked = int(self.routed.sum())
        return int(self.changed.sum()) / asked if asked else 0.0


def steps_of(model: LanguageModel, prompt: Prompt, output: Sequence[int]) -> Steps:
    """Return what happened at each token of a text that a model of `fs-gen` has written.

    The routers depend on the text only, so that the text is read once more, at once. A router near
    its threshold can decide otherwise there if the model's rows depend on what else is read.

    Args:
        model: built from an `fs-gen` recipe.
        prompt: of the text.
        output: the generated tokens.

    Raises:
        TypeError: the model is not one of `fs-gen`.
    """
    if not isinstance(model, Mixed) or not isinstance(model.mixer, Asking):
        raise TypeError(f"{model.info.name} is not guided by fs-gen")
    fast = _rows(model.sources[1].model, prompt, output)
    mixed = _rows(model, prompt, output)
    routed = model.mixer.asks(fast).cpu()
    changed = routed & (fast.argmax(dim=-1).cpu() != mixed.argmax(dim=-1).cpu())
    return Steps(routed.numpy(), changed.numpy())


def _rows(model: LanguageModel, prompt: Prompt, output: Sequence[int]) -> torch.Tensor:
    [cache] = model.start([prompt])
    [rows] = model.forward(
        [Segment(cache, as_ids(output[:-1]))], [as_ids(range(-1, len(output) - 1))]
    )
    return rows.logits
