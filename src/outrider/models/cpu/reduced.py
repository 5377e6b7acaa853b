"""Draft models with fewer tokens: only some rows of the output head are computed.

The head of a small model is a large part of its weights, and most tokens are rare (FR-Spec, Zhao et
al. 2025, arXiv 2502.14856). A draft model that leaves out rare tokens proposes fewer right ones,
and each proposal takes less time.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import IntArray
from outrider.kernels.layout import FLOAT32, Model
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cpu.packed_weights import PackedModel, Packer
from outrider.models.quantization.grouped import quantize_groups


def first_tokens(count: int, vocab: int, ends: Sequence[int]) -> IntArray:
    """Return the first `count` ids, and those of end tokens, ascending.

    Merges of a byte-level BPE are numbered by their frequency in its training texts, so the first
    ids are frequent tokens.

    Raises:
        OptionError: a count below 1.
    """
    if count < 1:
        raise OptionError(f"draft_vocabulary is {count}", hint="Give at least one token")
    known = [end for end in ends if 0 <= end < vocab]
    return np.unique([*range(min(count, vocab)), *known]).astype(np.int64)


def with_vocabulary(model: NativeDecoder, ids: IntArray) -> NativeDecoder:
    """Return the model with a head of these tokens only; it shares all other weights.

    The logits of all other tokens are minus infinity, except those of `read_out`. Caches of the two
    models are the same.

    Args:
        model: the model.
        ids: `[tokens]` distinct ids, ascending.

    Raises:
        OptionError: ids that are not ascending, or outside the vocabulary.
    """
    size = model.info.vocab_size
    if not len(ids) or ids[0] < 0 or ids[-1] >= size or (np.diff(ids) <= 0).any():
        raise OptionError(
            f"a draft vocabulary of {len(ids)} tokens is not an ascending list of ids below {size}",
            hint="Give each id once, in ascending order",
        )
    rows: Float[Tensor, "tokens hidden"] = model.head_rows(ids)
    packer, whole = Packer(model.config), model.packed
    before = packer.arena.nbytes
    plain = whole.layout.head.kind == FLOAT32
    head = packer.matrix(rows if plain else quantize_groups(rows))
    layout = Model.from_buffer_copy(whole.layout)
    layout.head = head
    head_bytes = packer.arena.nbytes - before
    packed = PackedModel(layout, whole.layer_bytes, head_bytes, [packer, whole])
    reduced = copy(model)
    reduced.use_head(packed, np.ascontiguousarray(ids, dtype=np.int32))
    reduced.info = replace(model.info, weight_bytes=packed.weight_bytes)
    return reduced
