"""Reads a checkpoint and packs its weights for the compiled kernels, one layer at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from outrider.kernels.layout import Layer
from outrider.models.checkpoints.checkpoint import Checkpoint, load_tensors
from outrider.models.cpu.encoding import Encoded, encode, exact_embeddings
from outrider.models.cpu.packed_weights import Affine, EncodedLayer, PackedModel, Packer
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.weights import EMBED, HEAD, NORM, check_tensors, parameter_count

_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")


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
    reader = _Reader(checkpoint, dtype)
    layers = [_layer(packer, reader, config, index) for index in range(config.num_layers)]
    embed, head = _outer(checkpoint, config, dtype)
    packed = packer.model(embed, reader.vector(NORM), head, layers)
    return NativeParts(packed=packed, num_parameters=parameter_count(config, tied=head is None))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads tensors of one checkpoint by name."""

    checkpoint: Checkpoint
    dtype: torch.dtype | None

    def vector(self, name: str) -> Tensor:
        """Read a norm or a bias in float32."""
        return load_tensors(self.checkpoint, [name], torch.float32)[name]

    def affine(self, names: Sequence[str]) -> Affine:
        """Read matrices with the same input, with their biases if they have any."""
        biases = [f"{name}.bias" for name in names if f"{name}.bias" in self.checkpoint.tensors]
        return Affine(
            parts=encode(self.checkpoint, [f"{name}.weight" for name in names], self.dtype),
            bias=torch.cat([self.vector(name) for name in biases]) if biases else None,
        )


def _layer(packer: Packer, reader: _Reader, config: DecoderConfig, index: int) -> Layer:
    prefix = f"model.layers.{index}."

    def named(*names: str) -> list[str]:
        return [prefix + name for name in names]

    norms = named("self_attn.q_norm.weight", "self_attn.k_norm.weight")
    return packer.layer(
        index,
        EncodedLayer(
            input_norm=reader.vector(prefix + "input_layernorm.weight"),
            qkv=reader.affine(named(*_QKV)),
            qk_norm=(reader.vector(norms[0]), reader.vector(norms[1])) if config.qk_norm else None,
            output=reader.affine(named("self_attn.o_proj")),
            mlp_norm=reader.vector(prefix + "post_attention_layernorm.weight"),
            gate_up=reader.affine(named(*_GATE_UP)),
            down=reader.affine(named("mlp.down_proj")),
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
    return encode(checkpoint, [EMBED], exact_embeddings(checkpoint, dtype))[0], head


def _equal(checkpoint: Checkpoint, names: Sequence[str]) -> bool:
    embed, head = (load_tensors(checkpoint, [name], torch.float32)[name] for name in names)
    return torch.equal(embed, head)
