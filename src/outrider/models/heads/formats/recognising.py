"""Which format the files of a head have, and which formats are refused."""

from collections.abc import Collection, Mapping
from enum import StrEnum

from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.checkpoints.fields import Field, check_fields

PREFIX = "model."
"""Some projects store the tensors of a head below this name."""

_OTHER = "Choose an EAGLE-3 head for this target, or draft without a head"


class HeadFormat(StrEnum):
    """The formats that are read."""

    SPECULATORS = "speculators"
    EAGLE3 = "eagle3"
    HINTED = "hinted"
    EAGLE1 = "eagle1"
    FSPAD = "fspad"
    ORIGINAL_EAGLE1 = "original eagle1"
    MTP = "mtp"
    MEDUSA = "medusa"
    OWN_MEDUSA = "own medusa"
    CLOVER = "clover"


_TYPES = {
    "eagle3": HeadFormat.SPECULATORS,
    "hinted": HeadFormat.HINTED,
    "eagle1": HeadFormat.EAGLE1,
    "fspad": HeadFormat.FSPAD,
    "medusa": HeadFormat.OWN_MEDUSA,
    "clover": HeadFormat.CLOVER,
}
"""`speculators_model_type` -> format."""

_REFUSED_TYPES = {
    "peagle": "a P-EAGLE head drafts all tokens in one pass from a learned state; that pass is "
    "missing, and its later steps were not trained on its own outputs",
    "eagle": "an EAGLE-1 or EAGLE-2 head in this format is missing; the original files load",
    "mtp": "a separate MTP head in the format of speculators is missing",
    "dflash": "a DFlash head drafts blocks with attention in both directions, which is missing",
    "dspark": "a DSpark head drafts blocks with attention in both directions and corrects them by "
    "a Markov head, which is missing",
    "independent": "an independent draft model is not a head",
    "mlp": "an MLP speculator has one small network for each position, which is missing",
}
"""`speculators_model_type` -> what is missing."""

_REFUSED_MODELS = {
    "medusa": "the names of vLLM for Medusa heads are not read",
    "mlp_speculator": _REFUSED_TYPES["mlp"],
    "eagle": _REFUSED_TYPES["eagle"],
    "gemma4_assistant": "a Gemma 4 assistant reads keys and values of its target, which is missing",
    "gemma4_unified_assistant": "a Gemma 4 assistant reads keys and values of its target, which is "
    "missing",
}
"""`model_type` -> what is missing."""

_TYPE_FIELDS = (Field("speculators_model_type", ("text",)), Field("model_type", ("text",)))


def by_config(config: Mapping[str, JsonValue], where: str) -> HeadFormat | None:
    """Return the format that config.json names; None if it names none.

    Raises:
        UnsupportedCheckpointError: it names a format that is not read.
    """
    check_fields(where, config, _TYPE_FIELDS)
    kind, model = config.get("speculators_model_type"), config.get("model_type")
    if kind in _TYPES:
        return _TYPES[kind]
    if kind is not None:
        known = ", ".join(_TYPES)
        reason = _REFUSED_TYPES.get(kind, f"{kind:.60} is not known; known: {known}")
        raise _refused(f"speculators_model_type {kind:.60}", where, reason)
    if "markov_head_config" in config or "dspark_config" in config:
        raise _refused("DSpark", where, _REFUSED_TYPES["dspark"])
    if "dflash_config" in config:
        raise _refused("DFlash", where, _REFUSED_TYPES["dflash"])
    if "medusa_num_heads" in config:
        return HeadFormat.MEDUSA
    if model in _REFUSED_MODELS:
        raise _refused(f"model_type {model}", where, _REFUSED_MODELS[model])
    return None


def by_names(names: Collection[str], where: str) -> HeadFormat:
    """Return the format that the names of tensors show.

    Raises:
        UnsupportedCheckpointError: it is not read, or the files hold no head.
    """
    plain = {name.removeprefix(PREFIX) for name in names}
    if any(name.startswith("midlayer.") for name in plain):
        return HeadFormat.EAGLE3
    if any(name.startswith("mtp.") for name in plain):
        return HeadFormat.MTP
    if is_original_eagle1(plain):
        return HeadFormat.ORIGINAL_EAGLE1
    if any(name.startswith(("medusa_head.", "0.0.linear.")) for name in plain):
        return HeadFormat.MEDUSA
    if any(name.startswith("speculator.") for name in plain):
        raise _refused("MLP speculator", where, _REFUSED_TYPES["mlp"])
    raise UnsupportedCheckpointError(
        f"{where} holds no draft head: no tensor midlayer.* or mtp.*, and config.json has no "
        "speculators_model_type",
        hint="Give the folder of a head, not of its target",
    )


def is_original_eagle1(names: Collection[str]) -> bool:
    """Whether names of tensors, without `PREFIX`, are those of an original head of EAGLE-1."""
    return "fc.weight" in names and any(name.startswith("layers.0.") for name in names)


def _refused(name: str, where: str, reason: str) -> UnsupportedCheckpointError:
    return UnsupportedCheckpointError(
        f"the head {where} ({name}) is not supported: {reason}", hint=_OTHER
    )
