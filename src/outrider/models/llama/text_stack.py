"""The text part of an image-text checkpoint, seen as a checkpoint of its own.

Image-text models wrap a plain decoder: its settings lie in a part of config.json (or, in older
Qwen-VL checkpoints, between those of the whole), and its tensors have longer names. The view made
here has plain settings and plain names, and knows what the files call each tensor. Nothing is
copied. What the images turn into comes from elsewhere, as embeddings (`models/vision/encoder.py`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.llama.config import read_config

_EMBED, _HEAD = "embed_tokens.weight", "lm_head.weight"
_FIRST = "layers.0.input_layernorm.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """What one image-text `model_type` does around its text part.

    Attributes:
        text: `model_type` of the text part where config.json does not say.
        tied_inside: embeddings are tied also where only the text part says so.
        assumed: settings of the text part that config.json may leave out.
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
"""Pairs of dimensions that turn by time, height and width, where Qwen-VL does not say."""

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
"""Image-text models whose text part reads embeddings as any decoder does: row by row, each row
seeing those before it."""

_SIZES: dict[str, dict[str, int]] = {
    "llama": {"vocab_size": 32_000, "intermediate_size": 11_008},
    "mistral": {"vocab_size": 32_000, "intermediate_size": 14_336},
    "qwen2": {"vocab_size": 151_936, "intermediate_size": 22_016},
    "qwen3": {"vocab_size": 151_936, "intermediate_size": 22_016},
}
"""Sizes that `transformers` assumes: config.json of an image-text model names only others."""
_COMMON = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}

_PLAIN = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2"} | {
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
}
"""Text parts that are plain models but for their positions."""


@dataclass(frozen=True, slots=True)
class TextStack:
    """The text part of a checkpoint, or why there is none that `Decoder` runs.

    Attributes:
        checkpoint: the view; None where `reason` says why not.
        reason: one line.
    """

    checkpoint: Checkpoint | None
    reason: str | None = None


def text_checkpoint(checkpoint: Checkpoint) -> Checkpoint | None:
    """The text part of an image-text checkpoint; None as `text_stack` says."""
    return text_stack(checkpoint).checkpoint


def text_stack(checkpoint: Checkpoint) -> TextStack:
    """The text part of an image-text checkpoint, with plain settings and names.

    The fingerprint is that of the whole.
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
    try:
        read_config(config)
    except CheckpointError as error:
        return TextStack(None, error.problem)
    names = text_names(checkpoint.tensors, prefix)
    tensors = {plain: checkpoint.tensors[name] for name, plain in names.items()}
    return TextStack(replace(checkpoint, config=config, tensors=tensors))


def is_tied(config: Mapping[str, JsonValue]) -> bool:
    """Whether config.json says that the head and the token embeddings are one, in plain and in
    image-text models."""
    inner = config.get("text_config")
    wrapper = WRAPPERS.get(str(config.get("model_type")), Wrapper())
    return _tied(config, inner if isinstance(inner, Mapping) else {}, wrapper)


# -- names -------------------------------------------------------------------------------------


def text_prefix(names: Collection[str]) -> str | None:
    """What the names of a decoder's tensors begin with, such as `model.text_model.`: of the one
    part that has token embeddings and layers; None where there is none."""
    ends = (name.removesuffix(_EMBED) for name in names if name.endswith(_EMBED))
    found = [prefix for prefix in ends if prefix + _FIRST in names]
    return found[0] if len(found) == 1 else None


def text_names(names: Collection[str], prefix: str) -> dict[str, str]:
    """The decoder's tensors among `names`: what the files call them -> their plain name."""
    own = {name: "model." + name.removeprefix(prefix) for name in names if _is_inside(name, prefix)}
    heads = [name for name in names if name == _HEAD or name.endswith(f".{_HEAD}")]
    return own | dict.fromkeys(heads[:1], _HEAD)


def _is_inside(name: str, prefix: str) -> bool:
    """Whether `name` is that of a layer, the embeddings or the norm; in old Qwen-VL checkpoints
    the rest of the model has the same prefix."""
    rest = name.removeprefix(prefix)
    return name.startswith(prefix) and rest.startswith(("layers.", "embed_tokens.", "norm."))


# -- settings ----------------------------------------------------------------------------------


def _text_config(config: Mapping[str, JsonValue], wrapper: Wrapper) -> dict[str, JsonValue]:
    """Settings of the text part, as a plain model of its kind would have them."""
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
    for key in ("eos_token_id", "quantization_config"):  # of the whole first, as in transformers
        if config.get(key) is not None:
            text[key] = config[key]
    return text


def _flat(config: Mapping[str, JsonValue], wrapper: Wrapper) -> dict[str, JsonValue]:
    """Older Qwen-VL checkpoints lay the settings of the text part between the others; of others
    without a text part all is as assumed."""
    if config.get("model_type") in _PLAIN:
        return {key: value for key, value in config.items() if key != "vision_config"}
    return {"model_type": wrapper.text, "rms_norm_eps": 1e-5}


def _with_sections(text: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Positions in three axes, spelled out."""
    spelled = "rope_scaling" if text.get("rope_scaling") else "rope_parameters"
    rope = dict(text.get(spelled) or {})
    rope.setdefault("mrope_section", list(_SECTIONS))
    return text | {spelled: rope}


def _tied(config: Mapping[str, JsonValue], own: Mapping[str, JsonValue], wrapper: Wrapper) -> bool:
    inside = wrapper.tied_inside and own.get("tie_word_embeddings")
    return bool(config.get("tie_word_embeddings") or inside)
