"""Our own format: heads of kind `hinted`, with the field names of speculators.

Matrices may be stored as int8 in groups of 32 inputs: `NAME` holds the integers, `NAME_scale` one
float16 factor for each group (`[outputs, groups]`), as in compressed-tensors.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.fields import check_fields
from outrider.models.heads.config import HeadConfig, HeadKind, HeadShape
from outrider.models.heads.formats.head_file import HeadFile, Verifier
from outrider.models.heads.formats.layers import read_layer
from outrider.models.heads.formats.recognising import HeadFormat
from outrider.models.heads.formats.settings import (
    FIELDS,
    LAYER_CONFIG,
    STATES,
    VOCAB,
    read_extras,
    read_verifier,
)
from outrider.models.heads.formats.stored import StoredHead
from outrider.models.heads.formats.vocabulary import check_distinct, check_ids
from outrider.models.quantization.grouped import GROUP, quantize_groups

SCALE = "_scale"
"""End of the name of the factors of an int8 matrix."""

_WHOLE = ("ids", "successors")
_NEEDED = (
    LAYER_CONFIG,
    *(replace(one, null=False, needed=True) for one in FIELDS if one.kinds == ("whole number",)),
)
_AGAIN = "Download its files again, or write it again"


def read_hinted(checkpoint: Checkpoint) -> HeadFile:
    """Read a head in our own format.

    Raises:
        CheckpointError: values that are missing or wrong.
    """
    config, where = checkpoint.config, str(checkpoint.path)
    file = str(Path(where) / "config.json")
    trained = read_extras(config, file)
    check_fields(file, config, FIELDS)
    check_fields(file, config, _NEEDED)
    settings: Mapping[str, JsonValue] = config["transformer_layer_config"]
    check_fields(file, settings, (VOCAB,), "transformer_layer_config.")
    if not config[STATES.name]:
        raise CheckpointError(f"{file} has {STATES.name} [], expected states", hint=_AGAIN)
    head = HeadConfig(
        kind=HeadKind.HINTED,
        layer=read_layer(settings, config["draft_vocab_size"], where),
        states=tuple(config[STATES.name]),
        target_width=config["target_hidden_size"],
        target_vocab=settings["vocab_size"],
        norm_states=bool(config.get("fc_norm")),
        norm_fused=bool(config.get("norm_before_fc")),
    )
    sizes = Verifier(hidden_size=head.target_width, vocab_size=head.target_vocab)
    return HeadFile(
        config=head,
        tensors=own_tensors(checkpoint, head, where),
        verifier=read_verifier(config, sizes, file),
        format=HeadFormat.HINTED.value,
        trained=trained,
    )


def own_tensors(checkpoint: Checkpoint, head: HeadShape, where: str) -> dict[str, Tensor]:
    """Load the tensors of a head in our own format, whose matrices may be in int8.

    Raises:
        CheckpointError: tensors that are missing, damaged, or of a wrong shape.
    """
    names = {name: name for name in checkpoint.tensors}
    stored = StoredHead(checkpoint=checkpoint, names=names, where=where)
    packed = {name for name in names if f"{name}{SCALE}" in names}
    scales = {f"{name}{SCALE}" for name in packed}
    shapes: dict[str, tuple[int, ...]] = {
        name: stored.shape(name) or () for name in names if name not in scales
    }
    stored.check(head, shapes)
    for name in packed:
        *outputs, inputs = shapes[name]
        expected, given = (*outputs, -(-inputs // GROUP)), stored.shape(f"{name}{SCALE}")
        if given != expected or len(expected) != 2 or not stored.is_whole(name):
            raise CheckpointError(
                f"tensor {name}{SCALE} of the head {where} has shape {list(given or ())}, expected "
                f"one factor for each {GROUP} inputs of an int8 matrix",
                hint=_AGAIN,
            )
    whole = stored.whole(_WHOLE)
    check_ids("ids", whole["ids"], head.target_vocab, where)
    check_distinct(whole["ids"], where)
    if "successors" in whole:
        check_ids("successors", whole["successors"], head.target_vocab, where, least=-1)
    found = stored.floats([name for name in shapes if name not in packed and name not in _WHOLE])
    factors, integers = stored.raw(sorted(scales)), stored.raw(sorted(packed))
    for name in packed:
        found[name] = _unpacked(integers[name], factors[f"{name}{SCALE}"])
    return found | {name: tensor.to(torch.int32) for name, tensor in whole.items()}


def _unpacked(integers: Tensor, factors: Tensor) -> Tensor:
    return integers * factors.repeat_interleave(GROUP, dim=1)[:, : integers.shape[1]]


def packed_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is stored for these tensors, with matrices in int8."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or not name.endswith(".weight") or name == "fc_norm.weight":
            stored[name] = tensor
            continue
        grouped = quantize_groups(tensor)
        stored[name] = (grouped.quants.to(torch.int16) - grouped.zero).to(torch.int8)
        stored[f"{name}{SCALE}"] = grouped.scales
    return stored
