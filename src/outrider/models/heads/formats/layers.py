"""The one layer of a head as the config.json of a decoder."""

from collections.abc import Mapping
from dataclasses import fields

import torch

from outrider.core.errors import CheckpointError, OptionError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.llama.config import DecoderConfig, read_config
from outrider.models.llama.features import Fused, Norms, Scales

ROTARY = ("rope_theta", "rope_scaling", "rope_parameters", "max_position_embeddings")
"""Settings of rotary embeddings in config.json."""


def read_layer(settings: Mapping[str, JsonValue], vocab: int, where: str) -> DecoderConfig:
    """Read the shape of the layer.

    Args:
        settings: config.json of a decoder with one layer.
        vocab: number of tokens that the head drafts; replaces `vocab_size`.
        where: the head in messages.

    Raises:
        UnsupportedCheckpointError: a feature that `HeadModule` lacks.
        CheckpointError: sizes that are missing or wrong.
    """
    count = settings.get("num_hidden_layers", 1)
    if count != 1:
        raise UnsupportedCheckpointError(
            f"the head {where} has {count!r:.30} layers; heads of one layer are supported",
            hint="Choose another head for this target",
        )
    plain = {**settings, "num_hidden_layers": 1, "vocab_size": vocab}
    for name in ("architectures", "quantization_config"):
        plain.pop(name, None)
    if isinstance(types := plain.get("layer_types"), list):
        plain["layer_types"] = types[:1]  # some heads keep those of all layers of their target
    try:
        layer = read_config(plain)
    except CheckpointError as error:
        kind = type(error)
        raise kind(f"the head {where}: {error.problem}", hint=error.hint) from None
    _check(layer, where)
    return layer


def _check(layer: DecoderConfig, where: str) -> None:
    missing = (
        ("attention with a window", any(layer.windows)),
        ("experts", layer.experts is not None),
        ("a bias of o_proj", layer.output_bias),
        ("biases in its MLP", layer.mlp_bias),
        ("a layer without rotary embeddings", not all(layer.rotary)),
        ("rotary embeddings of a part of a head", bool(layer.rope.still or layer.rope.sections)),
        ("interleaved rotary embeddings", layer.interleaved),
        ("other norms or factors than Llama", (layer.norms, layer.scales) != (Norms(), Scales())),
        ("fused matrices", layer.fused != Fused()),
    )
    for what, found in missing:
        if found:
            raise UnsupportedCheckpointError(
                f"the head {where} has {what}, which heads do not support",
                hint="Choose another head for this target",
            )


def layer_settings(
    layer: DecoderConfig, vocab: int, rotary: Mapping[str, JsonValue] | None
) -> dict[str, JsonValue]:
    """Return the config.json from which `read_layer` reads this layer.

    Args:
        layer: the layer.
        vocab: number of tokens of the target.
        rotary: rotary settings (`ROTARY`) of the config.json that the layer came from; None for
            plain rotary embeddings, whose base follows from the frequencies.

    Raises:
        OptionError: no settings give this layer.
    """
    given = {"rope_theta": _theta(layer)} if rotary is None else _known(rotary)
    settings: dict[str, JsonValue] = {
        "model_type": "qwen3" if layer.qk_norm else "qwen2" if layer.qkv_bias else "llama",
        "vocab_size": vocab,
        "hidden_size": layer.hidden_size,
        "intermediate_size": layer.intermediate_size,
        "num_hidden_layers": 1,
        "num_attention_heads": layer.num_heads,
        "num_key_value_heads": layer.num_kv_heads,
        "head_dim": layer.head_dim,
        "rms_norm_eps": layer.norm_eps,
        "hidden_act": layer.activation,
        "attention_bias": False,
        "max_position_embeddings": layer.rope.context_length,
        "tie_word_embeddings": False,
        **given,
    }
    found = read_layer(settings, layer.vocab_size, "to be written")
    if not torch.equal(found.rope.frequencies, layer.rope.frequencies) or (
        found.rope.amplitude != layer.rope.amplitude
    ):
        raise OptionError(
            "the rotary embeddings of this head are not those of the given settings",
            hint="Give rotary=, the rotary settings of the target's config.json",
        )
    for one in fields(DecoderConfig):
        ours, theirs = getattr(layer, one.name), getattr(found, one.name)
        if one.name not in ("rope", "tied") and ours != theirs:
            raise OptionError(
                f"a head with {one.name} {ours!r:.60} cannot be written",
                hint="Heads are Llama-shaped, with a norm or with biases of queries and keys",
            )
    return settings


def _known(rotary: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {name: rotary[name] for name in ROTARY if rotary.get(name) is not None}


def _theta(layer: DecoderConfig) -> float:
    """Return the base of plain rotary embeddings: the last frequency is base ** (2 / dim - 1)."""
    pairs = len(layer.rope.frequencies)
    if pairs < 2:
        return 10_000.0
    last = float(layer.rope.frequencies[-1].double())
    found = last ** (-pairs / (pairs - 1)) if last > 0 else 0.0
    return float(f"{found:.6g}")
