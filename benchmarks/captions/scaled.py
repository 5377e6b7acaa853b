"""An image-text model whose text part is cost-scaled: same captions, costs of a larger one.

Layers that add nothing stand between those of the text part (`bench/scaling/tensors.py`). Its
width stays, so that vision part and connector fit as they are: the share of time that looking takes
is then smaller than in a model that is large throughout.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from outrider.bench.scaling.plan import LABEL, ScaledPlan, make_plan
from outrider.bench.scaling.tensors import layer_tensors
from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import Checkpoint, load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.safetensors.folder import INDEX, SINGLE
from outrider.models.llama.text_stack import text_prefix, text_stack

_COPIED = (".json", ".jinja", ".txt", ".model")
_KINDS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16}


def scale_text_part(folder: Path, spec: str, out: Path) -> Path:
    """Write `folder` with a deeper text part into `out`, and return that.

    A folder written before from the same weights and spec is left as it is.

    Args:
        folder: an image-text checkpoint whose text part `Decoder` runs.
        spec: `x4`, `30M`, ... as for `models.scaling.cost_scale`, of the text part alone.
        out: the folder to write.

    Raises:
        CheckpointError: a checkpoint of another kind, or an `out` that holds something else.
        OptionError: a spec that cannot be read, or below the text part's own size.
    """
    whole = open_checkpoint(folder)
    stack = text_stack(whole)
    inner = whole.config.get("text_config")
    prefix = text_prefix(whole.tensors)
    if stack.checkpoint is None or prefix is None or not isinstance(inner, dict):
        raise CheckpointError(f"{folder} has no text part to scale: {stack.reason or 'old layout'}")
    plan = make_plan(stack.checkpoint, spec)
    config = whole.config | {"text_config": _deeper(inner, plan), LABEL: plan.config[LABEL]}
    if (out / SINGLE).is_file():
        if json.loads((out / "config.json").read_text("utf-8")) == config:
            return out
        raise CheckpointError(f"{out} holds another model", hint="Give another folder")
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(whole.path.iterdir()):
        if file.suffix in _COPIED and file.name not in ("config.json", INDEX):
            shutil.copyfile(file, out / file.name)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    tensors = _others(whole, f"{prefix}layers.")
    for layer in range(plan.large.num_layers):
        own = layer_tensors(plan, layer, "cpu", None)
        tensors |= {f"{prefix}layers.{layer}.{name}": tensor for name, tensor in own.items()}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, out / SINGLE, metadata={"format": "pt"})
    return out


def _deeper(text: dict[str, Any], plan: ScaledPlan) -> dict[str, Any]:
    deeper = text | {"num_hidden_layers": plan.large.num_layers}
    if "layer_types" in text:
        deeper["layer_types"] = [text["layer_types"][origin] for origin in plan.origins]
    return deeper


def _others(whole: Checkpoint, layers: str) -> dict[str, torch.Tensor]:
    """What is no layer of the text part, as it is."""
    found: dict[str, torch.Tensor] = {}
    for name, info in whole.tensors.items():
        if not name.startswith(layers):
            found |= load_tensors(whole, [name], _KINDS.get(info.dtype, torch.bfloat16))
    return found
