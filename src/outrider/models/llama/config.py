"""Reads config.json for `Decoder`: it is supported exactly, or refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.checkpoints.fields import Field, FieldError, check_fields
from outrider.models.checkpoints.packed.reading import refusal
from outrider.models.llama.experts import Experts, read_experts
from outrider.models.llama.rope_scaling import Rope, read_rope

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Defaults of one `model_type` for settings missing in config.json, and its special features.

    `qkv_bias` None means: as `attention_bias` says, for the output projection too. `all_windows`
    means that a sliding window applies to all layers, whatever `layer_types` says.
    """

    kv_heads: int | None = None
    head_dim: int | None = None
    max_positions: int = 32768
    theta: float = 10_000.0
    tied: bool = False
    window: int | None = None
    window_switch: bool = False
    all_windows: bool = False
    norm_eps: float = 1e-6
    qkv_bias: bool | None = None
    mlp_bias: bool = False
    qk_norm: bool = False
    no_rope_every: int | None = None


FAMILIES: dict[str, Family] = {
    "llama": Family(max_positions=2048, mlp_bias=True),
    "mistral": Family(kv_heads=8, max_positions=131_072, window=4096, qkv_bias=False),
    "qwen2": Family(kv_heads=32, window=4096, window_switch=True, qkv_bias=True),
    "qwen3": Family(kv_heads=32, head_dim=128, window=4096, window_switch=True, qk_norm=True),
    "qwen3_moe": Family(
        kv_heads=4, window=4096, window_switch=True, all_windows=True, qk_norm=True
    ),
    "mixtral": Family(
        kv_heads=8,
        max_positions=131_072,
        theta=1e6,
        norm_eps=1e-5,
        all_windows=True,
        qkv_bias=False,
    ),
    "smollm3": Family(kv_heads=4, theta=2e6, tied=True, mlp_bias=True, no_rope_every=4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The shape of a Llama-shaped decoder.

    Attributes:
        windows: for each layer the number of positions visible to a row, itself included; None for
            all.
        rotary: for each layer whether it uses rotary embeddings.
        experts: the experts of some layers; None if no layer has any.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    activation: str
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int | None, ...]
    rotary: tuple[bool, ...]
    rope: Rope
    experts: Experts | None = None

    @property
    def context_length(self) -> int:
        """Largest number of tokens that the decoder can read."""
        return self.rope.context_length


def supports(config: Mapping[str, JsonValue]) -> str | None:
    """Return None if `Decoder` runs this config.json, else the reason why not.

    Raises:
        FieldError: a field holds a value that no runner can use.
    """
    try:
        read_config(config)
    except FieldError:
        raise
    except CheckpointError as error:
        return error.problem
    return None


def read_config(config: Mapping[str, JsonValue]) -> DecoderConfig:
    """Read the shape of a decoder from config.json.

    Raises:
        UnsupportedCheckpointError: a feature that another runner may support.
        CheckpointError: sizes that are missing or inconsistent.
    """
    family = _family(config)
    check_fields("config.json", config, _FIELDS)
    sizes = _sizes(config)
    heads = sizes["num_heads"]
    kv_heads = config.get("num_key_value_heads", family.kv_heads) or heads
    head_dim = config.get("head_dim", family.head_dim) or sizes["hidden_size"] // heads
    if heads % kv_heads or head_dim % 2 or not head_dim:
        raise CheckpointError(
            f"{heads} heads of {head_dim} dimensions do not fit {kv_heads} key-value heads"
        )
    bias = bool(config.get("attention_bias", False))
    rope = read_rope(
        config,
        head_dim=head_dim,
        default_theta=family.theta,
        max_positions=config.get("max_position_embeddings", family.max_positions),
    )
    windows = _windows(config, family, sizes["num_layers"])
    if rope.sections and any(windows):
        raise UnsupportedCheckpointError(
            "sliding windows are not supported with positions in three axes (mrope_section)"
        )
    return DecoderConfig(
        **sizes,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=float(config.get("rms_norm_eps", family.norm_eps)),
        activation=_activation(config),
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        qkv_bias=bias if family.qkv_bias is None else family.qkv_bias,
        output_bias=bias and family.qkv_bias is None,
        mlp_bias=family.mlp_bias and bool(config.get("mlp_bias", False)),
        qk_norm=family.qk_norm,
        windows=windows,
        rotary=_rotary(config, family, sizes["num_layers"]),
        rope=rope,
        experts=read_experts(config, sizes["num_layers"]),
    )


def _family(config: Mapping[str, JsonValue]) -> Family:
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UnsupportedCheckpointError(
            f"model_type {kind!r} is not supported; known: {', '.join(FAMILIES)}"
        )
    if (reason := refusal(config)) is not None:
        raise UnsupportedCheckpointError(reason)
    plain = kind.replace("_", "")
    known = {f"{plain}ForCausalLM".lower(), f"{plain}Model".lower()}
    architectures = config.get("architectures") or list(known)
    if known.isdisjoint(str(name).lower() for name in architectures):
        raise UnsupportedCheckpointError(
            f"architecture {architectures[0]} of model_type {kind!r} is not supported"
        )
    return FAMILIES[kind]


_FIELDS = (
    Field("intermediate_size", ("whole number",), least=1, most="inner", null=False),
    Field("head_dim", ("whole number",), least=1, most="head_dim"),
    Field("sliding_window", ("whole number",), least=1, most="positions"),
    Field("max_position_embeddings", ("whole number",), least=1, most="positions", null=False),
    Field("rms_norm_eps", ("number",), least=0, most=1, null=False),
    Field("rope_theta", ("number",), least=0, above=True, null=False),
    Field("hidden_act", ("text",), null=False),
    Field("attention_bias", ("true or false",)),
    Field("max_window_layers", ("whole number",), least=0, null=False),
    Field("no_rope_layer_interval", ("whole number",), least=1, most="layers", null=False),
)
"""Fields that must not be null here, or that other architectures use in another way."""

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
}


