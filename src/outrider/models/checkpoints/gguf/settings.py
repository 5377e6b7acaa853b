"""Settings of a GGUF file as the configuration of a Hugging Face checkpoint."""

from collections.abc import Collection, Mapping

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.checkpoints.gguf.architectures import (
    ARCHITECTURES,
    CAPS,
    SCALES,
    Architecture,
    Given,
)
from outrider.models.checkpoints.gguf.rotary import Factors, read_rotary

_WHOLE = ("whole number",)


def architecture_of(file: str, metadata: Mapping[str, JsonValue]) -> Architecture:
    """Return the architecture. Raises `CheckpointError` if it is missing or not supported."""
    key = "general.architecture"
    check_fields(file, metadata, (Field(key, ("text",), null=False, needed=True),))
    found = ARCHITECTURES.get(metadata[key])
    if found is None:
        raise UnsupportedCheckpointError(
            f"{file} has the architecture {metadata[key]!r:.60}, which is not supported; "
            f"known: {', '.join(ARCHITECTURES)}",
            hint="Give the original checkpoint as a Hugging Face folder",
        )
    if metadata.get(f"{metadata[key]}.expert_count"):
        raise UnsupportedCheckpointError(
            f"{file} is a mixture of experts, which is not supported",
            hint="Give the original checkpoint as a Hugging Face folder",
        )
    return found


def _fields(prefix: str) -> tuple[Field, ...]:
    def size(name: str, most: str, *, needed: bool = True) -> Field:
        return Field(prefix + name, _WHOLE, least=1, most=most, null=False, needed=needed)

    return (
        size("block_count", "layers"),
        size("embedding_length", "width"),
        size("feed_forward_length", "inner"),
        size("attention.head_count", "heads"),
        size("context_length", "positions"),
        size("attention.head_count_kv", "heads", needed=False),
        size("attention.key_length", "head_dim", needed=False),
        size("attention.value_length", "head_dim", needed=False),
        size("rope.dimension_count", "head_dim", needed=False),
        Field(prefix + "attention.sliding_window", _WHOLE, least=0, most="positions", null=False),
        size("vocab_size", "vocabulary", needed=False),
        Field(
            prefix + "attention.layer_norm_rms_epsilon",
            ("number",),
            least=0,
            most=1,
            null=False,
            needed=True,
        ),
        *(
            Field(prefix + name, ("number",), least=0, above=True, null=False)
            for name in ("rope.freq_base", "rope.freq_base_swa")
        ),
        *(Field(prefix + name, ("number",), least=0, null=False) for name in (*CAPS, *SCALES)),
        Field(
            prefix + "attention.sliding_window_pattern",
            ("whole number", "true or false"),
            least=1,
            most="layers",
            null=False,
            levels=(0, 1),
        ),
    )


_NEUTRAL: dict[str, tuple[JsonValue, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.scale": (0,),
    "attention.sliding_window_pattern": (),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "rope.freq_base_swa": (),
    "rope.dimension_sections": ([0, 0, 0, 0],),
}
"""Settings that change a model in ways that no runner computes, and values that change nothing."""

_IDS = ("bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id", "padding_token_id")
_TOKENS = tuple(
    Field(f"tokenizer.ggml.{name}", _WHOLE, least=0, most="vocabulary", null=False) for name in _IDS
)


def read_settings(
    file: str,
    metadata: Mapping[str, JsonValue],
    *,
    vocabulary: int,
    biased: Collection[str],
    tied: bool,
    factors: Factors,
) -> dict[str, JsonValue]:
    """Return the configuration.

    Args:
        file: the file in messages.
        metadata: its settings.
        vocabulary: rows of the embeddings.
        biased: names of the matrices of the first layer that have biases.
        tied: whether the head is the embeddings.
        factors: divisors of the frequencies of rotary embeddings.

    Raises:
        CheckpointError: a setting is missing, wrong or not supported.
    """
    known = architecture_of(file, metadata)
    prefix = f"{metadata['general.architecture']}."
    check_fields(file, metadata, (*_fields(prefix), *_TOKENS))
    _check_neutral(file, prefix, metadata, known)

    def given(name: str, default: JsonValue = None) -> JsonValue:
        return metadata.get(prefix + name, default)

    heads, width = given("attention.head_count"), given("embedding_length")
    head_dim = given("attention.key_length", width // heads)
    rotated = given("rope.dimension_count", head_dim)
    for name in ("attention.value_length", *(() if known.partial else ("rope.dimension_count",))):
        if given(name, head_dim) != head_dim:
            raise UnsupportedCheckpointError(
                f"{file} has {prefix}{name} {given(name)}, but heads of {head_dim}, "
                "which is not supported",
                hint="Give the original checkpoint as a Hugging Face folder",
            )
    if given("vocab_size", vocabulary) != vocabulary:
        raise CheckpointError(
            f"{file} has {prefix}vocab_size {given('vocab_size')}, but embeddings of {vocabulary} "
            "tokens",
            hint="Download the file again",
        )
    queries, output = "self_attn.q_proj" in biased, "self_attn.o_proj" in biased
    qwen = known.model_type == "llama" and queries and not output
    config: dict[str, JsonValue] = {
        "model_type": "qwen2" if qwen else known.model_type,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": given("feed_forward_length"),
        "num_hidden_layers": given("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": given("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": given("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": given("context_length"),
        "tie_word_embeddings": tied,
        "attention_bias": queries and (output or known.model_type == "glm4"),
        "mlp_bias": "mlp.gate_proj" in biased,
        "rope_theta": given("rope.freq_base", 10_000.0),
        "rope_scaling": read_rotary(file, prefix, metadata, factors),
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
    }
    if known.partial:
        config["partial_rotary_factor"] = rotated / head_dim
    config |= _translated(file, known, given)
    if window := given("attention.sliding_window"):
        if not known.windows:
            raise UnsupportedCheckpointError(
                f"{file} has {prefix}attention.sliding_window {window}, which is not supported",
                hint="Give the original checkpoint as a Hugging Face folder",
            )
        config |= {"sliding_window": window, "use_sliding_window": True}
        if known.model_type == "llama":
            config["model_type"] = "mistral"
    return config


def _translated(file: str, known: Architecture, given: Given) -> dict[str, JsonValue]:
    try:
        return known.translate(given)
    except UnsupportedCheckpointError as error:
        raise UnsupportedCheckpointError(
            f"{file} has {error.problem}, which is not supported",
            hint="Give the original checkpoint as a Hugging Face folder",
        ) from None


def _check_neutral(
    file: str, prefix: str, metadata: Mapping[str, JsonValue], known: Architecture
) -> None:
    for name, neutral in _NEUTRAL.items():
        value = metadata.get(prefix + name)
        if value is not None and value not in neutral and name not in known.reads:
            raise UnsupportedCheckpointError(
                f"{file} has {prefix}{name} {value!r:.40}, which is not supported",
                hint="Give the original checkpoint as a Hugging Face folder",
            )
