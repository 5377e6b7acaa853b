"""Integer weights of compressed-tensors, the format of LLM Compressor.

    weight_packed      I32 [outputs, inputs * bits / 32]   `pack-quantized`, plus 2^(bits - 1)
    weight_shape       I64 [2]
    weight             I8  [outputs, inputs]               `int-quantized`, `naive-quantized`
    weight_scale       [outputs, groups], [outputs, 1] or [1]
    weight_zero_point  as the scale, or packed along the outputs; none if symmetric
    weight_g_idx       I32 [inputs]                        the group of each input, or -1

Weights are what counts here: settings for the quantisation of activations and of the cache are not
followed, since Outrider has its own.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Int16, Int32, UInt8
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.checkpoints.packed.integers import Integers, StoredIntegers, packed_bytes
from outrider.models.checkpoints.packed.parts import FLOATS, Format, Parts, Settings
from outrider.models.checkpoints.packed.words import unpack
from outrider.models.checkpoints.patterns import matches
from outrider.models.checkpoints.tensors import TensorInfo

_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized")
_MIXED = "mixed-precision"
_STRATEGIES = ("tensor", "channel", "group")
_ORDERS = (None, False, True, "group", "weight", "dynamic", "static")
_BITS = (4, 8)
_PATTERN, _CLASS = "re:", "Linear"
"""How targets name modules: by an expression, or all of them; others are names."""

_GROUP = (
    Field("weights", ("object",), needed=True),
    Field("targets", ("text",), levels=(1,), null=False, needed=True),
    Field("format", ("text",)),
)
_WEIGHTS = (
    Field("num_bits", ("whole number",), least=1, most=64, null=False),
    Field("type", ("text",), null=False),
    Field("symmetric", ("true or false",), null=False),
    Field("strategy", ("text",)),
    Field("group_size", ("whole number",), least=-1, most="inner"),
    Field("actorder", ("text", "true or false")),
)


def _refusal(settings: Settings) -> str | None:
    for name in ("transform_config", "sparsity_config"):
        inner = settings.get(name) or {}
        if inner and inner.get("format", "") != "dense":
            return f"compressed-tensors with {name} is not supported"
    if not (schemes := _schemes(settings)):
        return "compressed-tensors without config_groups is not supported"
    for place, scheme in schemes.items():
        check_fields("config.json", scheme, _GROUP, place)
        weights = scheme["weights"]
        if weights is None:
            return "compressed-tensors that quantises no weights is not supported"
        check_fields("config.json", weights, _WEIGHTS, f"{place}weights.")
        named = settings.get("format") or "pack-quantized"
        named = (scheme.get("format") or named) if named == _MIXED else named
        if named not in _FORMATS:
            return _unsupported("the form", named, _FORMATS)
        if problem := _weights_refusal(weights):
            return problem
    return None


def _weights_refusal(weights: Mapping[str, JsonValue]) -> str | None:
    bits, kind = weights.get("num_bits", 8), weights.get("type", "int")
    if kind != "int" or bits not in _BITS:
        return (
            f"weights of {bits} bits and type {kind!r:.40} (compressed-tensors) are not supported; "
            "supported: 4 and 8 bits of type 'int'"
        )
    strategy, order = weights.get("strategy"), weights.get("actorder")
    if strategy is not None and strategy not in _STRATEGIES:
        return _unsupported("strategy", strategy, _STRATEGIES)
    if order not in _ORDERS:
        return _unsupported("actorder", order, ("group", "weight"))
    return None


def _unsupported(what: str, value: JsonValue, known: Sequence[str]) -> str:
    supported = ", ".join(known)
    return f"compressed-tensors with {what} {value!r:.40} is not supported; supported: {supported}"


def _schemes(settings: Settings) -> dict[str, Mapping[str, JsonValue]]:
    """Return the groups of settings by their place in config.json."""
    inside = "quantization_config.config_groups."
    group = Field("", ("object",), null=False)
    for name, scheme in settings["config_groups"].items():
        group.check("config.json", scheme, f"{inside}{name:.60}")
    return {f"{inside}{name:.60}.": one for name, one in settings["config_groups"].items()}


def _reader(settings: Settings, modules: Sequence[str], file: str) -> Callable[[Parts], TensorInfo]:
    schemes = list(_schemes(settings).values())
    if len(schemes) == 1:
        return lambda parts: _stored(parts, schemes[0]["weights"])
    weights = _weights_of(schemes, modules, file)
    return lambda parts: _stored(parts, weights[parts.module])


def _weights_of(
    schemes: Sequence[Mapping[str, JsonValue]], modules: Sequence[str], file: str
) -> dict[str, Mapping[str, JsonValue]]:
    """Return the settings of each module: by its name, by an expression, else by its class."""
    targets = [(target, scheme["weights"]) for scheme in schemes for target in scheme["targets"]]
    patterns = [one for one in targets if one[0].startswith(_PATTERN)]
    found: dict[str, Mapping[str, JsonValue]] = {}
    for target, weights in targets:
        if target == _CLASS:
            for module in modules:
                found[module] = weights
    hits = matches([target.removeprefix(_PATTERN) for target, _ in patterns], modules, file)
    for (_, weights), row in reversed(list(zip(patterns, hits, strict=True))):
        found |= {module: weights for module, hit in zip(modules, row, strict=True) if hit}
    found |= {target: weights for target, weights in targets if target in modules}
    if unnamed := [module for module in modules if module not in found]:
        raise CheckpointError(
            f"{file} has no targets in config_groups for {unnamed[0]}",
            hint="Name it there, or download the file again",
        )
    return found


def _stored(parts: Parts, weights: Mapping[str, JsonValue]) -> TensorInfo:
    bits = weights.get("num_bits", 8)
    main = "weight_packed" if "weight_packed" in parts else "weight"
    outputs, inputs = _shape(parts, main, bits)
    group, groups = _groups(parts, weights, outputs, inputs)
    if "weight_zero_point" in parts or not weights.get("symmetric", True):
        packed = parts["weight_zero_point"].dtype == "I32"
        shape = (-(-outputs * bits // 32), groups) if packed else parts["weight_scale"].shape
        parts.check("weight_zero_point", ("I8", "I32"), shape)
    if "weight_g_idx" in parts:
        parts.check("weight_g_idx", ("I32", "I64"), (inputs,))

    def load() -> Integers:
        scales = parts.read("weight_scale").reshape(-1, groups).expand(outputs, groups)
        return Integers(
            bits=bits,
            group=group,
            quants=_quants(parts, main, bits, inputs),
            scales=scales,
            zeros=_zeros(parts, bits, scales.shape),
            order=_order(parts, groups),
        )

    size = packed_bytes(
        (outputs, inputs),
        bits,
        group,
        parts["weight_scale"].dtype,
        symmetric=weights.get("symmetric", True),
        ordered="weight_g_idx" in parts and bool(weights.get("actorder")),
    )
    return parts.stored_as(main, (outputs, inputs), StoredIntegers(f"CT-{bits}", parts, load, size))


def _shape(parts: Parts, main: str, bits: int) -> tuple[int, int]:
    """Return outputs and inputs."""
    if main == "weight":
        return parts.matrix(main, ("I8",))
    outputs, words = parts.matrix(main, ("I32",))
    parts.check("weight_shape", ("I64", "I32"), (2,))
    data = parts.read_small("weight_shape")
    shape = [int.from_bytes(half, "little", signed=True) for half in _halves(data)]
    if shape[0] != outputs or -(-shape[1] * bits // 32) != words:
        raise parts.unfit(
            "weight_shape",
            f"holds {shape}, which does not fit {[outputs, words]} words of {main}",
        )
    return outputs, shape[1]


def _halves(data: bytes) -> tuple[bytes, bytes]:
    middle = len(data) // 2
    return data[:middle], data[middle:]


def _groups(
    parts: Parts, weights: Mapping[str, JsonValue], outputs: int, inputs: int
) -> tuple[int, int]:
    """Return the size and the number of groups; the scales must fit both."""
    size = weights.get("group_size") or -1
    if weights.get("strategy") in ("tensor", "channel"):
        size = -1
    group = inputs if size == -1 else size
    groups = -(-inputs // group)
    shapes: list[tuple[int, ...]] = [(outputs, groups)]
    if groups == 1:
        shapes += [(outputs,), (1,), (1, 1), ()]
    parts.check("weight_scale", FLOATS, *shapes)
    return group, groups


def _quants(parts: Parts, main: str, bits: int, inputs: int) -> UInt8[Tensor, "outputs inputs"]:
    if main == "weight_packed":
        return unpack(parts.read(main), bits)[:, :inputs].contiguous()
    values = parts.read(main)
    middle = 1 << (bits - 1)
    least, most = (int(one) for one in torch.aminmax(values))
    if least < -middle or most >= middle:
        wrong = least if least < -middle else most
        raise parts.unfit(main, f"holds {wrong}, which has more than {bits} bits")
    return (values.to(torch.int16) + middle).to(torch.uint8)


def _zeros(parts: Parts, bits: int, shape: Sequence[int]) -> Int16[Tensor, "outputs groups"]:
    """Return the zero points of integers that count from 0."""
    middle = 1 << (bits - 1)
    outputs, groups = shape
    if "weight_zero_point" not in parts:
        return torch.full((outputs, groups), middle, dtype=torch.int16)
    points = parts.read("weight_zero_point")
    if points.dtype == torch.int32:
        return unpack(points.t(), bits)[:, :outputs].t().to(torch.int16)
    plain = points.to(torch.int16).reshape(-1, groups).expand(outputs, groups)
    return plain + middle


def _order(parts: Parts, groups: int) -> Int32[Tensor, " inputs"] | None:
    """Return the group of each input; -1 for all of them stands for no order."""
    if "weight_g_idx" in parts and bool((parts.read("weight_g_idx") == -1).all()):
        return None
    return parts.read_order("weight_g_idx", groups)


COMPRESSED = Format(
    parts=("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"),
    dropped=(
        *(f"{one}_{part}" for one in ("input", "output") for part in ("scale", "zero_point")),
        *(f"{one}_{part}" for one in "qkv" for part in ("scale", "zero_point")),
    ),
    fields=(
        Field("config_groups", ("object",), null=False, needed=True),
        Field("format", ("text",)),
        *(Field(name, ("object",)) for name in ("sparsity_config", "transform_config")),
    ),
    refusal=_refusal,
    reader=_reader,
)
