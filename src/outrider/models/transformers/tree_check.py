"""Tests when a model is loaded whether it reads draft trees correctly.

Many models accept positions and masks, some ignore them, and a wrong tree gives no error but wrong
text. Therefore a small tree is read and compared with plain passes over the same texts, before and
after a commit.
"""

import math
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from outrider.core.errors import CheckpointError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.protocols import LanguageModel, Segment

PROMPT_LENGTH = 5
SIBLINGS = 8
"""Many siblings: a model that uses slots as positions, or reads siblings, has a large error."""
WINDOW = 3
"""Sliding windows have this size during the check, so that a path of four tokens exceeds it."""

TOLERANCE = {
    torch.float64: 1e-8,
    torch.float32: 1e-3,
    torch.float16: 1e-2,
    torch.bfloat16: 3e-2,
}
"""Largest error allowed for each dtype, as a share of the spread of the logits."""


class Checkable(LanguageModel, Protocol):
    """A model that can also read whole texts in a plain pass."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        ...

    def plain_logits(self, texts: list[list[int]]) -> Float[Tensor, "texts length vocab"]:
        """Return the logits of a plain pass over texts of equal length: no cache, mask or
        positions.
        """
        ...


def check_trees(model: Checkable) -> torch.dtype | None:
    """Compare a wide tree, and a commit of one path, with plain passes.

    Returns:
        The dtype in which some parts of a model in float64 compute; None if none was noticed.

    Raises:
        CheckpointError: the results differ; the message names the model and the error.
    """
    try:
        error = _largest_error(model)
    except Exception as failure:
        reason = f"{type(failure).__name__}: {' '.join(str(failure).split())[:120]}"
        raise _refusal(model.info.name, f"it fails on one ({reason})") from failure
    if math.isnan(error):
        raise CheckpointError(
            f"model {model.info.name} returns NaN as logits in {model.dtype}",
            hint="Check its weights; float16 overflows where bfloat16 does not",
        )
    if error <= TOLERANCE.get(model.dtype, TOLERANCE[torch.bfloat16]):
        return None
    if model.dtype == torch.float64 and error <= TOLERANCE[torch.float32] and _narrows(model):
        return torch.float32
    raise _refusal(
        model.info.name,
        f"its logits differ by {error:.2g} of their spread, so it ignores masks or positions",
    )


class _Narrowing(TorchDispatchMode):
    """Notes whether a float64 tensor is converted to float32."""

    found = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        first = args[0] if args else None
        if isinstance(out, Tensor) and isinstance(first, Tensor):
            self.found |= first.dtype == torch.float64 and out.dtype == torch.float32
        return out


def _narrows(model: Checkable) -> bool:
    """Whether a model in float64 computes some of its parts in float32, as Gemma 2 and GPT-J do.

    Small differences of its rows are then rounding: a difference in the last bit of float64 can
    turn into one in the last bit of float32.
    """
    with _Narrowing() as seen:
        model.plain_logits([_distinct_ids(PROMPT_LENGTH, model.info.vocab_size)])
    return seen.found


def _largest_error(model: Checkable) -> float:
    """Return the largest difference of any logit, as a share of the spread of the plain logits."""
    *ids, c, d, e = _distinct_ids(PROMPT_LENGTH + SIBLINGS + WINDOW, model.info.vocab_size)
    prompt, siblings = ids[:PROMPT_LENGTH], ids[PROMPT_LENGTH:]
    first, last = siblings[0], siblings[-1]
    plain = model.plain_logits([[*prompt, first, c, d, e], [*prompt, last, c, d, e]])
    [cache] = model.start([Prompt(token_ids=tuple(prompt))])
    parents = as_ids([-1] * SIBLINGS + [SIBLINGS - 1, SIBLINGS, SIBLINGS + 1])
    tree = Segment(cache, as_ids([*siblings, c, d, e]), parents)
    [drafted] = model.forward([tree], [np.array([-1, 0, *range(SIBLINGS - 1, len(parents))])])
    cache.commit([last, c, d, e])
    [kept] = model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
    read = torch.cat((drafted.logits, kept.logits)).double()
    expected = torch.cat(
        (
            plain[1, PROMPT_LENGTH - 1 : PROMPT_LENGTH],
            plain[0, PROMPT_LENGTH : PROMPT_LENGTH + 1],
            plain[1, PROMPT_LENGTH:],
            plain[1, -1:],
        )
    ).to(read)
    spread = (expected.max() - expected.min()).clamp_min(torch.finfo(read.dtype).tiny)
    return float((read - expected).abs().max() / spread)


def _distinct_ids(count: int, vocab_size: int) -> list[int]:
    """Return ids spread over the vocabulary; they repeat only if it is smaller than `count`."""
    return [int(i) for i in np.linspace(1, vocab_size - 2, count).round() % vocab_size]


def _refusal(name: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"model {name} cannot read draft trees: {why}",
        hint="Use a model that supports position_ids and 4D attention masks, such as Llama or Qwen",
    )
