"""Checks before loading whether weights and caches of all tiers fit into the device's memory."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch

from outrider.core.errors import MemoryPlanError
from outrider.core.values import JsonValue
from outrider.kernels.layout import GROUPS4_MIN, GROUPS8, grouped_bytes
from outrider.models.caches.kv_cache import SCALED
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.tensors import TensorInfo
from outrider.models.checkpoints.window import read_window
from outrider.models.cpu.cache import CACHE_DTYPES
from outrider.models.cpu.encoding import CHANNELS, INT4, KEPT, exact_embeddings
from outrider.models.cpu.formats import FORMATS
from outrider.models.llama.text_stack import text_checkpoint
from outrider.models.llama.weights import EMBED, HEAD
from outrider.protocols import LanguageModel

GIB = 1 << 30
OVERHEAD = 256 << 20
"""Bytes for activations, masks, logits and fragmentation of the allocator."""

_HINT = (
    "Use --dtype int8 (CPU) or bfloat16, a shorter --context-length, smaller models or another "
    "device"
)
_FLOATING = {"F64", "F32", "F16", "BF16"}


def _cache_dtype(weights: torch.dtype | None) -> torch.dtype:
    """Return the dtype of keys and values; with weights of integers it is at most float32."""
    return weights if weights is not None and weights.is_floating_point else torch.float32


def _cache_bytes(config: Mapping[str, JsonValue], weights: torch.dtype | None, cache: str) -> int:
    """Return the bytes of keys and values of one token, with scales."""
    dtype = CACHE_DTYPES.get(cache, _cache_dtype(weights))
    scales = torch.float32.itemsize / SCALED if dtype == torch.int8 else 0
    return ceil(cache_numbers(config) * (dtype.itemsize + scales))


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Memory that one tier needs.

    Attributes:
        tier: its name in reports.
        weights: bytes; 0 for a loaded model.
        cache: bytes of keys and values of one token.
        context_length: largest number of tokens that the tier reads; None sets no limit.
        texts: number of texts that the tier reads for one request, with guidance.
        kept: computes the most bytes of a cache for a number of tokens, under a policy; None: all
            rows are kept.
    """

    tier: str
    weights: int
    cache: int
    context_length: int | None = None
    texts: int = 1
    kept: Callable[[int], int] | None = None

    def cache_of(self, tokens: int) -> int:
        """Return the bytes of the caches of one request of `tokens` tokens."""
        return self.texts * (self.cache * tokens if self.kept is None else self.kept(tokens))

    @classmethod
    def of_checkpoint(
        cls,
        tier: str,
        checkpoint: Checkpoint,
        dtype: torch.dtype | None,
        cache_dtype: str = "auto",
    ) -> "Demand":
        """Estimate the demand from the headers and config.json, without reading weights.

        Args:
            tier: its name in reports.
            checkpoint: the checkpoint.
            dtype: dtype of the weights, as `planned_dtype` returns it.
            cache_dtype: dtype of keys and values; `auto` is the largest that can be chosen.
        """
        config = text_config(checkpoint.config)
        weights = _weights(checkpoint, dtype)
        if (text := text_checkpoint(checkpoint)) is not None:
            weights = _with_vision(checkpoint, text, dtype)
        return cls(
            tier=tier,
            weights=weights,
            cache=_cache_bytes(config, dtype, cache_dtype),
            context_length=read_window(config).tokens,
        )

    @classmethod
    def of_model(cls, tier: str, model: LanguageModel) -> "Demand":
        """Compute the demand of a model whose weights are in memory."""
        info = model.info
        return cls(
            tier=tier, weights=0, cache=info.bytes_per_token, context_length=info.context_length
        )


def _weights(checkpoint: Checkpoint, dtype: torch.dtype | None) -> int:
    """Return the bytes of all weights; embeddings beside a head are not quantised."""
    tensors = checkpoint.tensors
    exact = exact_embeddings(checkpoint, dtype) if EMBED in tensors and HEAD in tensors else dtype
    return sum(_bytes(t, exact if name == EMBED else dtype) for name, t in tensors.items())


def _bytes(tensor: TensorInfo, dtype: torch.dtype | None) -> int:
    """Return the bytes of a tensor in memory; see `encode` in `cpu/encoding.py`."""
    numbers = tensor.num_elements
    if tensor.stored is None and tensor.dtype not in _FLOATING:
        return tensor.nbytes
    if dtype is not None and dtype.is_floating_point:
        return numbers * dtype.itemsize
    if len(tensor.shape) != 2:
        return numbers * torch.float32.itemsize
    if dtype is None:
        if tensor.stored is not None and tensor.stored.packed_bytes is not None:
            return tensor.stored.packed_bytes
        if tensor.dtype in KEPT:
            return numbers * KEPT[tensor.dtype].itemsize
    if dtype == CHANNELS:
        return numbers
    return grouped_bytes(GROUPS4_MIN if dtype == INT4 else GROUPS8, *tensor.shape)


