"""Calls of the kernels as files: an image of the memory that a call reads and writes.

`driver.c` replays them on another processor. The structures have the same layout on all 64-bit
processors that store the low byte first; pointers become offsets into the image.
"""

import ctypes
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from outrider.kernels.layout import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    GROUP_BYTES,
    GROUPS8,
    INT8,
    SPAN_NUMBERS,
    Batch,
    CacheLayout,
    Experts,
    Layer,
    Matrix,
    Model,
    Places,
)

RECORDED = ("forward", "embed", "write", "repack", "topk")
"""Functions without their prefix, in the order of `FUNCTIONS` in `driver.c`."""

ARGUMENTS = 12
PLAIN, POINTER, POOL = range(3)
_PANEL = 16
_BLOCK_BYTES = {2: (32, 18), 3: (32, 20), 8: (32, 34), 12: (256, 144), 14: (256, 210)}
"""Weights and bytes of a block of a GGUF file, by the number of its format."""


class Image:
    """Memory of one call, put together from pieces of this process."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.pointers: list[int] = []
        self.results: list[tuple[int, int, int]] = []
        """Offset, size, and address in this process."""
        self._known: dict[tuple[int, int], int] = {}

    def put(self, raw: bytes) -> int:
        """Append bytes; return their offset, a multiple of 64."""
        self.data += bytes(-len(self.data) % 64)
        self.data += raw
        return len(self.data) - len(raw)

    def region(self, address: Any, size: int, *, result: bool = False) -> int:
        """Copy memory of this process; return its offset."""
        place = self._known.get((address, size))
        if place is None:
            place = self._known[address, size] = self.put(ctypes.string_at(address, size))
        if result and size:
            self.results.append((place, size, address))
        return place

    def point(self, at: int, target: int) -> None:
        """Make the eight bytes at offset `at` point to offset `target`."""
        self.data[at : at + 8] = struct.pack("<q", target)
        self.pointers.append(at)

    def field(
        self, at: int, owner: Any, name: str, size: int, *, result: bool = False
    ) -> int | None:
        """Copy what field `name` of the structure at `at` points to, unless it is null."""
        value = getattr(owner, name)
        if isinstance(value, ctypes._Pointer):
            value = ctypes.addressof(value.contents) if value else None
        if not value:
            return None
        target = self.region(value, size, result=result)
        self.point(at + getattr(type(owner), name).offset, target)
        return target


def panel_bytes(matrix: Matrix) -> int:
    """Bytes of one panel, as `matrix.h` counts them."""
    plain = {FLOAT32: matrix.inputs * 64, FLOAT16: matrix.inputs * 32, INT8: matrix.quads * 64}
    plain[BFLOAT16] = (matrix.inputs + 1) // 2 * 64
    if matrix.kind in plain:
        return plain[matrix.kind]
    return matrix.groups * GROUP_BYTES[matrix.kind] // 2


def add_matrix(image: Image, at: int, matrix: Matrix, *, result: bool = False) -> None:
    image.field(at, matrix, "data", matrix.panels * panel_bytes(matrix), result=result)
    for name in ("scale", "sum", "bias"):
        image.field(at, matrix, name, matrix.panels * _PANEL * 4)
    if matrix.kind >= GROUPS8 and matrix.span:
        spans = -(-matrix.groups // matrix.span) * SPAN_NUMBERS.get(matrix.kind, 0)
        image.field(at, matrix, "spans", matrix.panels // 2 * spans * 2, result=result)


def add_experts(image: Image, at: int, experts: Experts) -> None:
    add_matrix(image, at + Experts.router.offset, experts.router)
    for name in ("gate_up", "down"):
        size = ctypes.sizeof(Matrix)
        target = image.field(at, experts, name, experts.count * size)
        assert target is not None
        for i in range(experts.count):
            add_matrix(image, target + i * size, getattr(experts, name)[i])


def add_layer(image: Image, at: int, layer: Layer, model: Model) -> None:
    for i in range(layer.num_qkv):
        add_matrix(image, at + Layer.qkv.offset + i * ctypes.sizeof(Matrix), layer.qkv[i])
    for name in ("output", "gate_up", "down"):
        add_matrix(image, at + getattr(Layer, name).offset, getattr(layer, name))
    for name in ("input_norm", "mlp_norm", "output_norm", "down_norm"):
        image.field(at, layer, name, model.hidden * 4)
    for name, heads in (("query_norm", model.heads), ("key_norm", model.kv_heads)):
        image.field(at, layer, name, (heads if layer.whole_norms else 1) * model.head_dim * 4)
    target = image.field(at, layer, "experts", ctypes.sizeof(Experts))
    if target is not None:
        add_experts(image, target, layer.experts.contents)


def add_model(image: Image, model: Model) -> int:
    at = image.put(bytes(model))
    for name in ("embed", "head"):
        add_matrix(image, at + getattr(Model, name).offset, getattr(model, name))
    image.field(at, model, "norm", model.hidden * 4)
    size = ctypes.sizeof(Layer)
    layers = image.field(at, model, "layers", model.num_layers * size)
    for i in range(model.num_layers):
        assert layers is not None
        add_layer(image, layers + i * size, model.layers[i], model)
    return at


def add_cache(image: Image, at: int, cache: CacheLayout, planes: int, head_dim: int) -> None:
    size, groups = {FLOAT32: 4, BFLOAT16: 2, INT8: 1}[cache.kind], -(-head_dim // 32)
    for name in ("keys", "values"):
        image.field(at, cache, name, planes * cache.capacity * head_dim * size, result=True)
    for name in ("key_scales", "value_scales"):
        scaled = cache.kind == INT8
        if scaled:
            image.field(at, cache, name, planes * cache.capacity * groups * 4, result=True)


def _numbers(address: int, count: int) -> list[int]:
    return list((ctypes.c_int32 * count).from_address(address))


def add_batch(image: Image, batch: Batch, model: Model, ahead: int = 0) -> int:
    at, rows = image.put(bytes(batch)), batch.rows
    for name in ("tokens", "positions", "slots", "cache", "base"):
        image.field(at, batch, name, rows * 4)
    starts = _numbers(batch.extra_start, rows + 1)
    image.field(at, batch, "extra_start", (rows + 1) * 4)
    image.field(at, batch, "extra", starts[-1] * 4)
    image.field(at, batch, "want", batch.wanted * 4)
    assert not batch.given and not batch.states, "these are not recorded"
    caches = max(_numbers(batch.cache, rows)) + 1
    planes = (max(model.layers[i].place for i in range(model.num_layers)) + 1) * model.kv_heads
    for name, kind in (("caches", CacheLayout), ("places", Places)):
        target = image.field(at, batch, name, caches * ctypes.sizeof(kind))
        for i in range(caches if target is not None else 0):
            assert target is not None
            place = target + i * ctypes.sizeof(kind)
            one = kind.from_address(getattr(batch, name) + i * ctypes.sizeof(kind))
            if isinstance(one, CacheLayout):
                add_cache(image, place, one, planes, model.head_dim)
            else:
                image.field(place, one, "given", one.count * 4)
    positions = max(_numbers(batch.positions, rows)) + 1 + ahead
    for name in ("cos", "sin", "local_cos", "local_sin"):
        image.field(at, batch, name, positions * model.head_dim * 4)
    image.field(at, batch, "logits", batch.wanted * batch.logits_stride * 4, result=True)
    image.field(at, batch, "hidden", batch.wanted * model.hidden * 4, result=True)
    return at


def _structure(argument: Any) -> Any:
    """Return the structure that `byref` was called with, or the argument itself."""
    return getattr(argument, "_obj", argument)


Arguments = list[tuple[int, int]]


"""The kind and the value of each."""


def _pointer(offset: int) -> tuple[int, int]:
    return POINTER, offset


def _forward(image: Image, args: Sequence[Any]) -> Arguments:
    model, batch = _structure(args[0]), _structure(args[3])
    parts = _pointer(add_model(image, model)), _pointer(add_batch(image, batch, model))
    return [parts[0], (POOL, 0), (PLAIN, args[2]), parts[1]]


def _embed(image: Image, args: Sequence[Any]) -> Arguments:
    model, count = _structure(args[0]), args[1]
    tokens = image.region(args[2], count * 4)
    out = image.region(args[3], count * model.hidden * 4, result=True)
    return [_pointer(add_model(image, model)), (PLAIN, count), _pointer(tokens), _pointer(out)]


def _write(image: Image, args: Sequence[Any]) -> Arguments:
    model, batch, sampler = (_structure(args[i]) for i in (0, 4, 5))
    depth, ends = args[7], args[9]
    at = image.put(bytes(sampler))
    image.field(at, sampler, "banned", sampler.num_banned * 4)
    return [
        _pointer(add_model(image, model)),
        (POOL, 0),
        (PLAIN, args[2]),
        (PLAIN, args[3]),
        _pointer(add_batch(image, batch, model, ahead=depth)),
        _pointer(at),
        (PLAIN, args[6]),
        (PLAIN, depth),
        _pointer(image.region(args[8], ends * 4)),
        (PLAIN, ends),
        _pointer(image.region(args[10], depth * 4, result=True)),
        _pointer(image.region(args[11], 4, result=True)),
    ]


def _repack(image: Image, args: Sequence[Any]) -> Arguments:
    matrix, number, rows, first, last = args[:5]
    weights, nbytes = _BLOCK_BYTES[number]
    at = image.put(bytes(matrix))
    add_matrix(image, at, matrix, result=True)
    addresses = (ctypes.c_uint64 * (32 * (last - first))).from_address(rows)
    places = image.put(bytes(addresses))
    for i, address in enumerate(addresses):
        if address:
            size = -(-matrix.inputs // weights) * nbytes
            image.point(places + 8 * i, image.region(address, size))
    plain = [(PLAIN, first), (PLAIN, last), (POOL, 0), (PLAIN, args[6])]
    return [_pointer(at), (PLAIN, number), _pointer(places), *plain]


def _topk(image: Image, args: Sequence[Any]) -> Arguments:
    logits, stride, rows, _, k, ids, values, totals = args
    found = [_pointer(image.region(place, rows * k * 4, result=True)) for place in (ids, values)]
    sums = _pointer(image.region(totals, rows * 4, result=True)) if totals else (PLAIN, 0)
    numbers = [(PLAIN, number) for number in args[1:5]]
    return [_pointer(image.region(logits, rows * stride * 4)), *numbers, *found, sums]


_WRITERS: dict[str, Callable[[Image, Sequence[Any]], Arguments]] = {
    "forward": _forward,
    "embed": _embed,
    "write": _write,
    "repack": _repack,
    "topk": _topk,
}
_RETURNING = ("forward", "write", "repack")


class Recorder:
    """The kernels of this process; each call is written to `folder` with its results here."""

    def __init__(self, loaded: ctypes.CDLL, folder: Path) -> None:
        self.label = ""
        self._loaded, self._folder, self._count = loaded, folder, 0

    def __getattr__(self, name: str) -> Any:
        function, short = getattr(self._loaded, name), name.removeprefix("outrider_")
        if short not in RECORDED:
            return function
        return lambda *args: self._record(short, function, args)

    def _record(self, name: str, function: Any, args: Sequence[Any]) -> Any:
        image = Image()
        file = self._folder / f"{self._count:04}-{self.label}-{name}"
        self._count += 1
        file.write_bytes(_call_bytes(name, image, _WRITERS[name](image, args)))
        returned = function(*args)
        answer = returned if name in _RETURNING else 0
        results = [ctypes.string_at(address, size) for _, size, address in image.results]
        file.with_name(file.name + ".here").write_bytes(
            struct.pack("<i", answer) + b"".join(results)
        )
        return returned


def _call_bytes(name: str, image: Image, given: Arguments) -> bytes:
    padded = [*given, *[(PLAIN, 0)] * (ARGUMENTS - len(given))]
    kinds, values = zip(*padded, strict=True)
    sizes = (len(image.pointers), len(image.results), len(image.data))
    head = (RECORDED.index(name), int(name in _RETURNING), *sizes, *kinds, *values)
    places = [number for offset, size, _ in image.results for number in (offset, size)]
    numbers = (*head, *image.pointers, *places)
    return struct.pack(f"<{len(numbers)}q", *numbers) + bytes(image.data)
