"""Cost-scaled models: the outputs of a small model at the cost of a large one.

They give true costs with true acceptance if large weights are not available. Their config.json
holds a label, which is printed with each of their figures.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from outrider.bench.scaling.plan import (
    LABEL,
    ScaledPlan,
    count_parameters,
    make_plan,
)
from outrider.bench.scaling.tensors import layer_tensors, outer_tensors
from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.json_file import read_object
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.safetensors.folder import INDEX, SINGLE
from outrider.models.cuda import decoder_for
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.weights import (
    EMBED,
    HEAD,
    NORM,
    DecoderWeights,
    Linear,
    fuse_layer,
)

__all__ = ["cost_scale", "cost_scaled_label", "scaled_decoder"]

_SHARD_BYTES = 4 * 2**30
_COPIED = (".json", ".jinja", ".txt", ".model")


def cost_scale(folder: str | Path, spec: str, out: str | Path, *, widen: int | None = 1) -> Path:
    """Write the cost-scaled checkpoint at `folder` into the folder `out`, and return `out`.

    An existing folder with the same weights, spec and width is reused. Weights keep the dtypes of
    their files.

    Args:
        folder: a small checkpoint that `Decoder` runs.
        spec: `30M`, `8B`: minimum number of parameters, reached with more layers (a tied head
            counts once); `x4`: multiple of its own number.
        out: the folder to write.
        widen: copies of every channel, a power of two; None chooses for specs of 1B and more,
            towards a hidden size of 4096, which suits an accelerator. Needs memory for one layer
            and 4 GB more.

    Raises:
        OptionError: a spec or a width is malformed, or below the model's own size.
        CheckpointError: `Decoder` does not support the checkpoint, it is a GGUF file, `out` has
            other content, or the disk has too little free space.
    """
    checkpoint = open_checkpoint(folder)
    if checkpoint.path.is_file():
        raise CheckpointError(
            f"{checkpoint.path} is a GGUF file; cost scaling needs a Hugging Face folder",
            hint="Give the original checkpoint as a folder",
        )
    plan = make_plan(checkpoint, spec, widen)
    target = Path(out).expanduser()
    if _is_there(target, plan):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_room(target.parent, plan)
    scratch = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    scratch.mkdir()
    try:
        _copy_files(plan, scratch)
        _write_weights(plan, scratch)
        _move(scratch, target, plan)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def scaled_decoder(
    folder: str | Path,
    spec: str,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    widen: int | None = None,
    name: str | None = None,
) -> Decoder:
    """Build the same model on `device` without writing a file.

    Args:
        folder: a small checkpoint that `Decoder` runs.
        spec: as for `cost_scale`.
        device: device on which the weights are made. The noise of filler layers differs between
            kinds of device; outputs do not depend on it.
        dtype: dtype of weights, cache and logits.
        widen: as for `cost_scale`; automatic unless given.
        name: its name in errors and reports; None uses the label.

    Raises:
        OptionError: a spec or a width is malformed, or below the model's own size.
        CheckpointError: `Decoder` does not support the checkpoint.
    """
    plan = make_plan(open_checkpoint(folder), spec, widen)
    checkpoint = replace(
        plan.source,
        config=plan.config,
        fingerprint=f"{plan.source.fingerprint}-{plan.spec}-{plan.widen}",
    )
    weights = _weights(plan, torch.device(device), dtype)
    kind = decoder_for(torch.device(device))
    return kind(checkpoint, plan.large, weights, name=name or _spelled(plan.config[LABEL]))


def cost_scaled_label(folder: str | Path) -> str | None:
    """Return the label for figures of the model in `folder`; None unless it is cost-scaled."""
    try:
        config = read_object(Path(folder).expanduser() / "config.json")
    except CheckpointError:
        return None
    label = config.get(LABEL)
    return _spelled(label) if isinstance(label, dict) else None


def _spelled(label: dict[str, Any]) -> str:
    wide = f", widened {label['widen']} times" if label.get("widen", 1) > 1 else ""
    return f"{label.get('from')} cost-scaled to {label.get('spec')}{wide}"


def _weights(plan: ScaledPlan, device: torch.device, dtype: torch.dtype) -> DecoderWeights:
    outer = outer_tensors(plan, device, dtype)
    embed = outer.get(EMBED, outer.get(HEAD))
    head = outer.get(HEAD, embed)
    assert embed is not None and head is not None  # make_plan requires at least one of the two
    if plan.large.tied and torch.equal(embed, head):
        head = embed
    layers = (layer_tensors(plan, layer, device, dtype) for layer in range(plan.large.num_layers))
    extra = 0 if head is embed or not plan.large.tied else head.numel()
    return DecoderWeights(
        embed=embed,
        layers=[fuse_layer(own, plan.large) for own in layers],
        norm=outer[NORM],
        head=Linear(head),
        num_parameters=count_parameters(plan.large) + extra,
    )


# -- on disk ---------------------------------------------------------------------------------


def _is_there(target: Path, plan: ScaledPlan) -> bool:
    """Whether `target` holds exactly this model. Raises if it holds no cost-scaled model."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        config = read_object(target / "config.json")
    except CheckpointError:
        config = {}
    if LABEL not in config:
        raise CheckpointError(
            f"{target} exists, but is not a cost-scaled model",
            hint="Give a folder that does not exist",
        )
    return config == plan.config


def _check_room(folder: Path, plan: ScaledPlan) -> None:
    widest = max(i.nbytes // max(i.num_elements, 1) for i in plan.source.tensors.values())
    needed, free = plan.num_parameters * widest, shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"cost scale {plan.spec} needs {needed / 1e9:.1f} GB in {folder}, "
            f"which has {free / 1e9:.1f} GB",
            hint="Give a smaller size or another folder",
        )


def _copy_files(plan: ScaledPlan, scratch: Path) -> None:
    """Copy tokenizer and generation files unchanged, then write the new config.json."""
    for file in sorted(plan.source.path.iterdir()):
        if file.suffix in _COPIED and file.name not in ("config.json", INDEX):
            shutil.copyfile(file, scratch / file.name)
    (scratch / "config.json").write_text(json.dumps(plan.config, indent=2) + "\n", "utf-8")


def _write_weights(plan: ScaledPlan, scratch: Path) -> None:
    """Write one file, or shards of about 4 GB and their index."""
    placed: dict[str, str] = {}
    for number, shard in enumerate(_shards(plan), 1):
        file = f"model-{number:05}.safetensors"
        save_file(shard, scratch / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(shard, file)
    if len(set(placed.values())) == 1:
        (scratch / "model-00001.safetensors").rename(scratch / SINGLE)
        return
    size = sum(file.stat().st_size for file in scratch.glob("*.safetensors"))
    index = {"metadata": {"total_size": size}, "weight_map": placed}
    (scratch / INDEX).write_text(json.dumps(index), "utf-8")


def _shards(plan: ScaledPlan) -> Iterator[dict[str, Tensor]]:
    shard = outer_tensors(plan, "cpu", None)
    for layer in range(plan.large.num_layers):
        if sum(tensor.nbytes for tensor in shard.values()) >= _SHARD_BYTES:
            yield shard
            shard = {}
        own = layer_tensors(plan, layer, "cpu", None)
        shard |= {f"model.layers.{layer}.{name}": tensor for name, tensor in own.items()}
    yield shard


def _move(scratch: Path, target: Path, plan: ScaledPlan) -> None:
    """Move the finished folder into place; another process may have finished first."""
    if target.exists() and not _is_there(target, plan):
        shutil.rmtree(target)
    try:
        os.rename(scratch, target)
    except OSError:
        if not _is_there(target, plan):
            raise
