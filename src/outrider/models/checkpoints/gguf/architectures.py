"""The architectures of GGUF files that are read: a row each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.checkpoints.gguf.names import FUSED, GEMMA, GLM4, OLMO2

Given = Callable[..., JsonValue]
"""`given(name, default)`: a setting of the file, by its name without the architecture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One architecture of llama.cpp.

    Attributes:
        model_type: its name in Hugging Face configurations.
        also: other names there of models whose files have this architecture.
        reordered: whether llama.cpp has reordered the rows of queries and keys.
        parts: names of tensors that differ from `names.PARTS`.
        partial: only some dimensions of a head may rotate.
        windows: layers may have windows.
        reads: further settings that are read, without the architecture.
        translate: returns further settings of the Hugging Face configuration.
    """

    model_type: str
    also: tuple[str, ...] = ()
    reordered: bool = False
    parts: Mapping[str, str] = field(default_factory=dict)
    partial: bool = False
    windows: bool = True
    reads: frozenset[str] = frozenset()
    translate: Callable[[Given], dict[str, JsonValue]] = lambda _: {}


CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
"""Settings that are soft caps."""
_SCALAR = "query_pre_attn_scalar"
_WIDE = {"gemma2": 46, "gemma3": 62}
"""Layers of the models of 27 billion weights, whose scores have another factor."""


def _gemma(given: Given, architecture: str) -> dict[str, JsonValue]:
    """Settings of Gemma: files hold the weights of norms with the 1 that is added to them."""
    heads, width = given("attention.head_count"), given("embedding_length")
    head_dim = given("attention.key_length", width // heads)
    wide = given("block_count") == _WIDE[architecture]
    config: dict[str, JsonValue] = {
        "rms_norm_offset": 0.0,
        _SCALAR: width // heads if wide else head_dim,
        "final_logit_softcapping": given("final_logit_softcapping") or None,
    }
    pattern = given("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        kinds = ("full_attention", "sliding_attention")
        config["layer_types"] = [kinds[bool(slides)] for slides in pattern]
    elif pattern is not None:
        config["sliding_window_pattern"] = pattern
    return config


def _gemma2(given: Given) -> dict[str, JsonValue]:
    caps = zip(CAPS, (50.0, 30.0), strict=True)
    return _gemma(given, "gemma2") | {name: given(name, cap) or None for name, cap in caps}


def _gemma3(given: Given) -> dict[str, JsonValue]:
    config = _gemma(given, "gemma3") | {"rope_local_base_freq": given("rope.freq_base_swa", 1e4)}
    if not given("attention.sliding_window"):
        config["layer_types"] = ["full_attention"] * given("block_count")
    return config


def _phi3(given: Given) -> dict[str, JsonValue]:
    original = given("rope.scaling.original_context_length", given("context_length"))
    return {"original_max_position_embeddings": original}


def _granite(given: Given) -> dict[str, JsonValue]:
    if given("rope.scaling.finetuned") is False:
        raise UnsupportedCheckpointError("a Granite model without rotary embeddings")
    heads, width = given("attention.head_count"), given("embedding_length")
    head_dim = given("attention.key_length", width // heads)
    return {
        "embedding_multiplier": given("embedding_scale") or 1.0,
        "residual_multiplier": given("residual_scale") or 1.0,
        "attention_multiplier": given("attention.scale") or head_dim**-0.5,
        "logits_scaling": given("logit_scale") or 1.0,
    }


_PATTERN = "attention.sliding_window_pattern"
SCALES = ("embedding_scale", "residual_scale", "attention.scale", "logit_scale")
"""Settings that are factors."""

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(model_type="llama", also=("mistral",), reordered=True),
    "qwen2": Architecture(model_type="qwen2"),
    "qwen3": Architecture(model_type="qwen3"),
    "smollm3": Architecture(model_type="smollm3", reordered=True),
    "gemma2": Architecture(
        model_type="gemma2",
        parts=GEMMA,
        reads=frozenset((*CAPS, _PATTERN)),
        translate=_gemma2,
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        parts=GEMMA,
        reads=frozenset((CAPS[1], _PATTERN, "rope.freq_base_swa")),
        translate=_gemma3,
    ),
    "phi3": Architecture(model_type="phi3", parts=FUSED, partial=True, translate=_phi3),
    "olmo2": Architecture(model_type="olmo2", parts=OLMO2, windows=False),
    "granite": Architecture(
        model_type="granite",
        reordered=True,
        windows=False,
        reads=frozenset(SCALES),
        translate=_granite,
    ),
    "glm4": Architecture(model_type="glm4", parts=GLM4, partial=True, windows=False),
}
