"""Writes a GGUF file of random weights in the shape and with the types of a real model.

    python -m benchmarks.large_file.random_gguf FILE --layers 32 --hidden 4096 --inner 11008

The file has the types of llama.cpp's Q4_K_M: values and the second matrix of the MLP in Q6_K in
the layers that `more_bits` names, the output in Q6_K, all other matrices in Q4_K. One tensor is
held in memory at a time. The tokenizer is that of the `tiny` family, filled up with unused ids.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = {"F32": (1, 4), "Q4_K": (256, 144), "Q6_K": (256, 210)}
"""Weights and bytes of a block."""
_BLOCKS_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a Llama model; widths are multiples of 256. The default is Llama-2-7B."""

    layers: int = 32
    hidden: int = 4096
    inner: int = 11008
    heads: int = 32
    kv_heads: int = 32
    vocab: int = 32000
    context: int = 4096

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True)
class _Planned:
    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        weights, nbytes = _BLOCK_BYTES[self.kind]
        return int(np.prod(self.shape)) // weights * nbytes


def more_bits(layer: int, layers: int) -> bool:
    """Whether llama.cpp's Q4_K_M gives values and the second matrix of the MLP six bits."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def write_random(file: Path, shape: Shape, seed: int = 0) -> Path:
    """Write the file and return it. It is replaced if it exists."""
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

    from outrider.bench.rivals.gguf_export import write_tokens
    from outrider.models.checkpoints.opening import open_checkpoint
    from outrider.models.sources.families import family

    file.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(file, "llama")
    writer.add_name("random")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_K_M)
    write_tokens(writer, open_checkpoint(family("tiny")["target"]), shape.vocab)
    planned = list(_planned(shape))
    for one in planned:
        kind = GGMLQuantizationType[one.kind]
        numbers = np.dtype(np.float32)  # a float type: the shape is in numbers, not in bytes
        writer.add_tensor_info(one.name, one.shape, numbers, one.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    generator = np.random.default_rng(seed)
    for one in planned:
        writer.write_tensor_data(_data(one, generator))
    writer.close()
    return file


def _planned(shape: Shape) -> Iterator[_Planned]:
    yield _Planned("token_embd.weight", "Q4_K", (shape.vocab, shape.hidden))
    yield _Planned("output_norm.weight", "F32", (shape.hidden,))
    yield _Planned("output.weight", "Q6_K", (shape.vocab, shape.hidden))
    values, width = shape.kv_heads * shape.head_dim, shape.hidden
    for layer in range(shape.layers):
        rich = "Q6_K" if more_bits(layer, shape.layers) else "Q4_K"
        parts: dict[str, tuple[str, tuple[int, ...]]] = {
            "attn_norm": ("F32", (width,)),
            "attn_q": ("Q4_K", (width, width)),
            "attn_k": ("Q4_K", (values, width)),
            "attn_v": (rich, (values, width)),
            "attn_output": ("Q4_K", (width, width)),
            "ffn_norm": ("F32", (width,)),
            "ffn_gate": ("Q4_K", (shape.inner, width)),
            "ffn_up": ("Q4_K", (shape.inner, width)),
            "ffn_down": (rich, (width, shape.inner)),
        }
        for part, (kind, sizes) in parts.items():
            yield _Planned(f"blk.{layer}.{part}.weight", kind, sizes)


# -- blocks ----------------------------------------------------------------------------------


def _data(one: _Planned, generator: np.random.Generator) -> NDArray[Any]:
    """Return the weights of a tensor, with the standard deviation 1 / sqrt(inputs)."""
    if one.kind == "F32":
        return np.ones(one.shape, dtype=np.float32)
    size = _BLOCK_BYTES[one.kind][1]
    blocks = np.empty((one.nbytes // size, size), dtype=np.uint8)
    fill = _fill_q4_k if one.kind == "Q4_K" else _fill_q6_k
    for first in range(0, len(blocks), _BLOCKS_AT_ONCE):
        part = blocks[first : first + _BLOCKS_AT_ONCE]
        part[:] = np.frombuffer(generator.bytes(part.size), np.uint8).reshape(part.shape)
        fill(part, generator, one.shape[-1] ** -0.5)
    return blocks.reshape(*one.shape[:-1], -1)


def _fill_q4_k(blocks: NDArray[np.uint8], generator: np.random.Generator, std: float) -> None:
    """Set the factors of blocks whose integers are random: the mean of the weights is 0."""
    fine = generator.integers(32, 64, (len(blocks), 8), dtype=np.uint8)  # also of the minimums
    low, high = fine[:, :4], fine[:, 4:]
    blocks[:, 4:8] = blocks[:, 8:12] = low | high >> 4 << 6
    blocks[:, 12:16] = high & 15 | (high & 15) << 4
    scale = generator.uniform(0.7, 1.3, len(blocks)) * std / (48 * 4.6)
    blocks[:, :4] = np.stack((scale, 7.5 * scale), axis=1).astype("<f2").view(np.uint8)


def _fill_q6_k(blocks: NDArray[np.uint8], generator: np.random.Generator, std: float) -> None:
    fine = generator.integers(64, 128, (len(blocks), 16)) * generator.choice((-1, 1), (1, 16))
    blocks[:, 192:208] = fine.astype(np.int8).view(np.uint8)
    scale = generator.uniform(0.7, 1.3, (len(blocks), 1)) * std / (96 * 18.5)
    blocks[:, 208:] = scale.astype("<f2").view(np.uint8)


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add an option for each size."""
    for name in Shape.__dataclass_fields__:
        default: int = Shape.__dataclass_fields__[name].default
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)


def shape_of(args: argparse.Namespace) -> Shape:
    """Return the sizes that were given."""
    return Shape(**{name: getattr(args, name) for name in Shape.__dataclass_fields__})


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("file", type=Path)
    add_shape(options)
    given = options.parse_args()
    print(write_random(given.file, shape_of(given)).stat().st_size)
