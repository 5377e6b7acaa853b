"""Weights in the layout of the compiled kernels (`kernels/csrc/matrix.h`, `model.h`)."""

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from outrider.core.layers import LayerSet
from outrider.kernels import library
from outrider.kernels.layout import ATTENTION, MLP, Experts, Layer, Matrix, Model
from outrider.models.cpu.arena import Arena
from outrider.models.cpu.encoding import Encoded, changed_rows, joined, shape_of, to_groups
from outrider.models.cpu.panels import STRIP, VECTOR, Panels, to_panels
from outrider.models.cpu.repacking import empty_panels, fill_panels
from outrider.models.llama.config import DecoderConfig
from outrider.models.quantization.stored_blocks import Blocks

_ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_pytorch_tanh": 2, "relu": 3}

_WIDEST = 2**31 - 1
"""The kernels hold windows and positions in 32 bits; no text reaches a wider window."""


@dataclass(slots=True)
class PackedModel:
    """The structure that the kernels read, and the tensors it points to."""

    layout: Model
    layer_bytes: tuple[tuple[int, int], ...]
    """Bytes that one row reads of the attention half and of the MLP half of each layer."""
    head_bytes: int
    kept: list[object]

    @property
    def weight_bytes(self) -> int:
        """Bytes that a forward of one row reads, without embeddings of single tokens."""
        return self.head_bytes + sum(sum(halves) for halves in self.layer_bytes)


def part_of(whole: PackedModel, layers: LayerSet) -> PackedModel:
    """Build a model of `layers` only: new structures that point to the same weights."""
    kept = [Layer.from_buffer_copy(whole.layout.layers[i]) for i in layers.layers]
    sizes: list[tuple[int, int]] = []
    for layer, index in zip(kept, layers.layers, strict=True):
        attends, feeds = index in layers.attention, index in layers.mlp
        layer.parts = ATTENTION * attends | MLP * feeds
        attention, mlp = whole.layer_bytes[index]
        sizes.append((attention * attends, mlp * feeds))
    return _with_layers(whole, kept, tuple(sizes))


def head_of(whole: PackedModel) -> PackedModel:
    """Build a model of the final norm and the head, which runs no layer."""
    layer = Layer.from_buffer_copy(whole.layout.layers[0])
    layer.parts = 0
    head = _with_layers(whole, [layer], ())
    head.layout.rows_scale = 1.0  # what it reads has been through the layers
    return head


def _with_layers(
    whole: PackedModel, layers: list[Layer], sizes: tuple[tuple[int, int], ...]
) -> PackedModel:
    array = (Layer * len(layers))(*layers)
    layout = Model.from_buffer_copy(whole.layout)
    layout.num_layers = len(layers)
    layout.layers = ctypes.cast(array, ctypes.POINTER(Layer))
    return PackedModel(layout, sizes, whole.head_bytes, [array, whole])


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """Matrices with the same input, and their biases: `x @ weight.T + bias`."""

    parts: Sequence[Encoded]
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedMlp:
    """A gated MLP, or one expert; `gate_up` has two parts, or one if fused."""

    gate_up: Affine
    down: Affine


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedExperts:
    """The experts of a layer; `each` reads an expert when it is asked for it."""

    router: Tensor
    each: Iterable[EncodedMlp]
    chosen: int
    normalized: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedLayer:
    """The weights of one layer; `qkv` has three parts.

    `row_order` puts the rows of queries, keys and values into the order of the decoder.
    """

    input_norm: Tensor | None
    qkv: Affine
    qk_norm: tuple[Tensor, Tensor] | None
    output: Affine
    mlp_norm: Tensor | None
    mlp: EncodedMlp | EncodedExperts
    output_norm: Tensor | None = None
    down_norm: Tensor | None = None
    row_order: Tensor | None = None


