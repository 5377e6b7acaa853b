"""Packs integers into the tensors of each format, written from the formats' definitions.

Independent of the package: words are sums of shifted integers, one nibble at a time.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
NF4 = (-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0)
NF4 += (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """`scales[:, order] * (quants - zeros[:, order])`."""

    bits: int
    group: int
    quants: Tensor
    scales: Tensor
    zeros: Tensor
    order: Tensor

    @property
    def weights(self) -> Tensor:
        zeros, scales = self.zeros[:, self.order].float(), self.scales[:, self.order].float()
        return scales * (self.quants.float() - zeros)


def matrix(
    weight: Tensor, *, bits: int = 4, group: int = 32, symmetric: bool = False, mixed: bool = False
) -> Matrix:
    """Round a matrix; `mixed` puts inputs into groups at random."""
    inputs, top = weight.shape[1], 2**bits - 1
    size = inputs if group == -1 else group
    order = torch.arange(inputs) // size
    if mixed:
        order = order[torch.randperm(inputs, generator=torch.Generator().manual_seed(7))]
    columns = [weight[:, order == one] for one in range(-(-inputs // size))]
    low = torch.stack([part.amin(1).clamp(max=0) for part in columns], 1)
    high = torch.stack([part.amax(1).clamp(min=0) for part in columns], 1)
    if symmetric:
        scales = (2 * torch.maximum(-low, high) / top).half()
        zeros = torch.full(scales.shape, 2 ** (bits - 1))
    else:
        scales = ((high - low) / top).half()
        zeros = (-low / scales.float()).round().clamp(1, top).long()
    quants = (weight / scales.float()[:, order] + zeros[:, order]).round().clamp(0, top)
    return Matrix(
        bits=bits, group=group, quants=quants.long(), scales=scales, zeros=zeros, order=order
    )


def words(values: Tensor, bits: int) -> Tensor:
    """Pack the last axis, the first value in the lowest bits."""
    count = 32 // bits
    values = torch.nn.functional.pad(values, (0, -values.shape[1] % count))
    total = sum(values[:, i::count] << (bits * i) for i in range(count))
    assert isinstance(total, Tensor)
    return torch.where(total >= 2**31, total - 2**32, total).int()


def gptq(m: Matrix) -> dict[str, Tensor]:
    return {
        "qweight": words(m.quants, m.bits).t(),
        "qzeros": words(m.zeros.t() - 1, m.bits),
        "scales": m.scales.t(),
        "g_idx": m.order.int(),
    }


def gptq_v2(m: Matrix) -> dict[str, Tensor]:
    return gptq(m) | {"qzeros": words(m.zeros.t(), m.bits)}


def awq(m: Matrix) -> dict[str, Tensor]:
    def interleaved(values: Tensor) -> Tensor:
        return words(values.t().unflatten(1, (-1, 8))[:, :, list(AWQ_ORDER)].flatten(1), 4)

    return {
        "qweight": interleaved(m.quants),
        "qzeros": interleaved(m.zeros),
        "scales": m.scales.t(),
    }


def compressed(m: Matrix) -> dict[str, Tensor]:
    return {
        "weight_packed": words(m.quants, m.bits),
        "weight_shape": torch.tensor(m.quants.shape),
        "weight_scale": m.scales,
        "weight_zero_point": words(m.zeros.t(), m.bits).t(),
        "weight_g_idx": m.order.int(),
    }


def int8(m: Matrix) -> dict[str, Tensor]:
    middle = 2 ** (m.bits - 1)
    return {
        "weight": (m.quants - middle).to(torch.int8),
        "weight_scale": m.scales,
        "weight_zero_point": (m.zeros - middle).to(torch.int8),
    }


def nf4(weight: Tensor, block: int = 64) -> tuple[dict[str, Tensor], Tensor]:
    """Return the tensors, and the weights that they stand for."""
    flat = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % block)).view(-1, block)
    largest, levels = flat.abs().amax(1), torch.tensor(NF4)
    index = (flat / largest[:, None]).flatten()[:, None].sub(levels).abs().argmin(1)
    index = index[: weight.numel()]
    state = {"quant_type": "nf4", "blocksize": block, "dtype": "float32"}
    text = json.dumps(state | {"shape": list(weight.shape)}).encode()
    tensors = {
        "weight": (index[::2] * 16 + index[1::2]).to(torch.uint8)[:, None],
        "weight.absmax": largest,
        "weight.quant_map": levels,
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(text), dtype=torch.uint8),
    }
    whole = levels[index] * largest.repeat_interleave(block)[: len(index)]
    return tensors, whole.view(weight.shape)


def settings_of(kind: str, bits: int = 4, group: int = 32, **how: Any) -> dict[str, Any]:
    """`quantization_config` of a kind in `KINDS`."""
    if kind.startswith("gptq"):
        own = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": False}
        return own | {"desc_act": False, "checkpoint_format": kind} | how
    if kind == "awq":
        own = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True}
        return own | {"version": "gemm"} | how
    if kind == "nf4":
        own = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        return own | {"bnb_4bit_quant_type": "nf4"} | how
    strategy = "channel" if group == -1 else "group"
    weights = {"num_bits": bits, "type": "int", "symmetric": False, "strategy": strategy}
    weights["group_size"] = None if group == -1 else group
    form = "pack-quantized" if kind == "compressed" else "int-quantized"
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    own = {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"]}
    return own | {"config_groups": {"group_0": scheme}} | how


PACKERS: dict[str, Callable[[Matrix], dict[str, Tensor]]] = {
    "gptq": gptq,
    "gptq_v2": gptq_v2,
    "awq": awq,
    "compressed": compressed,
    "int8": int8,
}
KINDS = (*PACKERS, "nf4")


def pack_checkpoint(
    source: Path,
    folder: Path,
    kind: str,
    settings: Mapping[str, Any] | None = None,
    *,
    only: str = "_proj",
    **how: Any,
) -> tuple[Path, Path]:
    """Pack the matrices of a checkpoint whose names contain `only`, in the layers of its decoder.

    Returns:
        The packed folder, and one with the same weights as float32.
    """
    packed: dict[str, Tensor] = {}
    plain: dict[str, Tensor] = {}
    for name, weight in load_file(source / "model.safetensors").items():
        if only not in name or weight.ndim != 2:
            packed[name] = plain[name] = weight
            continue
        if kind == "nf4":
            tensors, plain[name] = nf4(weight)
        else:
            found = matrix(weight, **how)
            tensors, plain[name] = PACKERS[kind](found), found.weights
        module = name.removesuffix(".weight")
        packed |= {f"{module}.{part}": tensor.contiguous() for part, tensor in tensors.items()}
    own = dict(settings or settings_of(kind, how.get("bits", 4), how.get("group", 32)))
    results = (folder / "packed", folder / "plain")
    for place, tensors, change in zip(
        results, (packed, plain), ({"quantization_config": own}, {}), strict=True
    ):
        place.mkdir(parents=True)
        for file in source.iterdir():
            if file.suffix != ".safetensors" and file.name != "config.json":
                (place / file.name).write_bytes(file.read_bytes())
        config = json.loads((source / "config.json").read_text()) | change
        (place / "config.json").write_text(json.dumps(config))
        save_file(tensors, place / "model.safetensors", {"format": "pt"})
    return results