def _sizes(config: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    for key in _SIZES.values():
        value = config.get(key)
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"config.json has {key} {value!r}, expected a positive integer")
    return {ours: config[theirs] for ours, theirs in _SIZES.items()}


def _activation(config: Mapping[str, JsonValue]) -> str:
    name = config.get("hidden_act", "silu")
    if name not in ACTIVATIONS:
        raise UnsupportedCheckpointError(
            f"hidden_act {name!r} is not supported; known: {', '.join(ACTIVATIONS)}"
        )
    return name


def _windows(
    config: Mapping[str, JsonValue], family: Family, num_layers: int
) -> tuple[int | None, ...]:
    """Return sliding windows: for all layers or none (Mistral), or by `layer_types` (others)."""
    window = config.get("sliding_window", family.window)
    if family.window_switch and not config.get("use_sliding_window", False):
        window = None
    if family.window is None and family.no_rope_every is None and not family.all_windows:
        window = None
    assumed = _layer_types(config, family, window, num_layers)
    types = config.get("layer_types") or assumed
    fixed = family.all_windows or not (family.window_switch or family.no_rope_every)
    if types != assumed and fixed:
        raise UnsupportedCheckpointError(f"layer_types {types} are not supported")
    known = {"full_attention": None, "sliding_attention": window}
    odd = [kind for kind in types if kind not in known]
    if odd:
        raise UnsupportedCheckpointError(f"layer type {odd[0]!r} is not supported")
    windows = tuple(known[kind] for kind in types)
    if len(types) != num_layers or ("sliding_attention" in types and window is None):
        raise UnsupportedCheckpointError(
            f"layer_types {types} do not fit {num_layers} layers and sliding window {window}"
        )
    return windows


def _layer_types(
    config: Mapping[str, JsonValue], family: Family, window: int | None, num_layers: int
) -> list[str]:
    """Return the layer types that `transformers` assumes if config.json has no `layer_types`."""
    if window is None:
        return ["full_attention"] * num_layers
    if family.no_rope_every is not None:
        on = bool(config.get("use_sliding_window", False))
        sliding = [on and not turned for turned in _rotary(config, family, num_layers)]
    elif family.window_switch and not family.all_windows:
        first = config.get("max_window_layers", 28)
        sliding = [layer >= first for layer in range(num_layers)]
    else:
        sliding = [True] * num_layers
    return ["sliding_attention" if slides else "full_attention" for slides in sliding]


def _rotary(config: Mapping[str, JsonValue], family: Family, num_layers: int) -> tuple[bool, ...]:
    """Return which layers use rotary embeddings: all, except every fourth one in SmolLM3."""
    if family.no_rope_every is None:
        return (True,) * num_layers
    turned = config.get("no_rope_layers")
    if turned is None:
        every = config.get("no_rope_layer_interval", family.no_rope_every)
        turned = [(layer + 1) % every for layer in range(num_layers)]
    if len(turned) < num_layers:
        raise CheckpointError(f"no_rope_layers has {len(turned)} entries for {num_layers} layers")
    return tuple(bool(layer) for layer in turned[:num_layers])
