"""Converts checkpoints for OpenVINO GenAI without the exporter of `optimum`, which pins
`transformers`.

GenAI reads GGUF and can save it in its own format. The float16 matrices in it are then replaced
by the int8 ones that `optimum-cli export openvino --weight-format int8` would write: asymmetric,
with a scale and a zero point for each output channel. The speeds are the same. (GenAI's own q8_0,
whose 32 weights share a scale, is as fast for one row and much slower for several.)
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.bench.rivals.gguf_export import export_gguf
from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.opening import open_checkpoint

__all__ = ["export_openvino"]

_MODEL = "openvino_model.xml"
_SMALLEST = 2048
"""Matrices with fewer numbers are not compressed."""

_LEVELS = 255


def export_openvino(folder: Path, out: Path) -> None:
    """Write the checkpoint at `folder` into the empty folder `out`, weights in int8.

    Raises:
        CheckpointError: GGUF, or its reader in OpenVINO, does not support the checkpoint.
    """
    import openvino  # pyright: ignore[reportMissingImports]
    import openvino_genai as genai  # pyright: ignore[reportMissingImports]

    rope = open_checkpoint(folder).config
    rope = rope.get("rope_scaling") or rope.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(
            f"{folder} has RoPE scaling {kind!r}, which the export does not support"
        )
    half = out / "half"
    half.mkdir()
    file = export_gguf(folder, half / "model.gguf", "f16")
    try:
        genai.LLMPipeline(str(file), "CPU", enable_save_ov_model=True)
        model = openvino.Core().read_model(half / _MODEL)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"OpenVINO cannot read {folder}: {reason}") from None
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant" and _is_matrix(node):
            _compress(node)
    openvino.save_model(model, out / _MODEL, compress_to_fp16=False)
    for part in sorted(half.glob("openvino_*tokenizer.*")):
        shutil.copyfile(part, out / part.name)
    del model  # it maps the file into memory
    shutil.rmtree(half)


def _is_matrix(node: Any) -> bool:
    shape = list(node.output(0).get_shape())
    kind = node.output(0).get_element_type().get_type_name()
    return len(shape) == 2 and kind in ("f16", "f32") and shape[0] * shape[1] >= _SMALLEST


def _compress(node: Any) -> None:
    """Replace a constant by `(weight - zero point) * scale`."""
    from openvino import opset13 as ops  # pyright: ignore[reportMissingImports]

    weight, zero, scale = quantized(np.asarray(node.data, dtype=np.float32))
    readers = list(node.output(0).get_target_inputs())
    kind = node.output(0).get_element_type()
    centred = ops.subtract(
        ops.convert(ops.constant(weight), kind), ops.convert(ops.constant(zero), kind)
    )
    scaled = ops.multiply(centred, ops.convert(ops.constant(scale), kind))
    for reader in readers:
        reader.replace_source_output(scaled.output(0))


def quantized(
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float16]]:
    """Quantize `[outputs, inputs]` to int8, with `[outputs, 1]` zero points and scales."""
    low = np.minimum(weight.min(axis=1, keepdims=True), 0)
    high = np.maximum(weight.max(axis=1, keepdims=True), 0)
    scale = np.maximum((high - low) / _LEVELS, np.finfo(np.float16).tiny).astype(np.float16)
    wide = scale.astype(np.float32)
    zero = np.clip(np.rint(-low / wide), 0, _LEVELS)
    levels = np.clip(np.rint(weight / wide) + zero, 0, _LEVELS)
    return levels.astype(np.uint8), zero.astype(np.uint8), scale
