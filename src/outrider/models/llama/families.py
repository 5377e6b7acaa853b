"""The architectures that `Decoder` runs: a row each, with defaults and features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from outrider.core.values import JsonValue
from outrider.models.llama.features import Fused, Norms, Scales


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Defaults of one `model_type` for settings missing in config.json, and its special features.

    Attributes:
        called: what users call models of this kind.
        windowed: `sliding_window` alone switches windows on, for all layers.
        full_every: every layer with such a number has no window (`sliding_window_pattern`).
        qkv_bias: None: as `attention_bias` says.
        output_bias: whether `attention_bias` is about the output projection too; None: only if
            `qkv_bias` is None.
        attention_bias: `attention_bias` if config.json gives none.
        activation: the activation if config.json gives none in `activation_field`.
        partial: share of a head that rotates if config.json gives none; None: always all of it.
        interleaved: neighbouring dimensions of a head rotate together.
        local_theta: base of the frequencies of layers with a window; None: as in other layers.
        original_positions: `original_max_position_embeddings` if config.json gives none.
        scales: reads factors and caps from config.json.
    """

    called: str = ""
    kv_heads: int | None = None
    head_dim: int | None = None
    max_positions: int = 32768
    theta: float = 10_000.0
    tied: bool = False
    window: int | None = None
    windowed: bool = False
    window_switch: bool = False
    full_every: int | None = None
    qkv_bias: bool | None = None
    output_bias: bool | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    no_rope_every: int | None = None
    eps: float = 1e-6
    activation: str = "silu"
    activation_field: str = "hidden_act"
    partial: float | None = None
    interleaved: bool = False
    local_theta: float | None = None
    original_positions: int | None = None
    norms: Norms = field(default_factory=Norms)
    fused: Fused = field(default_factory=Fused)
    scales: Callable[[Mapping[str, JsonValue]], Scales] = lambda _: Scales()


def _gemma2_scales(config: Mapping[str, JsonValue]) -> Scales:
    gemma3 = _gemma3_scales(config)
    return replace(
        gemma3,
        attention_cap=config.get("attn_logit_softcapping", 50.0),
        logits_cap=config.get("final_logit_softcapping", 30.0),
    )


def _gemma3_scales(config: Mapping[str, JsonValue]) -> Scales:
    return Scales(
        embedding=config["hidden_size"] ** 0.5,
        attention=config.get("query_pre_attn_scalar", 256) ** -0.5,
        logits_cap=config.get("final_logit_softcapping"),
    )


def _granite_scales(config: Mapping[str, JsonValue]) -> Scales:
    return Scales(
        rows=config.get("embedding_multiplier", 1.0),
        residual=config.get("residual_multiplier", 1.0),
        attention=config.get("attention_multiplier", 1.0),
        logits=config.get("logits_scaling", 1.0),
    )


_GEMMA2 = Family(
    called="Gemma 2",
    kv_heads=4,
    head_dim=256,
    max_positions=8192,
    tied=True,
    window=4096,
    full_every=2,
    activation="gelu_pytorch_tanh",
    activation_field="hidden_activation",
    norms=Norms(
        after_attention="post_attention_layernorm",
        before_mlp="pre_feedforward_layernorm",
        after_mlp="post_feedforward_layernorm",
        offset=1.0,
    ),
    scales=_gemma2_scales,
)
_GEMMA3 = replace(
    _GEMMA2,
    called="Gemma 3",
    max_positions=131_072,
    theta=1e6,
    local_theta=10_000.0,
    full_every=6,
    qk_norm=True,
    scales=_gemma3_scales,
)

FAMILIES: dict[str, Family] = {
    "llama": Family(called="Llama", max_positions=2048, mlp_bias=True),
    "mistral": Family(
        called="Mistral",
        kv_heads=8,
        max_positions=131_072,
        window=4096,
        windowed=True,
        qkv_bias=False,
    ),
    "qwen2": Family(called="Qwen2", kv_heads=32, window=4096, window_switch=True, qkv_bias=True),
    "qwen3": Family(
        called="Qwen3",
        kv_heads=32,
        head_dim=128,
        window=4096,
        window_switch=True,
        qk_norm=True,
    ),
    "smollm3": Family(
        called="SmolLM3", kv_heads=4, theta=2e6, tied=True, mlp_bias=True, no_rope_every=4
    ),
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "phi3": Family(
        called="Phi-3, Phi-4",
        max_positions=4096,
        windowed=True,
        qkv_bias=False,
        eps=1e-5,
        partial=1.0,
        original_positions=4096,
        fused=Fused(qkv=True, gate_up=True),
    ),
    "olmo2": Family(
        called="OLMo 2",
        max_positions=2048,
        eps=1e-5,
        qk_norm=True,
        norms=Norms(
            before_attention=None,
            after_attention="post_attention_layernorm",
            before_mlp=None,
            after_mlp="post_feedforward_layernorm",
            whole=True,
        ),
    ),
    "granite": Family(called="Granite", max_positions=2048, mlp_bias=True, scales=_granite_scales),
    "glm4": Family(
        called="GLM-4",
        kv_heads=2,
        head_dim=128,
        max_positions=131_072,
        eps=1.5625e-7,
        attention_bias=True,
        output_bias=False,
        partial=0.5,
        interleaved=True,
        norms=Norms(
            after_attention="post_self_attn_layernorm",
            before_mlp="post_attention_layernorm",
            after_mlp="post_mlp_layernorm",
        ),
        fused=Fused(gate_up=True),
    ),
}
"""Every architecture that `Decoder` runs."""
