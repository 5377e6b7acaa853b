"""GGUF files written byte by byte, so that every field can be wrong."""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.models.checkpoints.gguf.architectures import ARCHITECTURES
from outrider.models.checkpoints.gguf.names import OUTER, PARTS
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tensors import TensorInfo
from outrider.models.quantization.blocks import BLOCK_FORMATS, BlockFormat

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""Rotary settings with a factor for each frequency."""

U32, I32, F32, BOOL, TEXT, LIST, U64 = 4, 5, 6, 7, 8, 9, 10
_CODES = {U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q"}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(given: Any) -> bytes:
    """The type and the bytes of a value."""
    if isinstance(given, bytes):  # already encoded
        return given
    if isinstance(given, bool):
        return struct.pack("<I?", BOOL, given)
    if isinstance(given, str):
        return struct.pack("<I", TEXT) + text(given)
    if isinstance(given, float):
        return struct.pack("<If", F32, given)
    if isinstance(given, int):
        return struct.pack("<II", U32, given)
    kind = TEXT if all(isinstance(one, str) for one in given) else I32
    if any(isinstance(one, float) for one in given):
        kind = F32
    parts = [text(one) if kind == TEXT else struct.pack("<" + _CODES[kind], one) for one in given]
    return struct.pack("<IIQ", LIST, kind, len(given)) + b"".join(parts)


@dataclass(frozen=True)
class Tensor:
    """One tensor: `shape` has outputs first."""

    name: str
    number: int
    shape: tuple[int, ...]
    data: bytes
    offset: int | None = None


@dataclass(frozen=True)
class GgufFile:
    """What is written; fields that are None follow from the others."""

    settings: Mapping[str, Any]
    tensors: Sequence[Tensor] = ()
    magic: bytes = b"GGUF"
    version: int = 3
    num_tensors: int | None = None
    num_settings: int | None = None
    extra: bytes = field(default=b"")

    def _parts(self) -> tuple[bytes, bytes]:
        count = len(self.tensors) if self.num_tensors is None else self.num_tensors
        pairs = len(self.settings) if self.num_settings is None else self.num_settings
        head = self.magic + struct.pack("<IQQ", self.version, count, pairs)
        head += b"".join(text(key) + value(given) for key, given in self.settings.items())
        head += self.extra
        data = b""
        for tensor in self.tensors:
            offset = len(data) if tensor.offset is None else tensor.offset
            head += text(tensor.name) + struct.pack("<I", len(tensor.shape))
            head += b"".join(struct.pack("<Q", axis) for axis in reversed(tensor.shape))
            head += struct.pack("<IQ", tensor.number, offset)
            data += tensor.data + bytes(-len(tensor.data) % 32)
        return head + bytes(-len(head) % 32), data

    def bytes(self) -> bytes:
        return b"".join(self._parts())

    def data_start(self) -> int:
        """Bytes before the weights."""
        return len(self._parts()[0])

    def write(self, file: Path) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.bytes())
        return file

    def changed(self, **changes: Any) -> "GgufFile":
        return replace(self, **changes)


def number_of(name: str) -> int:
    return next(number for number, known in BLOCK_FORMATS.items() if known.name == name)


def random_blocks(known: BlockFormat, shape: tuple[int, int], seed: int = 0) -> bytes:
    """Random weights of a useful size."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(
        0, 256, (shape[0] * shape[1] // known.weights, known.nbytes), dtype=np.uint8
    )
    places = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q4_K": [0, 2], "Q5_0": [0], "Q6_K": [208]}
    for place in places[known.name]:
        scale = generator.uniform(1e-4, 1e-2, (len(blocks), 1)).astype(np.float16)
        if known.name in ("Q4_K", "Q6_K"):
            scale /= 32
        if known.name == "Q4_1" and place == 2:
            scale = -8 * scale
        blocks[:, place : place + 2] = scale.view(np.uint8)
    return blocks.tobytes()


