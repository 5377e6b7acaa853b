"""Presents the text part of an image-text checkpoint as a separate checkpoint.

Image-text models wrap a plain decoder. Its settings are a part of config.json (in older Qwen-VL
checkpoints they are mixed with those of the whole model), and its tensors have longer names. The
view made here has plain settings and plain names, and maps each name to the name in the files.
Nothing is copied. Images enter as embeddings (`models/vision/encoder.py`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.llama.config import supports

_EMBED, _HEAD = "embed_tokens.weight", "lm_head.weight"
_FIRST = "layers.0.post_attention_layernorm.weight"  # every architecture has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """How one image-text `model_type` stores its text part.

    Attributes:
        text: `model_type` of the text part if config.json does not give it.
        tied_inside: embeddings are also tied if only the settings of the text part tie them.
        assumed: defaults for settings of the text part that config.json may omit.
    """

    text: str = "llama"
    tied_inside: bool = True
    assumed: Mapping[str, JsonValue] = field(default_factory=dict)


_QWEN_VL = Wrapper(
    text="qwen2",
    assumed={
        "vocab_size": 152_064,
        "hidden_size": 8192,
        "intermediate_size": 29_568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "max_window_layers": 80,
        "rope_theta": 1e6,
    },
)
_SECTIONS = (16, 24, 24)
"""Pairs of dimensions that rotate by time, height and width, if Qwen-VL does not give them."""

WRAPPERS: dict[str, Wrapper] = {
    "idefics2": Wrapper(text="mistral", tied_inside=False),
    "idefics3": Wrapper(tied_inside=False),
    "smolvlm": Wrapper(tied_inside=False),
    "llava": Wrapper(),
    "llava_next": Wrapper(),
    "llava_onevision": Wrapper(text="qwen2"),
    "vipllava": Wrapper(),
    "internvl": Wrapper(text="qwen2"),
    "mistral3": Wrapper(text="mistral"),
    "qwen2_vl": _QWEN_VL,
    "qwen2_5_vl": _QWEN_VL,
}
"""Image-text models whose text part reads embeddings like any decoder: each row attends to the
rows before it.
"""

_SIZES: dict[str, dict[str, int]] = {
    "llama": {"vocab_size": 32_000, "intermediate_size": 11_008},
    "mistral": {"vocab_size": 32_000, "intermediate_size": 14_336},
    "qwen2": {"vocab_size": 151_936, "intermediate_size": 22_016},
    "qwen3": {"vocab_size": 151_936, "intermediate_size": 22_016},
}
"""Sizes that `transformers` assumes: config.json of an image-text model omits default values."""
_COMMON = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}

_PLAIN = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2"} | {
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
}
"""Text parts that are plain models except for their positions."""


@dataclass(frozen=True, slots=True)
class TextStack:
    """The text part of a checkpoint, or the reason why `Decoder` cannot run it.

    Attributes:
        checkpoint: the view; None if there is a `reason`.
        reason: one line that says why there is no view.
    """

    checkpoint: Checkpoint | None
    reason: str | None = None


def text_checkpoint(checkpoint: Checkpoint) -> Checkpoint | None:
    """Return the text part of an image-text checkpoint; None if `text_stack` gives a reason."""
    return text_stack(checkpoint).checkpoint


def text_stack(checkpoint: Checkpoint) -> TextStack:
    """Build the text part of an image-text checkpoint, with plain settings and names.

    The fingerprint is that of the whole checkpoint.
    """
    kind = checkpoint.config.get("model_type")
    wrapper = WRAPPERS.get(str(kind))
    if wrapper is None:
        known = ", ".join(WRAPPERS)
        return TextStack(None, f"model_type {kind!r} has no known text part; known: {known}")
    prefix = text_prefix(checkpoint.tensors)
    if prefix is None:
        return TextStack(None, f"{checkpoint.path} holds no tensors of a text part")
    config = _text_config(checkpoint.config, wrapper)
    if (reason := supports(config)) is not None:
        return TextStack(None, reason)
    names = text_names(checkpoint.tensors, prefix)
    tensors = {plain: checkpoint.tensors[name] for name, plain in names.items()}
    return TextStack(replace(checkpoint, config=config, tensors=tensors))


def is_tied(config: Mapping[str, JsonValue]) -> bool:
    """Whether config.json ties the head to the token embeddings, in plain and image-text models."""
    inner = config.get("text_config")
    wrapper = WRAPPERS.get(str(config.get("model_type")), Wrapper())
    return _tied(config, inner if isinstance(inner, Mapping) else {}, wrapper)


# -- names -------------------------------------------------------------------------------------


def text_prefix(names: Collection[str]) -> str | None:
    """Return the prefix of a decoder's tensor names, such as `model.text_model.`.

    It belongs to the only part that has token embeddings and layers; None if there is none.
    """
    ends = (name.removesuffix(_EMBED) for name in names if name.endswith(_EMBED))
    found = [prefix for prefix in ends if prefix + _FIRST in names]
    return found[0] if len(found) == 1 else None


def text_names(names: Collection[str], prefix: str) -> dict[str, str]:
    """Map the decoder's tensors among `names` from the name in the files to the plain name."""
    own = {name: "model." + name.removeprefix(prefix) for name in names if _is_inside(name, prefix)}
    heads = [name for name in names if name == _HEAD or name.endswith(f".{_HEAD}")]
    return own | dict.fromkeys(heads[:1], _HEAD)


