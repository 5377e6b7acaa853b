"""Writes heads: EAGLE-3 in the format of speculators, other kinds in our own."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from outrider.core.errors import OptionError, writing
from outrider.core.values import JsonValue
from outrider.models.checkpoints.safetensors.folder import SINGLE
from outrider.models.checkpoints.tensors import check_finite
from outrider.models.heads.clover.config import CloverConfig
from outrider.models.heads.config import HeadConfig, HeadKind, HeadShape
from outrider.models.heads.formats.clover import clover_settings
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.layers import layer_settings
from outrider.models.heads.formats.medusa import medusa_settings
from outrider.models.heads.formats.own import EIGHT_BITS, FOUR_BITS, packed_tensors
from outrider.models.heads.formats.settings import (
    EXTRAS,
    PREDICTOR_FLAGS,
    extras_of,
    speculators_config,
)
from outrider.models.heads.formats.vocabulary import check_distinct, check_ids, to_offsets
from outrider.models.heads.medusa.config import MedusaConfig

_ARCHITECTURES = {
    HeadKind.HINTED: "OutriderHintedSpeculator",
    HeadKind.EAGLE3: "Eagle3Speculator",
    HeadKind.EAGLE1: "OutriderEagle1Speculator",
    HeadKind.FSPAD: "OutriderFspadSpeculator",
}


def write_head(
    folder: str | Path,
    config: HeadConfig | MedusaConfig | CloverConfig,
    tensors: Mapping[str, Tensor],
    verifier: Verifier,
    *,
    bits: int | None,
    card: str,
    trained: Mapping[str, JsonValue] | None = None,
    rotary: Mapping[str, JsonValue] | None = None,
) -> None:
    """Write a head: config.json, the weights and README.md, each of them atomically.

    Args:
        folder: where; it is created, and files of the same names are replaced.
        config: its shape.
        tensors: its tensors (`HeadConfig.shapes` and `HeadConfig.optional`).
        verifier: its target; its sizes follow from `config`.
        bits: 8 or 4 of the matrices, in our own format only; Medusa and Clover have 8. None writes
            float32.
        card: the text of README.md.
        trained: how it was trained, as JSON.
        rotary: the target's config.json, for heads with scaled rotary embeddings.

    Raises:
        CheckpointError: tensors that are missing, of a wrong shape, NaN, or ids that do not exist.
        OptionError: the format cannot hold this head.
        OutriderError: the files cannot be written.
    """
    place = Path(folder).expanduser()
    if bits not in (None, FOUR_BITS, EIGHT_BITS):
        raise OptionError(f"bits is {bits}", hint="Give 8, 4 or None")
    _check(config, tensors)
    if isinstance(config, HeadConfig) and config.kind not in _ARCHITECTURES:
        raise OptionError(
            f"heads of kind {config.kind} cannot be written", hint="They belong to their target"
        )
    if bits == FOUR_BITS and not isinstance(config, HeadConfig):
        raise OptionError(
            f"{config.kind.title()} heads are not written with 4 bits: their training does not "
            "round them",
            hint="Give 8 or None",
        )
    if isinstance(config, MedusaConfig):
        settings = medusa_settings(config, verifier, trained)
    elif isinstance(config, CloverConfig):
        settings = clover_settings(config, verifier, rotary, trained)
    else:
        settings = _settings(config, verifier, rotary, trained)
    if isinstance(config, HeadConfig) and config.kind is HeadKind.EAGLE3:
        stored = _eagle3_tensors(config, tensors, bits=bits)
    else:
        stored = _plain(tensors) if bits is None else packed_tensors(_plain(tensors), bits)
    text = json.dumps(settings, indent=2) + "\n"
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    _write(place / SINGLE, lambda partial: _save(stored, partial))
    _write(place / "README.md", lambda partial: _save_text(card, partial))
    _write(place / "config.json", lambda partial: _save_text(text, partial))


def _check(config: HeadShape, tensors: Mapping[str, Tensor]) -> None:
    where = "to be written"
    config.check(tensors, where)
    for name, tensor in tensors.items():
        check_finite(tensor, name, f"the head {where}")
    check_ids("ids", tensors["ids"], config.target_vocab, where)
    check_distinct(tensors["ids"], where)
    if "successors" in tensors:
        check_ids("successors", tensors["successors"], config.target_vocab, where, least=-1)


def _settings(
    config: HeadConfig,
    verifier: Verifier,
    rotary: Mapping[str, JsonValue] | None,
    trained: Mapping[str, JsonValue] | None,
) -> dict[str, JsonValue]:
    own = {name: getattr(config, name) for name in PREDICTOR_FLAGS}
    return {
        "architectures": [_ARCHITECTURES[config.kind]],
        "speculators_model_type": config.kind.value,
        "speculators_version": "0.5.0",
        "speculators_config": speculators_config(config.kind.value, verifier),
        "transformer_layer_config": layer_settings(config.layer, config.target_vocab, rotary),
        "draft_vocab_size": config.draft_vocab,
        "target_hidden_size": config.target_width,
        "eagle_aux_hidden_state_layer_ids": list(config.states),
        "norm_before_residual": config.norm_before_residual,
        "norm_before_fc": config.norm_fused,
        "fc_norm": config.norm_states,
        "norm_output": config.norm_output,
        "tie_word_embeddings": False,
        **(own if config.predicts_states else {}),
        EXTRAS: extras_of(verifier, trained),
    }


def _eagle3_tensors(
    config: HeadConfig, tensors: Mapping[str, Tensor], *, bits: int | None
) -> dict[str, Tensor]:
    """Return the tensors by the names of speculators; rows of the head ascend by id."""
    if bits is not None:
        raise OptionError(
            f"EAGLE-3 heads are not written with {bits} bits, which other engines do not read",
            hint="Give bits=None",
        )
    if "lm_head.weight" not in tensors:
        raise OptionError(
            "an EAGLE-3 head without lm_head.weight cannot be written: other engines need its rows",
            hint="Add the rows of the target's head for the ids of the head",
        )
    if config.norm_states and "fc_norm.weight" not in tensors:
        raise OptionError(
            "an EAGLE-3 head with norm_states needs fc_norm.weight", hint="Add a tensor of ones"
        )
    if list(config.states) != sorted(set(config.states)):
        raise OptionError(
            f"an EAGLE-3 head reads states in ascending order, not {list(config.states)}",
            hint="Train it with states in this order",
        )
    if config.norm_states and config.norm_fused:
        raise OptionError("norm_states and norm_fused exclude each other", hint="Choose one")
    if config.layer.qkv_bias:
        raise OptionError(
            "an EAGLE-3 head with biases cannot be written: the format of speculators has none",
            hint="Train it without qkv_bias",
        )
    plain = _plain(tensors)
    ids, order = plain.pop("ids").sort()
    plain["lm_head.weight"] = plain["lm_head.weight"][order].contiguous()
    if (norms := plain.pop("fc_norm.weight", None)) is not None:
        plain |= {f"fc_norm.{i}.weight": one.contiguous() for i, one in enumerate(norms)}
    if (norm := plain.pop("fc_input_norm.weight", None)) is not None:
        plain["input_norm.weight"] = norm
    if config.draft_vocab != config.target_vocab:
        plain["d2t"], plain["t2d"] = to_offsets(ids, config.target_vocab)
    return plain


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies: float32, and int32 for ids."""
    kinds = {True: torch.float32, False: torch.int32}
    return {
        name: tensor.detach().to("cpu", kinds[tensor.is_floating_point()], copy=True).contiguous()
        for name, tensor in tensors.items()
    }


def _write(file: Path, save: Callable[[Path], None]) -> None:
    partial = file.with_name(f".{file.name}.partial")
    with writing(file):
        try:
            save(partial)
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from None


def _save_text(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")
