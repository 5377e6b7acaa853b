"""Settings that speculators and our own format share: the verifier, and our additions.

Our additions lie in one object, `outrider`, so that readers of speculators ignore them: the
version of the format, the hash of the target's tokenizer, and how the head was trained.
"""

from collections.abc import Mapping
from dataclasses import replace

from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.heads.formats.head_file import Verifier

EXTRAS = "outrider"
FORMAT = 1
"""Version of our additions."""

STATES = Field(
    "eagle_aux_hidden_state_layer_ids", ("whole number",), least=0, most="layers", levels=(1,)
)
_FLAGS = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
PREDICTOR_FLAGS = ("fuse_bias", "sampling", "alignment")
"""Flags of heads that predict states, in our own format."""
FIELDS = (
    Field("draft_vocab_size", ("whole number",), least=1, most="vocabulary"),
    Field("target_hidden_size", ("whole number",), least=1, most="width"),
    STATES,
    *(Field(name, ("true or false",)) for name in (*_FLAGS, *PREDICTOR_FLAGS)),
)
"""Fields that EAGLE-3 heads and our own format share."""
LAYER_CONFIG = Field("transformer_layer_config", ("object",), null=False, needed=True)
VOCAB = Field("vocab_size", ("whole number",), null=False, least=1, most="vocabulary", needed=True)

_OUTER = (Field("speculators_config", ("object",)), Field(EXTRAS, ("object",)))
_INNER = (Field("verifier", ("object",)),)
_VERIFIER = (Field("name_or_path", ("text",)), Field("architectures", ("text",), levels=(1,)))
_EXTRAS = (
    Field("format", ("whole number",), least=1, null=False, needed=True),
    Field("tokenizer", ("text",)),
    Field("trained", ("object",)),
)


def read_verifier(config: Mapping[str, JsonValue], sizes: Verifier, file: str) -> Verifier:
    """Return `sizes` with the names in config.json. Raises `FieldError` for wrong values."""
    check_fields(file, config, _OUTER)
    inner = config.get("speculators_config") or {}
    check_fields(file, inner, _INNER, "speculators_config.")
    given = inner.get("verifier") or {}
    check_fields(file, given, _VERIFIER, "speculators_config.verifier.")
    return replace(
        sizes,
        name_or_path=given.get("name_or_path"),
        architectures=tuple(given.get("architectures") or ()),
        tokenizer=(config.get(EXTRAS) or {}).get("tokenizer"),
    )


def read_extras(config: Mapping[str, JsonValue], file: str) -> dict[str, JsonValue]:
    """Return how the head was trained, if config.json says so.

    Raises:
        UnsupportedCheckpointError: a newer version of the format.
        FieldError: wrong values.
    """
    extras = config.get(EXTRAS)
    if extras is None:
        return {}
    check_fields(file, config, _OUTER)
    check_fields(file, extras, _EXTRAS, f"{EXTRAS}.")
    if extras["format"] > FORMAT:
        raise UnsupportedCheckpointError(
            f"{file} has {EXTRAS}.format {extras['format']}, this version reads up to {FORMAT}",
            hint="Update outrider",
        )
    return dict(extras.get("trained") or {})


def speculators_config(algorithm: str, verifier: Verifier) -> dict[str, JsonValue]:
    """Return the object `speculators_config` of a head."""
    return {
        "algorithm": algorithm,
        "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
        "default_proposal_method": "greedy",
        "verifier": {
            "name_or_path": verifier.name_or_path,
            "architectures": list(verifier.architectures),
        },
    }


def extras_of(verifier: Verifier, trained: Mapping[str, JsonValue] | None) -> dict[str, JsonValue]:
    """Return our additions to config.json."""
    return {"format": FORMAT, "tokenizer": verifier.tokenizer, "trained": dict(trained or {})}
