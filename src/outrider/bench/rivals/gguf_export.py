"""Writes Llama-shaped checkpoints as GGUF files, for engines that read only this format.

Uses the `gguf` package. In llama.cpp's `llama` architecture, rotary embeddings pair adjacent
dimensions of a head; in Hugging Face they pair the two halves. Therefore queries and keys are
reordered. The architectures `qwen2` and `qwen3` pair halves as well.
"""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from outrider.core.errors import CheckpointError, MissingExtraError, OptionError
from outrider.models.checkpoints.checkpoint import Checkpoint, load_tensors
from outrider.models.checkpoints.defaults import end_ids
from outrider.models.checkpoints.gguf.names import OUTER, PARTS
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.config import DecoderConfig, read_config
from outrider.models.llama.weights import EMBED, HEAD, expected_shapes

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["KINDS", "export_gguf", "write_tokens"]

KINDS = ("f32", "f16", "q8_0")
"""Storage types of matrices; norms and biases are always float32."""

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_BLOCK = 32
"""Number of values that share a scale in q8_0."""

_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
"""GGUF codes of token types."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Stored:
    """One tensor of the file and its source; no source: the frequency factors of RoPE."""

    name: str
    source: str | None
    shape: tuple[int, ...]
    kind: str

    @property
    def nbytes(self) -> int:
        numbers = int(np.prod(self.shape))
        sizes = {"f32": numbers * 4, "f16": numbers * 2, "q8_0": numbers // _BLOCK * (_BLOCK + 2)}
        return sizes[self.kind]


def export_gguf(folder: str | Path, out: str | Path, kind: str = "q8_0") -> Path:
    """Write the checkpoint at `folder` as the GGUF file `out` and return `out`.

    Args:
        folder: a Llama, Mistral, Qwen2 or Qwen3 checkpoint.
        out: the file; it is replaced when the new one is complete.
        kind: `f32`, `f16` or `q8_0`. In `q8_0`, rows whose length is not a multiple of 32 stay
            float32.

    Raises:
        MissingExtraError: the `gguf` package is not installed.
        OptionError: the kind is unknown.
        CheckpointError: the architectures of GGUF do not cover the checkpoint.
    """
    if kind not in KINDS:
        raise OptionError(f"GGUF kind {kind!r} is not supported", hint=f"Give {', '.join(KINDS)}")
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise MissingExtraError("gguf", "bench") from None
    checkpoint = open_checkpoint(folder)
    config = read_config(checkpoint.config)
    _check(checkpoint, config)
    target = Path(out).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        writer = GGUFWriter(scratch, _ARCHITECTURES[checkpoint.config["model_type"]])
        _write_header(writer, checkpoint, config, kind)
        _write_tensors(writer, checkpoint, config, kind)
        writer.close()
        os.replace(scratch, target)
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()
    return target


def _check(checkpoint: Checkpoint, config: DecoderConfig) -> None:
    kind = checkpoint.config["model_type"]
    reason = None
    if kind not in _ARCHITECTURES:
        reason = f"model_type {kind!r}"
    elif any(
        window is not None and window < config.rope.context_length for window in config.windows
    ):
        reason = "a sliding window"
    elif config.rope.amplitude != 1 or _rope_type(checkpoint) == "dynamic":
        reason = f"RoPE scaling {_rope_type(checkpoint)!r}"
    elif config.activation != "silu":
        reason = f"activation {config.activation!r}"
    if reason:
        raise CheckpointError(f"{checkpoint.path} has {reason}, which the export does not support")


def _rope_type(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return rope.get("rope_type", rope.get("type", "default"))


# -- header ----------------------------------------------------------------------------------


def _write_header(
    writer: "GGUFWriter", checkpoint: Checkpoint, config: DecoderConfig, kind: str
) -> None:
    from gguf import LlamaFileType as FileType

    writer.add_name("/".join(checkpoint.path.resolve().parts[-2:]))
    writer.add_context_length(config.rope.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(_base(config))
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    types = (FileType.ALL_F32, FileType.MOSTLY_F16, FileType.MOSTLY_Q8_0)
    writer.add_file_type(types[KINDS.index(kind)])
    write_tokens(writer, checkpoint, config.vocab_size)


def _base(config: DecoderConfig) -> float:
    """Return a base for the frequencies; `rope_freqs` corrects those that differ."""
    slowest, pairs = float(config.rope.frequencies[-1]), len(config.rope.frequencies)
    return slowest ** (-pairs / (pairs - 1)) if pairs > 1 else 10_000.0


def write_tokens(writer: "GGUFWriter", checkpoint: Checkpoint, vocab_size: int) -> None:
    """Write the byte-level tokenizer of tokenizer.json; omit any other: ids still work.

    Args:
        writer: the file, before its header is written.
        checkpoint: the folder with the tokenizer.
        vocab_size: number of tokens; unused ids follow the known ones.
    """
    tokenizer = _tokenizer(checkpoint.path)
    model = tokenizer.get("model", {})
    if model.get("type") != "BPE" or not model.get("merges"):
        writer.add_tokenizer_model("no_vocab")
        return
    special = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    known = {token_id: token for token, token_id in (model["vocab"] | special).items()}
    controls = set(special.values())
    ids = range(vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitting(tokenizer.get("pre_tokenizer") or {}))
    writer.add_token_list([known.get(token_id, f"[PAD{token_id}]") for token_id in ids])
    writer.add_token_types(
        [
            _UNUSED if token_id not in known else _CONTROL if token_id in controls else _NORMAL
            for token_id in ids
        ]
    )
    merges = model["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_add_bos_token(False)
    for token_id in end_ids(checkpoint.generation, checkpoint.config)[:1]:
        writer.add_eos_token_id(token_id)


def _splitting(pre_tokenizer: dict[str, Any]) -> str:
    """Return llama.cpp's name for the way in which a byte-level tokenizer cuts a text."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    return "default"


