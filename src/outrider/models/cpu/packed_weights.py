"""Weights in the layout of the compiled kernels (`kernels/csrc/matmul.h`, `model.h`)."""

import ctypes
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from outrider.core.layers import LayerSet
from outrider.kernels.layout import ATTENTION, MLP, Layer, Matrix, Model
from outrider.models.cpu.arena import Arena
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.weights import LayerWeights, Linear
from outrider.models.quantization.int8 import quantize_channels

SEQUENCES = 16
_STRIP = 2 * SEQUENCES
"""Rows of two panels; panels come in pairs."""
_KINDS = {torch.float32: 0, torch.int8: 1}
_ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_pytorch_tanh": 2, "relu": 3}
_EMBED_KINDS = {torch.float32: 0, torch.bfloat16: 1}


@dataclass(slots=True)
class PackedModel:
    """The structure that the kernels read, and the tensors it points to."""

    layout: Model
    weight_bytes: int
    """Bytes that one forward reads, without embeddings of single tokens."""
    kept: list[object]


def part_of(whole: PackedModel, layers: LayerSet) -> PackedModel:
    """Build a model of `layers` only: new structures that point to the same weights."""
    kept = [Layer.from_buffer_copy(whole.layout.layers[i]) for i in layers.layers]
    for layer, index in zip(kept, layers.layers, strict=True):
        attends, feeds = index in layers.attention, index in layers.mlp
        layer.parts = ATTENTION * attends | MLP * feeds
    halves = len(layers.attention), len(layers.mlp)
    return _with_layers(whole, kept, _bytes_of_halves(whole.layout.layers[0], *halves))


def head_of(whole: PackedModel) -> PackedModel:
    """Build a model of the final norm and the head, which runs no layer."""
    layer = Layer.from_buffer_copy(whole.layout.layers[0])
    layer.parts = 0
    return _with_layers(whole, [layer], 0)


def _with_layers(whole: PackedModel, layers: list[Layer], nbytes: int) -> PackedModel:
    array = (Layer * len(layers))(*layers)
    layout = Model.from_buffer_copy(whole.layout)
    layout.num_layers = len(layers)
    layout.layers = ctypes.cast(array, ctypes.POINTER(Layer))
    return PackedModel(layout, nbytes + _bytes_of(layout.head), [array, whole])


def _bytes_of_halves(layer: Layer, attention: int, mlp: int) -> int:
    """Bytes of the matrices in this many attention and MLP halves; all layers are equal."""
    a, b = (_bytes_of(layer.qkv, layer.output), _bytes_of(layer.gate_up, layer.down))
    return attention * a + mlp * b


def _bytes_of(*matrices: Matrix) -> int:
    return sum(m.panels * SEQUENCES * (m.quads if m.kind else m.inputs) * 4 for m in matrices)


class Packer:
    """Packs matrices of one model; keeps alive the memory that the layout points to."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        self.config = config
        self.dtype = dtype
        self.arena = Arena()
        self.kept: list[object] = []

    def model(
        self, embed: Float[Tensor, "vocab hidden"], norm: Tensor, head: Linear, layers: list[Layer]
    ) -> PackedModel:
        """Pack the whole model from layers that `layer` has packed."""
        c = self.config
        array = (Layer * len(layers))(*layers)
        own = embed if embed.dtype in _EMBED_KINDS else embed.float()
        layout = Model(
            num_layers=c.num_layers,
            hidden=c.hidden_size,
            inner=c.intermediate_size,
            heads=c.num_heads,
            kv_heads=c.num_kv_heads,
            head_dim=c.head_dim,
            vocab=c.vocab_size,
            activation=_ACTIVATIONS[c.activation],
            embed_kind=_EMBED_KINDS[own.dtype],
            eps=c.norm_eps,
            norm=self._vector(norm),
            layers=ctypes.cast(array, ctypes.POINTER(Layer)),
            head=self._matrix(head.weight, head.bias),
        )
        own = own.contiguous()
        layout.embed = own.data_ptr()
        return PackedModel(layout, self.arena.nbytes, [own, *self.kept, array])

    def layer(self, index: int, weights: LayerWeights) -> Layer:
        """Pack the weights of one layer."""
        c = self.config
        qkv, output, gate_up, down = (
            _linear(part) for part in (weights.qkv, weights.output, weights.gate_up, weights.down)
        )
        packed = Layer(
            qkv=self._matrix(qkv.weight, qkv.bias),
            output=self._matrix(output.weight, output.bias),
            gate_up=self._gate_up(gate_up),
            down=self._matrix(down.weight, down.bias),
            input_norm=self._vector(weights.input_norm),
            mlp_norm=self._vector(weights.mlp_norm),
            window=c.windows[index] or 0,
            rotary=int(c.rotary[index]),
            place=index,
            parts=ATTENTION | MLP,
        )
        if weights.qk_norm is not None:
            packed.query_norm = self._vector(weights.qk_norm[0])
            packed.key_norm = self._vector(weights.qk_norm[-1])
        return packed

    def _gate_up(self, gate_up: Linear) -> Matrix:
        """Interleave panels of gate and up, so that the kernel multiplies each pair at once."""
        weight = _interleaved(gate_up.weight)
        bias = None if gate_up.bias is None else _interleaved(gate_up.bias[:, None])[:, 0]
        return self._matrix(weight, bias)

    def _matrix(self, weight: Tensor, bias: Tensor | None) -> Matrix:
        outputs, inputs = weight.shape
        padded = -(-outputs // _STRIP) * _STRIP
        quads = -(-inputs // 4)
        packed = Matrix(
            kind=_KINDS[self.dtype],
            outputs=outputs,
            inputs=inputs,
            panels=padded // SEQUENCES,
            quads=quads,
            bias=self._padded(bias, padded),
        )
        if self.dtype == torch.float32:
            panels = F.pad(weight.float(), (0, 0, 0, padded - outputs))
            packed.data = self._keep(panels.view(-1, SEQUENCES, inputs).transpose(1, 2))
            return packed
        quantized = quantize_channels(weight)
        quants = F.pad(quantized.quants, (0, quads * 4 - inputs, 0, padded - outputs))
        packed.data = self._keep(quants.view(-1, SEQUENCES, quads, 4).transpose(1, 2))
        packed.scale = self._padded(quantized.scales, padded)
        packed.sum = self._keep(quants.sum(dim=1, dtype=torch.int32).float())
        return packed

    def _padded(self, vector: Tensor | None, size: int) -> int | None:
        if vector is None:
            return None
        return self._keep(F.pad(vector.float(), (0, size - len(vector))))

    def _vector(self, vector: Tensor) -> int:
        return self._keep(vector.float())

    def _keep(self, tensor: Tensor) -> int:
        """Copy `tensor` into memory that lives as long as the model; return its address."""
        own = self.arena.copy(tensor)
        self.kept.append(own)
        return own.data_ptr()


def _linear(projection: object) -> Linear:
    assert isinstance(projection, Linear)
    return projection


def _interleaved(gate_up: Float[Tensor, "both inputs"]) -> Float[Tensor, "padded inputs"]:
    """Interleave rows of gate and up in blocks of 16."""
    gate, up = gate_up.chunk(2)
    missing = -len(gate) % SEQUENCES
    pair = [
        F.pad(half, (0, 0, 0, missing)).view(-1, SEQUENCES, half.shape[1]) for half in (gate, up)
    ]
    return torch.stack(pair, dim=1).flatten(0, 2)
