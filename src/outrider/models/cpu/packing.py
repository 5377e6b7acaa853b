"""Reads a checkpoint and packs its weights for the compiled kernels, one layer at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from outrider.kernels.layout import Layer
from outrider.models.checkpoints.checkpoint import Checkpoint, load_tensors
from outrider.models.cpu.encoding import Encoded, encode
from outrider.models.cpu.packed_weights import Affine, EncodedLayer, PackedModel, Packer
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.weights import (
    EMBED,
    HEAD,
    NORM,
    check_tensors,
    gate_up_names,
    order_of_rows,
    parameter_count,
    qkv_sizes,
    shifted,
)


@dataclass(slots=True, kw_only=True)
class NativeParts:
    """The packed weights of a checkpoint."""

    packed: PackedModel
    num_parameters: int


def pack_checkpoint(
    checkpoint: Checkpoint, config: DecoderConfig, dtype: torch.dtype | None
) -> NativeParts:
    """Read and pack the weights in `dtype`; see `encode`. Raises `CheckpointError`."""
    check_tensors(checkpoint, config)
    packer = Packer(config)
    reader = _Reader(checkpoint, config, dtype)
    layers = [_layer(packer, reader, config, index) for index in range(config.num_layers)]
    embed, head = _outer(checkpoint, config, dtype)
    packed = packer.model(embed, reader.norm(NORM), head, layers)
    return NativeParts(packed=packed, num_parameters=parameter_count(config, tied=head is None))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads tensors of one checkpoint by name."""

    checkpoint: Checkpoint
    config: DecoderConfig
    dtype: torch.dtype | None

    def vector(self, name: str) -> Tensor:
        """Read a bias in float32."""
        return load_tensors(self.checkpoint, [name], torch.float32)[name]

    def norm(self, name: str) -> Tensor:
        """Read a norm in float32, with its offset."""
        return shifted(self.vector(name), self.config)

    def head_norm(self, name: str) -> Tensor:
        """Read a norm of queries or keys, in the order of the decoder."""
        norm, order = self.norm(name), self.config.head_order
        return norm if order is None else norm.view(-1, len(order))[:, order].flatten()

    def affine(self, names: Sequence[str]) -> Affine:
        """Read matrices with the same input, with their biases if they have any."""
        biases = [f"{name}.bias" for name in names if f"{name}.bias" in self.checkpoint.tensors]
        return Affine(
            parts=encode(self.checkpoint, [f"{name}.weight" for name in names], self.dtype),
            bias=torch.cat([self.vector(name) for name in biases]) if biases else None,
        )


def _layer(packer: Packer, reader: _Reader, config: DecoderConfig, index: int) -> Layer:
    prefix = f"model.layers.{index}."

    def named(names: Iterable[str]) -> list[str]:
        return [prefix + name for name in names]

    def norm(name: str | None) -> Tensor | None:
        return None if name is None else reader.norm(f"{prefix}{name}.weight")

    both = named(("self_attn.q_norm.weight", "self_attn.k_norm.weight"))
    names = config.norms
    return packer.layer(
        index,
        EncodedLayer(
            input_norm=norm(names.before_attention),
            qkv=reader.affine(named(qkv_sizes(config))),
            row_order=order_of_rows(config),
            qk_norm=(reader.head_norm(both[0]), reader.head_norm(both[1]))
            if config.qk_norm
            else None,
            output=reader.affine(named(["self_attn.o_proj"])),
            output_norm=norm(names.after_attention),
            mlp_norm=norm(names.before_mlp),
            gate_up=reader.affine(named(gate_up_names(config))),
            down=reader.affine(named(["mlp.down_proj"])),
            down_norm=norm(names.after_mlp),
        ),
    )


def _outer(
    checkpoint: Checkpoint, config: DecoderConfig, dtype: torch.dtype | None
) -> tuple[Encoded, Encoded | None]:
    """Return the embeddings and the head; the head is None if it is the embeddings."""
    names = [name for name in (EMBED, HEAD) if name in checkpoint.tensors]
    if len(names) == 1 or (config.tied and _equal(checkpoint, names)):
        return encode(checkpoint, names[:1], dtype)[0], None
    head = encode(checkpoint, [HEAD], dtype)[0]
    return encode(checkpoint, [EMBED], _exact(checkpoint, dtype))[0], head


def _exact(checkpoint: Checkpoint, dtype: torch.dtype | None) -> torch.dtype | None:
    """Return a dtype that keeps the embeddings: a forward reads only a few of them."""
    if dtype is None or dtype.is_floating_point:
        return dtype
    return torch.bfloat16 if checkpoint.tensors[EMBED].dtype == "BF16" else torch.float32


def _equal(checkpoint: Checkpoint, names: Sequence[str]) -> bool:
    embed, head = (load_tensors(checkpoint, [name], torch.float32)[name] for name in names)
    return torch.equal(embed, head)