def _tokenizer(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer.json"
    try:
        return json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except ValueError:
        raise CheckpointError(f"{file} is not JSON") from None


# -- tensors ---------------------------------------------------------------------------------


def _write_tensors(
    writer: "GGUFWriter", checkpoint: Checkpoint, config: DecoderConfig, kind: str
) -> None:
    """Write names and shapes of all tensors, then their data one after the other."""
    from gguf import GGMLQuantizationType

    stored = list(_stored(checkpoint, config, kind))
    for one in stored:
        # for a float type the shape is in numbers, not in bytes
        writer.add_tensor_info(
            one.name,
            one.shape,
            np.dtype(np.float32),
            one.nbytes,
            raw_dtype=GGMLQuantizationType[one.kind.upper()],
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for one in stored:
        writer.write_tensor_data(_data(checkpoint, config, one))


def _stored(checkpoint: Checkpoint, config: DecoderConfig, kind: str) -> Iterator[_Stored]:
    shapes = expected_shapes(config)
    if config.tied and EMBED not in checkpoint.tensors:
        shapes = {HEAD if name == EMBED else name: shape for name, shape in shapes.items()}
    for name, shape in shapes.items():
        own = "f32" if len(shape) < 2 or (kind == "q8_0" and shape[1] % _BLOCK) else kind
        yield _Stored(_gguf_name(name, config), name, shape, own)
    if (_factors(config) != 1).any():
        yield _Stored("rope_freqs.weight", None, (config.head_dim // 2,), "f32")


def _gguf_name(name: str, config: DecoderConfig) -> str:
    if name in OUTER:
        return OUTER[EMBED if config.tied and name == HEAD else name]
    _, _, layer, rest = name.split(".", 3)
    part, ending = rest.rsplit(".", 1)
    return f"blk.{layer}.{PARTS[part]}.{ending}"


def _data(checkpoint: Checkpoint, config: DecoderConfig, one: _Stored) -> Array:
    if one.source is None:
        return _factors(config)
    tensor = load_tensors(checkpoint, [one.source], torch.float32)[one.source].numpy()
    if _ARCHITECTURES[checkpoint.config["model_type"]] == "llama":
        tensor = _reordered(one.source, tensor, config)
    from gguf import GGMLQuantizationType, quants

    return quants.quantize(tensor, GGMLQuantizationType[one.kind.upper()])


def _reordered(name: str, tensor: Array, config: DecoderConfig) -> Array:
    """Reorder the rows of each query and key head so that the two halves alternate."""
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    halves = tensor.reshape(heads, 2, config.head_dim // 2, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)


def _factors(config: DecoderConfig) -> Array:
    """Return llama.cpp's divisors of the frequencies of `_base`; exactly 1 for correct ones."""
    pairs = len(config.rope.frequencies)
    powers = _base(config) ** -(np.arange(pairs) / pairs)
    factors = powers / config.rope.frequencies.double().numpy()
    return np.where(np.abs(factors - 1) < 1e-6, 1, factors).astype(np.float32)
