"""What a model tells about itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from outrider.core.types import Exactness
from outrider.core.values import JsonValue

_CPU = torch.device("cpu")


def _no_bytes() -> int:
    return 0


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A record of one model. Wrappers make theirs with `dataclasses.replace`.

    The fingerprint and the bytes of a token can take time to find out (weights are hashed, a cache
    is measured), so the record holds functions for them, which are called once, when first asked.

    Attributes:
        name: how errors and reports call the model.
        vocab_size: width of its logits.
        context_length: most tokens it can read.
        find_fingerprint: makes `fingerprint`.
        find_bytes_per_token: makes `bytes_per_token`.
        end_ids: tokens after which nothing follows.
        generation_defaults: what generation_config.json recommends (`temperature`, ...), as found.
        image_token_ids: ids that stand for images. They are read, and never drafted. Empty: the
            model reads no images.
        exactness: what its text is, compared with that of the model it stands for.
        reads_axes: whether a token may stand at several places (`Prompt.axes`).
        batch_invariant: whether a row is the same, bit for bit, whatever else a forward reads.
        device: where ids are read and logits lie.
        dtype: of the weights; None where there are none.
        num_parameters: numbers in all weights, tied ones once; None where it is unknown.
        weight_bytes: bytes of weights that one forward reads; None where it is unknown.
        threads_of: how many CPU threads share a forward of so many rows; None where that is up to
            PyTorch.
    """

    name: str
    vocab_size: int
    context_length: int
    find_fingerprint: Callable[[], str]
    find_bytes_per_token: Callable[[], int] = _no_bytes
    end_ids: tuple[int, ...] = ()
    generation_defaults: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    image_token_ids: frozenset[int] = frozenset()
    exactness: Exactness = Exactness.IDENTICAL
    reads_axes: bool = False
    batch_invariant: bool = False
    device: torch.device = _CPU
    dtype: torch.dtype | None = None
    num_parameters: int | None = None
    weight_bytes: int | None = None
    threads_of: Callable[[int], int] | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the weights change; calibrations are saved with it."""
        return self.find_fingerprint()

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of cache that one token takes; 0 where nothing is kept."""
        return self.find_bytes_per_token()