class Packer:
    """Packs matrices of one model; keeps alive the memory that the layout points to."""

    def __init__(self, config: DecoderConfig) -> None:
        loaded: Any = library()
        self.config = config
        self.arena = Arena()
        self.kept: list[object] = []
        self._offset: int = loaded.outrider_offset()
        self._sizes: list[tuple[int, int]] = []

    def model(
        self, embed: Encoded, norm: Tensor | None, head: Encoded | None, layers: list[Layer]
    ) -> PackedModel:
        """Pack the whole model from layers that `layer` has packed.

        `head` None means that the head is `embed`, `norm` None that it reads rows as they are.
        """
        c = self.config
        array = (Layer * len(layers))(*layers)
        before = self.arena.nbytes
        table = self.matrix(embed)
        size = self.arena.nbytes - before
        layout = Model(
            num_layers=c.num_layers,
            hidden=c.hidden_size,
            inner=c.intermediate_size,
            heads=c.num_heads,
            kv_heads=c.num_kv_heads,
            head_dim=c.head_dim,
            vocab=c.vocab_size,
            activation=_ACTIVATIONS[c.activation],
            eps=c.norm_eps,
            embed_scale=c.scales.embedding,
            rows_scale=c.scales.rows,
            residual_scale=c.scales.residual,
            attention_scale=c.attention_scale,
            attention_cap=c.scales.attention_cap or 0.0,
            logits_divisor=c.scales.logits,
            logits_cap=c.scales.logits_cap or 0.0,
            embed=table,
            norm=None if norm is None else self.vector(norm),
            layers=ctypes.cast(array, ctypes.POINTER(Layer)),
        )
        if head is None:
            layout.head = table
        else:
            before = self.arena.nbytes
            layout.head = self.matrix(head)
            size = self.arena.nbytes - before
        return PackedModel(layout, tuple(self._sizes), size, [*self.kept, array])

    def layer(self, index: int, weights: EncodedLayer) -> Layer:
        """Pack the weights of one layer."""
        c, before = self.config, self.arena.nbytes
        qkv = self._qkv(_reordered(weights.qkv, weights.row_order))
        packed = Layer(
            qkv=(Matrix * 3)(*qkv),
            num_qkv=len(qkv),
            output=self.matrix(weights.output.parts[0], weights.output.bias),
            input_norm=self._norm(weights.input_norm),
            output_norm=self._norm(weights.output_norm),
            window=min(c.windows[index] or 0, _WIDEST),
            rotary=int(c.rotary[index]) * (2 if c.is_local(index) else 1),
            whole_norms=int(c.norms.whole),
            place=index,
            parts=ATTENTION | MLP,
        )
        if weights.qk_norm is not None:
            packed.query_norm = self.vector(weights.qk_norm[0])
            packed.key_norm = self.vector(weights.qk_norm[1])
        middle, unread = self.arena.nbytes, 0
        if isinstance(weights.mlp, EncodedExperts):
            packed.experts = self._experts(weights.mlp)
            count, chosen = packed.experts.contents.count, weights.mlp.chosen
            unread = (self.arena.nbytes - middle) * (count - chosen) // count
        else:
            packed.gate_up, packed.down = self._mlp(weights.mlp)
        packed.mlp_norm = self._norm(weights.mlp_norm)
        packed.down_norm = self._norm(weights.down_norm)
        self._sizes.append((middle - before, self.arena.nbytes - middle - unread))
        return packed

    def _qkv(self, affine: Affine) -> list[Matrix]:
        """Pack queries, keys and values as one matrix if they store the same kind of numbers."""
        if (whole := joined(affine.parts)) is not None:
            return [self.matrix(whole, affine.bias)]
        sizes = [shape_of(part)[0] for part in affine.parts]
        if any(size % STRIP for size in sizes):  # panels of one would reach into the next
            whole = joined([to_groups(part) for part in affine.parts])
            assert whole is not None
            return [self.matrix(whole, affine.bias)]
        biases = [None] * len(sizes) if affine.bias is None else affine.bias.split(sizes)
        return [self.matrix(*pair) for pair in zip(affine.parts, biases, strict=True)]

    def _mlp(self, mlp: EncodedMlp) -> tuple[Matrix, Matrix]:
        return self._gate_up(mlp.gate_up), self.matrix(mlp.down.parts[0], mlp.down.bias)

    def _experts(self, experts: EncodedExperts) -> Any:
        """Pack the experts one by one, so that at most one is in memory twice."""
        router = self.matrix(experts.router)
        packed = [self._mlp(one) for one in experts.each]
        gate_up, down = ((Matrix * len(packed))(*part) for part in zip(*packed, strict=True))
        layout = Experts(
            count=len(packed),
            chosen=experts.chosen,
            normalized=experts.normalized,
            router=router,
            gate_up=ctypes.cast(gate_up, ctypes.POINTER(Matrix)),
            down=ctypes.cast(down, ctypes.POINTER(Matrix)),
        )
        self.kept += [gate_up, down, layout]
        return ctypes.pointer(layout)

    def _gate_up(self, affine: Affine) -> Matrix:
        """Interleave panels of gate and up, so that the kernel multiplies each pair at once."""
        both = joined(affine.parts)
        if both is None:
            both = joined([to_groups(part) for part in affine.parts])
        assert both is not None
        order = _interleaving(shape_of(both)[0] // 2)
        bias = affine.bias
        return self.matrix(
            changed_rows(both, order),
            None if bias is None else F.pad(bias, (0, 1))[order],
        )

    def matrix(self, part: Encoded, bias: Tensor | None = None) -> Matrix:
        """Pack one matrix."""
        if isinstance(part, Blocks):
            matrix = self._layout(empty_panels(part, self.arena), bias)
            fill_panels(part, matrix)
            return matrix
        return self._layout(_placed(to_panels(part, self._offset), self.arena), bias)

    def _layout(self, panels: Panels, bias: Tensor | None) -> Matrix:
        """Describe a matrix whose panels are in the arena."""
        padded = panels.count * VECTOR
        return Matrix(
            kind=panels.kind,
            outputs=panels.outputs,
            inputs=panels.inputs,
            panels=panels.count,
            quads=-(-panels.inputs // 4),
            groups=-(-panels.inputs // 32),
            span=panels.span,
            data=self._address(panels.data),
            scale=self._optional(panels.scale),
            sum=self._optional(panels.sum),
            spans=self._optional(panels.spans),
            bias=None if bias is None else self._keep(F.pad(bias.float(), (0, padded - len(bias)))),
        )

    def _optional(self, tensor: Tensor | None) -> int | None:
        return None if tensor is None else self._address(tensor)

    def _norm(self, norm: Tensor | None) -> int | None:
        return None if norm is None else self.vector(norm)

    def vector(self, vector: Tensor) -> int:
        """Copy a vector into memory that lives as long as the model; return its address."""
        return self._keep(vector.float())

    def _keep(self, tensor: Tensor) -> int:
        """Copy `tensor` into memory that lives as long as the model; return its address."""
        return self._address(self.arena.copy(tensor))

    def _address(self, own: Tensor) -> int:
        self.kept.append(own)
        return own.data_ptr()


def _placed(panels: Panels, arena: Arena) -> Panels:
    """Copy the tensors of a matrix into the arena."""

    def placed(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else arena.copy(tensor)

    return replace(
        panels,
        data=arena.copy(panels.data),
        scale=placed(panels.scale),
        sum=placed(panels.sum),
        spans=placed(panels.spans),
    )


def _reordered(affine: Affine, order: Tensor | None) -> Affine:
    """Change the order of rows; `order` counts those of all parts, and none changes its part."""
    if order is None:
        return affine
    parts: list[Encoded] = []
    start = 0
    for part in affine.parts:
        rows = shape_of(part)[0]
        parts.append(changed_rows(part, order[start : start + rows] - start))
        start += rows
    return Affine(parts=parts, bias=None if affine.bias is None else affine.bias[order])


def _interleaving(size: int) -> Tensor:
    """Return the order of rows of gate and up, `[2 * size]`, in blocks of 16; -1 fills a block."""
    numbers = F.pad(torch.arange(size), (0, -size % VECTOR), value=-1).view(-1, VECTOR)
    up = torch.where(numbers < 0, numbers, numbers + size)
    return torch.stack((numbers, up), dim=1).flatten()