def from_checkpoint(
    folder: Path, formats: Mapping[str, str], default: str = "F32", **settings: Any
) -> GgufFile:
    """A GGUF file of a checkpoint, as the converter of llama.cpp writes it.

    Args:
        folder: a Hugging Face checkpoint with these shapes; not of llama, whose rows are reordered.
        formats: the format of a tensor of GGUF without `blk.N.` and ending, such as `attn_q`.
        default: the format of other matrices; F32 keeps the weights of the folder.
        settings: further settings.
    """
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    kind = config["model_type"].removesuffix("_text")
    given: dict[str, Any] = {
        "general.architecture": kind,
        f"{kind}.block_count": config["num_hidden_layers"],
        f"{kind}.context_length": config["max_position_embeddings"],
        f"{kind}.embedding_length": config["hidden_size"],
        f"{kind}.feed_forward_length": config["intermediate_size"],
        f"{kind}.attention.head_count": config["num_attention_heads"],
        f"{kind}.attention.head_count_kv": config["num_key_value_heads"],
        f"{kind}.attention.key_length": config["head_dim"],
        f"{kind}.attention.value_length": config["head_dim"],
        f"{kind}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
    }
    given |= {f"{kind}.{name}": one for name, one in _more_settings(kind, config).items()}
    tensors = [
        _tensor(name, info, formats, default, kind, config)
        for name, info in sorted(checkpoint.tensors.items())
    ]
    return GgufFile(given | settings, [*tensors, *_factors(config)])


def _more_settings(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    if kind not in ("gemma2", "gemma3", "phi3", "granite", "glm4"):
        return {}
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    found: dict[str, Any] = {"rope.freq_base": float(rope["rope_theta"])}
    if rope.get("rope_type") == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if config.get("sliding_window") or kind == "phi3":
        found["attention.sliding_window"] = config["sliding_window"] or 0
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if name in config and kind.startswith("gemma"):
            found[name] = float(config[name] or 0)
    if kind == "gemma3":
        local = config["rope_parameters"]["sliding_attention"]["rope_theta"]
        found["rope.freq_base_swa"] = float(local)
        slides = [one == "sliding_attention" for one in config["layer_types"]]
        found["attention.sliding_window_pattern"] = booleans(slides)
    if kind == "granite":
        names = ("embedding_multiplier", "residual_multiplier", "attention_multiplier")
        theirs = ("embedding_scale", "residual_scale", "attention.scale")
        found |= {new: float(config[old]) for old, new in zip(names, theirs, strict=True)}
        found["logit_scale"] = float(config["logits_scaling"])
    if kind in ("phi3", "glm4"):
        share = rope.get("partial_rotary_factor", 1.0)
        found["rope.dimension_count"] = int(config["head_dim"] * share)
    if kind == "phi3":
        original = config["original_max_position_embeddings"]
        found["rope.scaling.original_context_length"] = original
        if "short_factor" in rope:
            factor = config["max_position_embeddings"] / original
            amplitude = math.sqrt(1 + math.log(factor) / math.log(original))
            found["rope.scaling.attn_factor"] = rope.get("attention_factor", amplitude)
    return found


def _factors(config: Mapping[str, Any]) -> list[Tensor]:
    rope = config.get("rope_parameters") or {}
    found: list[Tensor] = []
    for name in ("long", "short"):
        if f"{name}_factor" in rope:
            factors = np.array(rope[f"{name}_factor"], np.float32)
            tensor = Tensor(f"rope_factors_{name}.weight", 0, factors.shape, factors.tobytes())
            found.append(tensor)
    return found


def booleans(given: Sequence[bool]) -> bytes:
    """A list of booleans, encoded."""
    return struct.pack("<IIQ", LIST, BOOL, len(given)) + bytes(given)


def _tensor(
    name: str,
    info: TensorInfo,
    formats: Mapping[str, str],
    default: str,
    architecture: str,
    config: Mapping[str, Any],
) -> Tensor:
    known = ARCHITECTURES[architecture]
    if name in OUTER:
        theirs = OUTER[name]
        part = theirs.removesuffix(".weight")
    else:
        _, _, layer, rest = name.split(".", 3)
        part, ending = rest.rsplit(".", 1)
        part = {**PARTS, **known.parts}[part]
        theirs = f"blk.{layer}.{part}.{ending}"
    kind = formats.get(part, default) if len(info.shape) == 2 else "F32"
    block = BLOCK_FORMATS[number_of(kind)]
    if kind != "F32":
        data = random_blocks(block, (info.shape[0], info.shape[1]), seed=len(theirs))
        return Tensor(theirs, number_of(kind), info.shape, data)
    values = plain(info)
    if architecture.startswith("gemma") and "norm" in name:
        values = values + np.float32(1)
    if known.reordered and part in ("attn_q", "attn_k"):
        heads = config["num_attention_heads" if part == "attn_q" else "num_key_value_heads"]
        pairs = values.reshape(heads, 2, len(values) // heads // 2, -1)
        values = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(info.shape)
    return Tensor(theirs, 0, info.shape, values.tobytes())


def plain(info: TensorInfo) -> NDArray[Any]:
    """The float32 numbers of a tensor in a safetensors file."""
    raw = np.fromfile(info.file, np.float32, int(np.prod(info.shape)), offset=info.offset)
    return raw.reshape(info.shape)
