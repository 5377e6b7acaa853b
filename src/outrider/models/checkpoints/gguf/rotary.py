"""Rotary embeddings of a GGUF file as the settings of a Hugging Face configuration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.checkpoints.fields import Field, check_fields

_KINDS = ("none", "linear", "yarn", "longrope")
_SCALING = "rope.scaling."
_KNOWN = {
    "type": Field("", ("text",), null=False),
    "factor": Field("", ("number",), least=0, null=False),
    "original_context_length": Field("", ("whole number",), least=1, most="positions", null=False),
    "attn_factor": Field("", ("number",), least=0, above=True, null=False),
    "yarn_beta_fast": Field("", ("number",), least=0, null=False),
    "yarn_beta_slow": Field("", ("number",), least=0, null=False),
    "finetuned": Field("", ("true or false",), null=False),
}
_HINT = "Give the original checkpoint as a Hugging Face folder"


@dataclass(slots=True)
class Factors:
    """Divisors of the frequencies, which files store as tensors.

    Attributes:
        plain: those of every text.
        short: those of texts within the first context window of a LongRoPE model.
        long: those of longer texts.
    """

    plain: Sequence[float] | None = None
    short: Sequence[float] | None = None
    long: Sequence[float] | None = None


def read_rotary(
    file: str,
    prefix: str,
    metadata: Mapping[str, JsonValue],
    factors: Factors,
) -> dict[str, JsonValue] | None:
    """Return `rope_scaling`; None for plain rotary embeddings.

    Args:
        file: the file in messages.
        prefix: the architecture and a dot.
        metadata: the settings of the file.
        factors: divisors of the frequencies.

    Raises:
        CheckpointError: a setting is wrong or not supported.
    """
    given = _scaling(file, prefix, metadata)
    kind = given.get("type", "linear")  # the default of llama.cpp
    factor = given.get("factor") or metadata.get(f"{prefix}rope.scale_linear") or 1.0
    scaled = kind not in ("none", "longrope") and factor != 1
    amplitude = given.get("attn_factor", 1.0)
    if factors.short is not None and factors.long is not None and not scaled:
        return _longrope(factors, amplitude)
    if kind not in _KINDS:
        raise _unsupported(file, f"{prefix}{_SCALING}type {kind!r:.40}; known: {', '.join(_KINDS)}")
    if factors != Factors() and scaled:
        raise _unsupported(file, f"factors of frequencies together with {kind} scaling")
    if amplitude != 1 and not (scaled and kind == "yarn"):
        raise _unsupported(file, f"{prefix}{_SCALING}attn_factor {amplitude}")
    if factors.plain is not None:
        return {"rope_type": "factors", "factors": list(factors.plain)}
    if not scaled:
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    return _yarn(given, factor, amplitude)


def _scaling(file: str, prefix: str, metadata: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the settings of the scaling by their short names, checked."""
    start = prefix + _SCALING
    given = {key.removeprefix(start): v for key, v in metadata.items() if key.startswith(start)}
    for name, value in given.items():
        if name not in _KNOWN:
            raise _unsupported(file, f"the setting {start + name!r:.100}")
        _KNOWN[name].check(file, value, start + name)
    plain = Field(f"{prefix}rope.scale_linear", ("number",), least=0, null=False)
    check_fields(file, metadata, (plain,))
    return given


def _yarn(given: Mapping[str, JsonValue], factor: float, amplitude: float) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {"rope_type": "yarn", "factor": factor}
    names = {
        "original_context_length": "original_max_position_embeddings",
        "yarn_beta_fast": "beta_fast",
        "yarn_beta_slow": "beta_slow",
    }
    found |= {ours: given[name] for name, ours in names.items() if name in given}
    if amplitude != 1:
        found["attention_factor"] = amplitude * (1 + 0.1 * math.log(factor))
    return found


def _longrope(factors: Factors, amplitude: float) -> dict[str, JsonValue]:
    return {
        "rope_type": "longrope",
        "short_factor": list(factors.short or ()),
        "long_factor": list(factors.long or ()),
        "attention_factor": amplitude,
    }


def _unsupported(file: str, what: str) -> UnsupportedCheckpointError:
    return UnsupportedCheckpointError(f"{file} has {what}, which is not supported", hint=_HINT)
