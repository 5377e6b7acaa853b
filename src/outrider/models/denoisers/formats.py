"""The kinds of checkpoints of masked denoisers: how each is recognised, named and configured.

LLaDA (arXiv 2502.09992) has the shape of Llama under other names, Dream (arXiv 2508.15487) that of
Qwen2. A checkpoint is described as one of these, so that the loading of weights is that of
`models/llama`. Names and defaults are those of the public configurations of both models.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import Checkpoint, UnsupportedCheckpointError
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.checkpoints.tensors import TensorInfo
from outrider.models.llama.config import DecoderConfig, read_config

OWN = "outrider_denoiser"
LLADA_MASK, DREAM_MASK = 126336, 151666


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiserConfig:
    """The shape of a denoiser.

    Attributes:
        decoder: the shape of its layers.
        mask_id: the id of a masked position.
        shifted: row i of the checkpoint predicts position i + 1.
    """

    decoder: DecoderConfig
    mask_id: int
    shifted: bool


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of checkpoint.

    Attributes:
        called: what users call it.
        read: reads config.json.
        rename: from the name of a tensor to that of a Llama-shaped checkpoint.
    """

    called: str
    read: Callable[[Mapping[str, JsonValue]], DenoiserConfig]
    rename: Callable[[str], str]


def kind_of(config: Mapping[str, JsonValue]) -> Kind | None:
    """Return the kind of a checkpoint; None if it holds no masked denoiser that is known."""
    found = config.get("model_type")
    return KINDS.get(found) if isinstance(found, str) else None


def read_denoiser(config: Mapping[str, JsonValue]) -> DenoiserConfig:
    """Read the shape of a denoiser from config.json.

    Raises:
        UnsupportedCheckpointError: another `model_type`, or a feature that the runner lacks.
        CheckpointError: fields that are missing, or that hold wrong values.
    """
    kind = kind_of(config)
    if kind is None:
        raise UnsupportedCheckpointError(
            f"model_type {config.get('model_type')!r:.60} is no masked denoiser that is known",
            hint=f"Known: {', '.join(KINDS)}",
        )
    check_fields("config.json", config, _FIELDS)
    found = kind.read(config)
    vocabulary = found.decoder.vocab_size
    if not 0 <= found.mask_id < vocabulary:
        raise CheckpointError(
            f"config.json has mask_token_id {found.mask_id}, but {vocabulary} tokens",
            hint="Correct mask_token_id",
        )
    if any(window is not None for window in found.decoder.windows):
        raise UnsupportedCheckpointError("sliding windows are not supported in a denoiser")
    return found


