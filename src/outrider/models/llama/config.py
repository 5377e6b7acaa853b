"""Reads config.json for `Decoder`: it is supported exactly, or refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jaxtyping import Int
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.checkpoints.fields import Field, FieldError, check_fields
from outrider.models.checkpoints.packed.reading import refusal
from outrider.models.llama.families import FAMILIES, Family
from outrider.models.llama.features import Fused, Norms, Scales, order_of_pairs
from outrider.models.llama.rope_scaling import Rope, read_rope

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The shape of a Llama-shaped decoder.

    Attributes:
        windows: for each layer the number of positions visible to a row, itself included; None for
            all.
        rotary: for each layer whether it uses rotary embeddings.
        rope: the rotary embedding.
        local_rope: that of layers with a window; None: they use `rope` too.
        interleaved: whether neighbouring dimensions of a head rotate together in the checkpoint.
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
    local_rope: Rope | None = None
    interleaved: bool = False
    norms: Norms = field(default_factory=Norms)
    fused: Fused = field(default_factory=Fused)
    scales: Scales = field(default_factory=Scales)

    @property
    def attention_scale(self) -> float:
        """Factor of the scores of attention."""
        given = self.scales.attention
        return self.head_dim**-0.5 if given is None else given

    @property
    def head_order(self) -> Int[Tensor, " head_dim"] | None:
        """Order into which the dimensions of query and key heads are put; None: as they are."""
        return order_of_pairs(self.rope, self.head_dim, interleaved=self.interleaved)

    def is_local(self, layer: int) -> bool:
        """Whether a layer uses `local_rope`."""
        return self.local_rope is not None and self.windows[layer] is not None

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
    bias = bool(config.get("attention_bias", family.attention_bias))
    rope, local_rope = _ropes(config, family, head_dim)
    windows = _windows(config, family, sizes["num_layers"])
    if rope.sections and any(windows):
        raise UnsupportedCheckpointError(
            "sliding windows are not supported with positions in three axes (mrope_section)"
        )
    return DecoderConfig(
        **sizes,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=float(config.get("rms_norm_eps", family.eps)),
        activation=_activation(config, family),
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        qkv_bias=bias if family.qkv_bias is None else family.qkv_bias,
        output_bias=bias
        and (family.qkv_bias is None if family.output_bias is None else family.output_bias),
        mlp_bias=family.mlp_bias and bool(config.get("mlp_bias", False)),
        qk_norm=family.qk_norm,
        windows=windows,
        rotary=_rotary(config, family, sizes["num_layers"]),
        rope=rope,
        local_rope=local_rope,
        interleaved=family.interleaved,
        norms=replace(family.norms, offset=config.get("rms_norm_offset", family.norms.offset)),
        fused=family.fused,
        scales=family.scales(config),
    )


def _ropes(
    config: Mapping[str, JsonValue], family: Family, head_dim: int
) -> tuple[Rope, Rope | None]:
    """Read the rotary embedding, and that of layers with a window if it is another one."""

    def read(own: Mapping[str, JsonValue], theta: float) -> Rope:
        return read_rope(
            own,
            head_dim=head_dim,
            default_theta=theta,
            max_positions=config.get("max_position_embeddings", family.max_positions),
            partial=family.partial,
            original=family.original_positions,
        )

    if family.local_theta is None:
        return read(config, family.theta), None
    given = config.get("rope_parameters") or {}
    scaled = {**(given.get("full_attention") or {}), **(config.get("rope_scaling") or {})}
    plain = {"rope_parameters": given.get("sliding_attention")}
    theta = config.get("rope_local_base_freq", family.local_theta)
    rope = read({**config, "rope_scaling": scaled, "rope_parameters": None}, family.theta)
    local = read(plain, theta)
    shorter = min(rope.context_length, local.context_length)
    return replace(rope, context_length=shorter), local


def _family(config: Mapping[str, JsonValue]) -> Family:
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UnsupportedCheckpointError(
            f"model_type {kind!r} is not supported; known: {', '.join(FAMILIES)}"
        )
    if (reason := refusal(config)) is not None:
        raise UnsupportedCheckpointError(reason)
    plain = str(kind).replace("_", "")
    names = {plain, plain.removesuffix("text")}
    known = {f"{name}{part}".lower() for name in names for part in ("ForCausalLM", "Model")}
    architectures = config.get("architectures") or list(known)
    if known.isdisjoint(str(name).lower() for name in architectures):
        raise UnsupportedCheckpointError(
            f"architecture {architectures[0]} of model_type {kind!r} is not supported"
        )
    if config.get("use_bidirectional_attention"):
        raise UnsupportedCheckpointError("use_bidirectional_attention is not supported")
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
    Field("sliding_window_pattern", ("whole number",), least=1, most="layers", null=False),
    Field("hidden_activation", ("text",), null=False),
    Field("query_pre_attn_scalar", ("number",), least=0, above=True, null=False),
    Field("attn_logit_softcapping", ("number",), least=0, above=True),
    Field("final_logit_softcapping", ("number",), least=0, above=True),
    Field("rope_local_base_freq", ("number",), least=0, above=True, null=False),
    Field("logits_scaling", ("number",), least=0, above=True, null=False),
    *(
        Field(f"{name}_multiplier", ("number",), null=False)
        for name in ("embedding", "residual", "attention")
    ),
    Field("rms_norm_offset", ("number",), least=0, most=1, null=False),
    Field("use_bidirectional_attention", ("true or false",)),
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


def _activation(config: Mapping[str, JsonValue], family: Family) -> str:
    name = config.get(family.activation_field, family.activation)
    if name not in ACTIVATIONS:
        raise UnsupportedCheckpointError(
            f"{family.activation_field} {name!r} is not supported; known: {', '.join(ACTIVATIONS)}"
        )
    return name


def _windows(
    config: Mapping[str, JsonValue], family: Family, num_layers: int
) -> tuple[int | None, ...]:
    """Return sliding windows: for all layers or none (Mistral), or by `layer_types` (others)."""
    window = config.get("sliding_window", family.window)
    if family.window_switch and not config.get("use_sliding_window", False):
        window = None
    by_layer = (
        family.window_switch or family.no_rope_every is not None or family.full_every is not None
    )
    if not by_layer and not family.windowed:
        window = None
    assumed = _layer_types(config, family, window, num_layers)
    types = config.get("layer_types") or assumed
    if types != assumed and not by_layer:
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
    elif family.full_every is not None:
        every = config.get("sliding_window_pattern", family.full_every)
        sliding = [bool((layer + 1) % every) for layer in range(num_layers)]
    elif family.window_switch:
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
