"""What the other packages need to know about a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from outrider.core.layers import Exits
from outrider.core.types import Exactness, Prompt
from outrider.core.values import JsonValue
from outrider.protocols.masks import BlockMask

_CPU = torch.device("cpu")


def _no_bytes() -> int:
    return 0


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The properties of one model. Wrappers derive theirs with `dataclasses.replace`.

    The fingerprint and the bytes per token can be slow to compute (weights are hashed, a cache is
    measured). The record therefore holds functions for them, which are called once, on first
    access.

    Attributes:
        name: the name of the model in errors and reports.
        vocab_size: width of its logits.
        context_length: the largest number of tokens that it can read.
        context_reason: where that number comes from.
        find_fingerprint: computes `fingerprint`.
        find_bytes_per_token: computes `bytes_per_token`.
        end_ids: tokens after which generation ends.
        generation_defaults: what generation_config.json recommends (`temperature`, ...), unchanged.
        image_token_ids: ids that represent images. They are read, but never drafted. Empty: the
            model reads no images.
        exactness: how its text compares with the text of the model that it replaces.
        reads_axes: whether a token may have several position axes (`Prompt.axes`).
        reads_prompts: whether drafts may hold rows that are no tokens (`Draft.prompts`).
        whole_prompts: what follows depends on where the prompt ends, as with guidance by another
            prompt. Such prompts are read at once, and a text is not continued as a prompt.
        guidance: the scale of classifier-free guidance, or another guidance method with its
            options; None: no guidance is used.
        batch_invariant: whether a row is bit-identical regardless of what else a forward reads.
        device: where ids are read and logits are stored.
        dtype: of the weights; None for a model without weights.
        narrow_dtype: the dtype of parts that compute in fewer bits than `dtype` has; None: no part.
        weights: the dtype as the option `dtype` names it, with the formats of a quantised file;
            empty: `dtype` says all.
        weights_reason: why that dtype, and that of the cache, were chosen.
        kv_policy: the policy that drops rows of the cache, with its options; empty: all are kept.
        cache: the dtype of keys and values, as the option `cache_dtype` names it; empty: that of
            the weights.
        num_parameters: number of weights, tied weights counted once; None if unknown.
        weight_bytes: bytes of weights that a forward of one row reads; None if unknown.
        threads_of: maps the number of rows of a forward to the number of CPU threads used; None
            where PyTorch decides.
        exits: the early exits that the model was trained for; None: it has none.
        mask: the masks that it was trained to predict blocks of; None: it was not.
    """

    name: str
    vocab_size: int
    context_length: int
    context_reason: str = ""
    find_fingerprint: Callable[[], str]
    find_bytes_per_token: Callable[[], int] = _no_bytes
    end_ids: tuple[int, ...] = ()
    generation_defaults: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    image_token_ids: frozenset[int] = frozenset()
    exactness: Exactness = Exactness.IDENTICAL
    reads_axes: bool = False
    reads_prompts: bool = False
    whole_prompts: bool = False
    guidance: float | str | None = None
    batch_invariant: bool = False
    device: torch.device = _CPU
    dtype: torch.dtype | None = None
    narrow_dtype: torch.dtype | None = None
    weights: str = ""
    weights_reason: str = ""
    cache: str = ""
    kv_policy: str = ""
    num_parameters: int | None = None
    weight_bytes: int | None = None
    threads_of: Callable[[int], int] | None = None
    exits: Exits | None = None
    mask: BlockMask | None = None

    def reads_in_parts(self, prompt: Prompt) -> bool:
        """Whether a prompt can be read in parts, and again together with its output."""
        return prompt.plain and not self.whole_prompts

    @cached_property
    def fingerprint(self) -> str:
        """A hash that changes when the weights change; calibrations are stored under it."""
        return self.find_fingerprint()

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of cache per token; 0 for a model that caches nothing."""
        return self.find_bytes_per_token()