def renamed(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the names of tensors of a Llama-shaped one."""
    kind = kind_of(checkpoint.config)
    assert kind is not None  # `read_denoiser` has refused it
    tensors: dict[str, TensorInfo] = {kind.rename(n): i for n, i in checkpoint.tensors.items()}
    return replace(checkpoint, tensors=tensors)


_FIELDS = (
    Field("mask_token_id", ("whole number",), least=0, most="vocabulary"),
    Field("shifted_logits", ("true or false",), null=False),
    Field("mlp_hidden_size", ("whole number",), least=1, most="inner"),
    Field("mlp_ratio", ("whole number",), least=1, most=64, null=False),
    Field("embedding_size", ("whole number",), least=1, most="vocabulary"),
    Field("n_kv_heads", ("whole number",), least=1, most="heads"),
    Field("max_sequence_length", ("whole number",), least=1, most="positions", null=False),
    *(
        Field(name, ("true or false",))
        for name in (
            "alibi",
            "attention_layer_norm",
            "bias_for_layer_norm",
            "include_bias",
            "include_qkv_bias",
            "input_emb_norm",
            "multi_query_attention",
            "rope",
            "scale_logits",
            "weight_tying",
        )
    ),
)


def _own(config: Mapping[str, JsonValue]) -> DenoiserConfig:
    mask = config.get("mask_token_id")
    if mask is None:
        raise CheckpointError(
            "config.json has no mask_token_id", hint="Add the id of masked positions"
        )
    plain = {**config, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    return DenoiserConfig(
        decoder=read_config(plain),
        mask_id=int(mask),
        shifted=bool(config.get("shifted_logits", False)),
    )


def _dream(config: Mapping[str, JsonValue]) -> DenoiserConfig:
    plain = {**config, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    mask = config.get("mask_token_id")
    return DenoiserConfig(
        decoder=read_config(plain),
        mask_id=DREAM_MASK if mask is None else int(mask),
        shifted=True,
    )


_REQUIRED: Mapping[str, tuple[JsonValue, JsonValue]] = {
    "block_type": ("llama", "sequential"),
    "rope": (True, False),
    "layer_norm_type": ("rms", "default"),
    "block_group_size": (1, 1),
    "alibi": (False, False),
    "attention_layer_norm": (False, False),
    "include_bias": (False, False),
}
"""Fields of LLaDA: the value that the runner needs, and the value if config.json gives none."""


def _llada(config: Mapping[str, JsonValue]) -> DenoiserConfig:
    for name, (needed, default) in _REQUIRED.items():
        if (found := config.get(name, default)) != needed:
            raise UnsupportedCheckpointError(
                f"{name} {found!r:.60} is not supported in LLaDA; expected {needed!r}"
            )
    if config.get("bias_for_layer_norm"):
        raise UnsupportedCheckpointError("bias_for_layer_norm is not supported in LLaDA")
    width, heads = config.get("d_model"), config.get("n_heads")
    inner = config.get("mlp_hidden_size")
    if inner is None and isinstance(width, int):
        inner = config.get("mlp_ratio", 4) * width
    plain: dict[str, JsonValue] = {
        "model_type": "qwen2" if config.get("include_qkv_bias") else "llama",
        "vocab_size": config.get("embedding_size") or config.get("vocab_size"),
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": config.get("n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": _kv_heads(config, heads),
        "hidden_act": config.get("activation_type", "swiglu"),
        "rms_norm_eps": config.get("rms_norm_eps", 1e-5),
        "rope_theta": config.get("rope_theta", 10_000.0),
        "max_position_embeddings": config.get("max_sequence_length", 1024),
        "tie_word_embeddings": config.get("weight_tying", True),
    }
    _check_sizes(plain)
    decoder, mask = read_config(plain), config.get("mask_token_id")
    root = decoder.hidden_size**0.5
    scales = replace(
        decoder.scales,
        embedding=root if config.get("input_emb_norm") else 1.0,
        logits=root if config.get("scale_logits") else 1.0,
    )
    return DenoiserConfig(
        decoder=replace(decoder, scales=scales),
        mask_id=LLADA_MASK if mask is None else int(mask),
        shifted=False,
    )


def _kv_heads(config: Mapping[str, JsonValue], heads: JsonValue) -> JsonValue:
    given = config.get("n_kv_heads")
    if given is not None:
        return given
    return 1 if config.get("multi_query_attention") else heads


_SIZES = {
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "vocab_size": "vocab_size",
}


def _check_sizes(plain: Mapping[str, JsonValue]) -> None:
    """Refuse missing sizes under the names that LLaDA has for them."""
    for name, theirs in _SIZES.items():
        if not isinstance(plain[name], int):
            raise CheckpointError(
                f"config.json has {theirs} {plain[name]!r:.60}, expected a positive integer"
            )


_BLOCK = re.compile(r"model\.transformer\.blocks\.(\d+)\.(\w+)\.(weight|bias)")
_INNER = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_OUTER = {
    "model.transformer.wte.weight": "model.embed_tokens.weight",
    "model.transformer.ln_f.weight": "model.norm.weight",
    "model.transformer.ff_out.weight": "lm_head.weight",
}


def _llada_name(name: str) -> str:
    found = _BLOCK.fullmatch(name)
    if found is None or found[2] not in _INNER:
        return _OUTER.get(name, name)
    return f"model.layers.{found[1]}.{_INNER[found[2]]}.{found[3]}"


def _same(name: str) -> str:
    return name


KINDS: Mapping[str, Kind] = {
    OWN: Kind("Outrider", _own, _same),
    "llada": Kind("LLaDA", _llada, _llada_name),
    "Dream": Kind("Dream", _dream, _same),
}
"""The kinds of checkpoints by `model_type`."""
