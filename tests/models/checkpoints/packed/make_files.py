"""Writes `files/`: matrices packed by the formats' own libraries, and their own decoding of them.

No test runs this; `files/README.md` names the versions. Run it from the root of the repository with
a Python that has auto-gptq, autoawq, compressed-tensors and bitsandbytes.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

FILES = Path(__file__).parent / "files"
OUTPUTS, INPUTS = 32, 64
MODULE = "model.layers.0.mlp.up_proj"


def weight(seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(OUTPUTS, INPUTS, generator=generator) * 0.1 + shift


def linear(matrix: Tensor) -> nn.Linear:
    module = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    module.weight.data = matrix.half()
    return module.half()


def steps(matrix: Tensor, order: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scales and zero points `[outputs, groups]` of groups of inputs."""
    scales, zeros = [], []
    top = 2**bits - 1
    for group in range(int(order.max()) + 1):
        part = matrix[:, order == group]
        if symmetric:
            scales.append(2 * part.abs().amax(1) / top)
            zeros.append(torch.full((len(matrix),), float(2 ** (bits - 1))))
        else:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scales.append((high - low) / top)
            zeros.append((-low / scales[-1]).round().clamp(1, top))
    return torch.stack(scales, 1), torch.stack(zeros, 1)


def save(name: str, settings: dict[str, Any], tensors: dict[str, Tensor], expected: Tensor) -> None:
    found = {f"{MODULE}.{part}": t.contiguous().clone() for part, t in tensors.items()}
    found["expected"] = expected.contiguous().clone()
    save_file(found, FILES / f"{name}.safetensors", {"quantization_config": json.dumps(settings)})


def folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def load(file: Path) -> Any:
    """Import one file of a package without the package's own imports."""
    spec = importlib.util.spec_from_file_location("it", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gptq() -> None:
    layer = load(folder_of("auto_gptq") / "nn_modules/qlinear/qlinear_cuda.py").QuantLinear
    in_order, mixed = torch.arange(INPUTS) // 32, torch.randperm(INPUTS) // 32
    for name, bits, size, order, symmetric in (
        ("gptq-4", 4, 32, in_order, False),
        ("gptq-4-order", 4, 32, mixed, False),
        ("gptq-4-symmetric", 4, 32, in_order, True),
        ("gptq-4-whole", 4, -1, in_order * 0, False),
        ("gptq-8", 8, 32, in_order, False),
    ):
        matrix = weight(1, 0.02)
        scales, zeros = steps(matrix, order, bits, symmetric)
        packed = layer(bits, size, INPUTS, OUTPUTS, bias=False)
        packed.pack(linear(matrix), scales.half(), zeros.half(), order.int())
        expected = packed(torch.eye(INPUTS).half()).t()
        settings = {"quant_method": "gptq", "bits": bits, "group_size": size, "sym": symmetric}
        settings |= {"desc_act": order is mixed, "damp_percent": 0.01}
        parts = ("qweight", "qzeros", "scales", "g_idx")
        save(name, settings, {part: getattr(packed, part) for part in parts}, expected)


def awq() -> None:
    folder = folder_of("awq")
    helpers = load(folder / "utils/packing_utils.py")
    devices: Any = types.SimpleNamespace(get_best_device=lambda: "cpu")
    imports: Any = types.SimpleNamespace(try_import=lambda name: (None, ""))
    sys.modules |= {"awq": types.ModuleType("awq"), "awq.utils": types.ModuleType("awq.utils")}
    sys.modules |= {"awq.utils.packing_utils": helpers, "awq.utils.utils": devices}
    sys.modules |= {"awq.utils.module": imports}
    layer = load(folder / "modules/linear/gemm.py").WQLinear_GEMM
    for name, size in (("awq", 32), ("awq-whole", -1)):
        matrix = weight(2, 0.02)
        order = torch.arange(INPUTS) // (INPUTS if size == -1 else size)
        scales, zeros = (one.t().contiguous() for one in steps(matrix, order, 4, False))
        group = INPUTS if size == -1 else size
        packed = layer.from_linear(linear(matrix), 4, group, scales=scales.half(), zeros=zeros)
        parts = {part: getattr(packed, part) for part in ("qweight", "qzeros", "scales")}
        expected = helpers.dequantize_gemm(*parts.values(), 4, group).t()
        settings = {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm"}
        save(name, settings | {"zero_point": True}, parts, expected)


def compressed() -> None:
    from compressed_tensors.compressors.naive_quantized.base import IntQuantizationCompressor
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    packing, plain = PackedQuantizationCompressor, IntQuantizationCompressor
    for name, bits, size, symmetric, mixed, dtype, compressor in (
        ("compressed-4", 4, 32, True, False, torch.bfloat16, packing),
        ("compressed-4-asymmetric", 4, 32, False, False, torch.float16, packing),
        ("compressed-4-order", 4, 32, True, True, torch.float16, packing),
        ("compressed-8-channel", 8, None, True, False, torch.bfloat16, packing),
        ("compressed-int8", 8, None, True, False, torch.float32, plain),
        ("compressed-int8-asymmetric", 8, 32, False, False, torch.float16, plain),
    ):
        matrix = weight(3, 0.02).to(dtype)
        strategy = "group" if size else "channel"
        order = torch.arange(INPUTS) // (size or INPUTS)
        if mixed:
            order = order[torch.randperm(INPUTS)]
        args = QuantizationArgs(
            num_bits=bits,
            symmetric=symmetric,
            strategy=strategy,
            group_size=size,
            actorder="group" if mixed else None,
        )
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        scales, zeros = steps(matrix.float(), order, bits, symmetric)
        state = {"weight": matrix, "weight_scale": scales.to(dtype)}
        state["weight_zero_point"] = (zeros - 2 ** (bits - 1)).to(torch.int8)
        if mixed:
            state["weight_g_idx"] = order.int()
        packed = compressor.compress(state, scheme)
        expected = compressor.decompress(packed, scheme)["weight"]
        form = "pack-quantized" if compressor is packing else "int-quantized"
        group = json.loads(scheme.model_dump_json())
        settings = {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"]}
        save(name, settings | {"config_groups": {"group_0": group}}, packed, expected)


def bitsandbytes() -> None:
    import bitsandbytes.functional as functional

    for name, kind, nested, storage in (
        ("nf4", "nf4", False, torch.uint8),
        ("nf4-nested", "nf4", True, torch.uint8),
        ("nf4-storage", "nf4", False, torch.bfloat16),
        ("fp4", "fp4", False, torch.uint8),
    ):
        packed, state = functional.quantize_4bit(
            weight(4).bfloat16(),
            blocksize=64,
            quant_type=kind,
            compress_statistics=nested,
            quant_storage=storage,
        )
        expected = functional.dequantize_4bit(packed, state)
        tensors = {f"weight.{part}": t for part, t in state.as_dict(packed=True).items()}
        settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        settings |= {"bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested}
        save(name, settings, tensors | {"weight": packed}, expected)


if __name__ == "__main__":
    torch.manual_seed(0)
    FILES.mkdir(exist_ok=True)
    gptq()
    compressed()
    bitsandbytes()
    awq()