def planned_dtype(
    checkpoint: Checkpoint, asked: str | torch.dtype, kind: torch.dtype
) -> torch.dtype | None:
    """Return the dtype for which memory is planned, as the compiled runner takes it.

    None keeps what the file stores; with `auto`, integers stay integers.

    Args:
        checkpoint: the checkpoint.
        asked: what the user has given.
        kind: what `resolve_dtype` makes of it.
    """
    if str(asked) == "auto" and kind.is_floating_point and stores_integers(checkpoint):
        return None
    return kind if kind.is_floating_point else FORMATS[str(asked).removeprefix("torch.")].dtype


def stores_integers(checkpoint: Checkpoint) -> bool:
    """Whether the weights of a checkpoint are quantised."""
    tensors = checkpoint.tensors.values()
    return any(info.stored is not None and info.dtype not in _FLOATING for info in tensors)


def _with_vision(checkpoint: Checkpoint, text: Checkpoint, dtype: torch.dtype | None) -> int:
    """Compute the bytes of a text stack with its vision encoder.

    The vision encoder has its own embeddings and does not use int8.
    """
    own = {(info.file, info.offset) for info in text.tensors.values()}
    sight = [t for t in checkpoint.tensors.values() if (t.file, t.offset) not in own]
    sight += [t for name, t in text.tensors.items() if name.endswith("embed_tokens.weight")]
    wide = _cache_dtype(dtype)
    return _weights(text, dtype) + sum(_bytes(t, wide) for t in sight)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLine:
    """One line of the memory plan: what it is for, and its bytes."""

    label: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Planned and available memory.

    Attributes:
        lines: weights and cache of each tier, then the overhead; bytes.
        available: bytes on `device`.
    """

    lines: tuple[MemoryLine, ...]
    available: int
    device: str

    @property
    def total(self) -> int:
        """Total bytes of all lines."""
        return sum(line.nbytes for line in self.lines)

    @property
    def fits(self) -> bool:
        """Whether the total is at most the available memory."""
        return self.total <= self.available

    def __str__(self) -> str:
        """Show the sum in one line."""
        terms = " + ".join(f"{_gib(line.nbytes)} {line.label}" for line in self.lines)
        return f"{terms} = {_gib(self.total)}, {_gib(self.available)} available on {self.device}"


def plan_memory(
    demands: Sequence[Demand],
    *,
    context: int,
    sequences: int = 1,
    device: torch.device | str = "cpu",
    available: int | None = None,
) -> MemoryPlan:
    """Add up the memory of all tiers for `sequences` texts of `context` tokens each.

    Args:
        demands: one for each tier.
        context: tokens of a text; limited by the window of each tier.
        sequences: number of texts decoded at once.
        device: device of weights and caches.
        available: available bytes; None queries the device.

    Raises:
        MemoryPlanError: the models do not fit; the message shows the sum in one line.
    """
    lines: list[MemoryLine] = []
    for demand in demands:
        tokens = min(context, demand.context_length or context)
        times = f" x {sequences}" if sequences > 1 else ""
        if demand.weights:
            lines.append(MemoryLine(label=f"{demand.tier} weights", nbytes=demand.weights))
        lines.append(
            MemoryLine(
                label=f"{demand.tier} cache at {tokens} tokens{times}",
                nbytes=demand.cache_of(tokens) * sequences,
            )
        )
    lines.append(MemoryLine(label="overhead", nbytes=OVERHEAD))
    if available is None:
        available = available_memory(device)
    plan = MemoryPlan(lines=tuple(lines), available=available, device=str(device))
    if not plan.fits:
        raise MemoryPlanError(f"not enough memory: {plan}", hint=_HINT)
    return plan


def _gib(nbytes: int) -> str:
    if nbytes < GIB // 10:
        return f"{nbytes / (1 << 20):.1f} MiB"
    return f"{nbytes / GIB:.1f} GiB"


# -- sizes from a configuration --------------------------------------------------------------

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_WIDTH = ("hidden_size", "n_embd", "d_model")


def text_config(config: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """Return the part of config.json that describes the language model."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def cache_numbers(config: Mapping[str, JsonValue]) -> int:
    """Return how many numbers one token adds to the cache: keys and values of all layers.

    Latent attention (DeepSeek) is counted as `transformers` stores it, expanded to all heads.
    """
    layers, heads = _first(config, *_LAYERS) or 0, _first(config, *_HEADS) or 1
    if config.get("kv_lora_rank"):
        names = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        return layers * heads * sum(config.get(name) or 0 for name in names)
    shared = config.get("multi_query") and not config.get("new_decoder_architecture")
    kv_heads = 1 if shared else _first(config, "num_key_value_heads", "num_kv_heads") or heads
    head_dim = config.get("head_dim") or (_first(config, *_WIDTH) or 0) // heads
    return 2 * layers * kv_heads * head_dim


def _first(config: Mapping[str, JsonValue], *names: str) -> int | None:
    return next((int(config[name]) for name in names if config.get(name)), None)


# -- memory of a device ----------------------------------------------------------------------


def available_memory(device: torch.device | str) -> int:
    """Return the free bytes on `device`; for unified memory (MPS), those of the machine."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return _physical()
    return _unused() or _physical()


def _unused(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Read the memory that Linux reports as available."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _physical() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
