"""The likelihood of a given text, read in pieces as if it were written."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from outrider.core.types import Prompt, as_ids
from outrider.protocols import LanguageModel, Segment


def log_likelihoods(
    model: LanguageModel, prompt: Prompt, ids: Sequence[int], every: int
) -> tuple[list[float], Any]:
    """Natural logarithm of each token's probability, and the cache after all of them.

    Tokens are committed `every` at a time. Where that is the interval of a selection, it looks
    again just as it would while writing them.

    Raises:
        ContextError: prompt and text do not fit into the window.
    """
    [cache] = model.start([prompt])
    found: list[float] = []
    for at in range(0, len(ids), every):
        piece = as_ids(ids[at : at + every])
        [rows] = model.forward([Segment(cache, piece)], [np.arange(-1, len(piece) - 1)])
        distributions = torch.log_softmax(rows.logits.double(), dim=-1)
        found += distributions[torch.arange(len(piece)), torch.as_tensor(piece)].tolist()
        cache.commit(piece)
    return found, cache
