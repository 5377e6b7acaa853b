"""Our own format: heads of kind `hinted`, `eagle1` and `fspad`, and the tensors of our Medusa
heads; fields have the names of speculators.

Matrices may be stored as int8 in groups of 32 inputs: `NAME` holds the integers, `NAME_scale` one
float16 factor for each group (`[outputs, groups]`), as in compressed-tensors. In heads of 4 bits
`NAME` holds bytes below 16, and `NAME_minimum` what is subtracted from each group, in float16.
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
    PREDICTOR_FLAGS,
    STATES,
    VOCAB,
    read_extras,
    read_verifier,
)
from outrider.models.heads.formats.stored import StoredHead
from outrider.models.heads.formats.vocabulary import check_distinct, check_ids
from outrider.models.quantization.grouped import GROUP, Grouped, quantize_groups
from outrider.models.quantization.int4 import quantize_int4

SCALE, MINIMUM = "_scale", "_minimum"
"""Ends of the names of the factors of a matrix, and of the minimums of one with 4 bits."""
EIGHT_BITS, FOUR_BITS = 8, 4
_ZERO = 128

_WHOLE = ("ids", "successors")
NEEDED = (
    LAYER_CONFIG,
    *(replace(one, null=False, needed=True) for one in FIELDS if one.kinds == ("whole number",)),
)
"""Fields of our own format that must be there."""
_AGAIN = "Download its files again, or write it again"


def read_own(checkpoint: Checkpoint, found: HeadFormat) -> HeadFile:
    """Read a head in our own format.

    Args:
        checkpoint: the opened files.
        found: the format that config.json names, which is the kind of the head.

    Raises:
        CheckpointError: values that are missing or wrong.
    """
    config, where = checkpoint.config, str(checkpoint.path)
    file = str(Path(where) / "config.json")
    trained = read_extras(config, file)
    check_fields(file, config, FIELDS)
    check_fields(file, config, NEEDED)
    settings: Mapping[str, JsonValue] = config["transformer_layer_config"]
    check_fields(file, settings, (VOCAB,), "transformer_layer_config.")
    if not config[STATES.name]:
        raise CheckpointError(f"{file} has {STATES.name} [], expected states", hint=_AGAIN)
    head = HeadConfig(
        kind=HeadKind(found.value),
        layer=read_layer(settings, config["draft_vocab_size"], where),
        states=tuple(config[STATES.name]),
        target_width=config["target_hidden_size"],
        target_vocab=settings["vocab_size"],
        norm_states=bool(config.get("fc_norm")),
        norm_fused=bool(config.get("norm_before_fc")),
        **{name: bool(config.get(name)) for name in PREDICTOR_FLAGS},
    )
    return own_file(checkpoint, head, found, trained)


def own_file(
    checkpoint: Checkpoint, head: HeadShape, found: HeadFormat, trained: dict[str, JsonValue]
) -> HeadFile:
    """Return a head in our own format, given its shape and how it was trained.

    Raises:
        CheckpointError: tensors that are missing, damaged, or of a wrong shape.
    """
    where = str(checkpoint.path)
    sizes = Verifier(hidden_size=head.target_width, vocab_size=head.target_vocab)
    tensors, grouped = own_tensors(checkpoint, head, where)
    return HeadFile(
        config=head,
        tensors=tensors,
        verifier=read_verifier(checkpoint.config, sizes, str(Path(where) / "config.json")),
        format=found.value,
        trained=trained,
        grouped=grouped,
    )


def own_tensors(
    checkpoint: Checkpoint, head: HeadShape, where: str
) -> tuple[dict[str, Tensor], dict[str, Grouped]]:
    """Return all tensors, and the matrices that are stored as small integers.

    Raises:
        CheckpointError: tensors that are missing, damaged, or of a wrong shape.
    """
    names = {name: name for name in checkpoint.tensors}
    stored = StoredHead(checkpoint=checkpoint, names=names, where=where)
    packed = {name for name in names if f"{name}{SCALE}" in names}
    fine = {name for name in packed if f"{name}{MINIMUM}" in names}
    factors = {f"{name}{SCALE}" for name in packed} | {f"{name}{MINIMUM}" for name in fine}
    shapes: dict[str, tuple[int, ...]] = {
        name: stored.shape(name) or () for name in names if name not in factors
    }
    stored.check(head, shapes)
    for name in sorted(packed):
        for end in (SCALE, MINIMUM) if name in fine else (SCALE,):
            _check_groups(stored, name, end)
    whole = stored.whole(_WHOLE)
    check_ids("ids", whole["ids"], head.target_vocab, where)
    check_distinct(whole["ids"], where)
    if "successors" in whole:
        check_ids("successors", whole["successors"], head.target_vocab, where, least=-1)
    found = stored.floats([name for name in shapes if name not in packed and name not in _WHOLE])
    numbers = stored.raw(sorted(packed | factors))
    grouped = {name: _grouped(name, numbers, where) for name in sorted(packed)}
    found |= {name: matrix.dequantize() for name, matrix in grouped.items()}
    return found | {name: tensor.to(torch.int32) for name, tensor in whole.items()}, grouped


def _check_groups(stored: StoredHead, name: str, end: str) -> None:
    """Check the factors of a matrix against its shape, before they are loaded."""
    *outputs, inputs = stored.shape(name) or (0,)
    expected, given = (*outputs, -(-inputs // GROUP)), stored.shape(f"{name}{end}")
    if given != expected or len(expected) != 2 or not stored.is_whole(name):
        raise CheckpointError(
            f"tensor {name}{end} of the head {stored.where} has shape {list(given or ())}, "
            f"expected one factor for each {GROUP} inputs of a matrix of integers",
            hint=_AGAIN,
        )


def _grouped(name: str, numbers: Mapping[str, Tensor], where: str) -> Grouped:
    """Return a stored matrix; `numbers` are float32."""
    minimums = numbers.get(f"{name}{MINIMUM}")
    zero, top = (_ZERO, 2 * _ZERO - 1) if minimums is None else (0, (1 << FOUR_BITS) - 1)
    quants = numbers[name] + zero
    if quants.numel() and not (quants.min() >= 0 and quants.max() <= top):
        raise CheckpointError(
            f"tensor {name} of the head {where} has integers outside of {-zero} to {top - zero}",
            hint=_AGAIN,
        )
    return Grouped(
        bits=EIGHT_BITS if minimums is None else FOUR_BITS,
        zero=zero,
        span=GROUP,
        quants=quants.to(torch.uint8),
        scales=numbers[f"{name}{SCALE}"].half(),
        minimums=None if minimums is None else minimums.half(),
    )


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of a head is one that files and kernels may hold as small integers."""
    return tensor.ndim == 2 and name.endswith(".weight") and name != "fc_norm.weight"


def packed_tensors(tensors: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Return what is stored for these tensors, with matrices of 8 or 4 bits."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not is_matrix(name, tensor):
            stored[name] = tensor
            continue
        grouped = quantize_int4(tensor) if bits == FOUR_BITS else quantize_groups(tensor)
        stored[f"{name}{SCALE}"] = grouped.scales
        if grouped.minimums is not None:
            stored[name], stored[f"{name}{MINIMUM}"] = grouped.quants, grouped.minimums
        else:
            stored[name] = (grouped.quants.to(torch.int16) - grouped.zero).to(torch.int8)
    return stored