def _is_inside(name: str, prefix: str) -> bool:
    """Whether `name` belongs to a layer, the embeddings or the norm.

    In old Qwen-VL checkpoints the rest of the model has the same prefix.
    """
    rest = name.removeprefix(prefix)
    return name.startswith(prefix) and rest.startswith(("layers.", "embed_tokens.", "norm."))


# -- settings ----------------------------------------------------------------------------------


def _text_config(config: Mapping[str, JsonValue], wrapper: Wrapper) -> dict[str, JsonValue]:
    """Return the settings of the text part in the form of a plain model."""
    inner = config.get("text_config")
    own = dict(inner) if isinstance(inner, Mapping) else _flat(config, wrapper)
    kind = str(own.get("model_type", wrapper.text))
    plain = _PLAIN.get(kind, kind)
    assumed = _COMMON | _SIZES.get(plain, {}) | dict(wrapper.assumed)
    text = assumed | own
    text["model_type"] = plain
    text["architectures"] = [f"{plain}ForCausalLM"]
    if plain != kind:
        text = _with_sections(text)
    text["tie_word_embeddings"] = _tied(config, own, wrapper)
    for key in (
        "eos_token_id",
        "quantization_config",
    ):  # those of the whole model first, as in transformers
        if config.get(key) is not None:
            text[key] = config[key]
    return text


def _flat(config: Mapping[str, JsonValue], wrapper: Wrapper) -> dict[str, JsonValue]:
    """Return the settings of a text part that has no section in config.json.

    Older Qwen-VL checkpoints mix them with other settings; other models use the assumed settings.
    """
    if config.get("model_type") in _PLAIN:
        return {key: value for key, value in config.items() if key != "vision_config"}
    return {"model_type": wrapper.text, "rms_norm_eps": 1e-5}


def _with_sections(text: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Add the sections of positions in three axes."""
    spelled = "rope_scaling" if text.get("rope_scaling") else "rope_parameters"
    rope = dict(text.get(spelled) or {})
    rope.setdefault("mrope_section", list(_SECTIONS))
    return text | {spelled: rope}


def _tied(config: Mapping[str, JsonValue], own: Mapping[str, JsonValue], wrapper: Wrapper) -> bool:
    inside = wrapper.tied_inside and own.get("tie_word_embeddings")
    return bool(config.get("tie_word_embeddings") or inside)
