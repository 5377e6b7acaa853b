"""Chooses the shape of a cost-scaled model: its depth and width; `scaling/tensors.py` explains why
the outputs stay the same.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

import torch

from outrider.core.errors import OptionError
from outrider.models.checkpoints.checkpoint import Checkpoint, UnsupportedCheckpointError
from outrider.models.llama.config import DecoderConfig, read_config
from outrider.models.llama.features import Fused, Norms, Scales
from outrider.models.llama.weights import check_tensors, expected_shapes

LABEL = "outrider_cost_scaled"
"""The key of config.json that marks a model as cost-scaled."""

WIDEST = 4096
"""Largest hidden size of automatic widening."""

_AUTO_WIDEN_FROM = 10**9
_USUAL_KV_HEADS = 8
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}
_SPEC = re.compile(r"(?:x(?P<factor>\d+(?:\.\d+)?)|(?P<size>\d+(?:\.\d+)?)(?P<unit>[KMB]))")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledPlan:
    """A small checkpoint and its large shape.

    Attributes:
        source: the small checkpoint.
        spec: the scale as the user wrote it, such as `30M`.
        widen: number of copies of every channel.
        small: the shape of `source`.
        large: the large shape.
        origins: for each large layer the small layer that it copies or imitates.
        config: config.json of the large model, with its label.
    """

    source: Checkpoint
    spec: str
    widen: int
    small: DecoderConfig
    large: DecoderConfig
    origins: tuple[int, ...]
    config: dict[str, Any]

    @property
    def num_parameters(self) -> int:
        """Number of weights of the large model; a tied head is counted once."""
        return count_parameters(self.large)


def make_plan(source: Checkpoint, spec: str, widen: int | None = 1) -> ScaledPlan:
    """Choose depth and width.

    Args:
        source: the small checkpoint.
        spec: `30M`, `8B`: minimum number of parameters; `x4`: multiple of its own number.
        widen: copies of every channel, a power of two; None chooses for specs of 1B and more,
            towards a hidden size of 4096.

    Raises:
        OptionError: a spec or a width is malformed, or below the model's own size.
        CheckpointError: `Decoder` does not support the checkpoint.
    """
    small = read_config(source.config)
    check_tensors(source, small)
    _check_plain(source, small)
    goal = _goal(spec, count_parameters(small))
    copies = _widest(small, goal) if widen is None else _checked(widen)
    wide = _widened(small, copies)
    if count_parameters(wide) > goal:
        raise OptionError(
            f"cost scale {spec!r} is below the {count_parameters(wide):,} parameters that "
            f"{source.path.name} has" + (f" when widened {copies} times" if copies > 1 else ""),
            hint="Give a larger size, or a factor such as x4",
        )
    a_layer = count_parameters(replace(wide, num_layers=1)) - count_parameters(
        replace(wide, num_layers=0)
    )
    missing = -(-(goal - count_parameters(wide)) // a_layer)  # rounded up
    origins = _spread(small.num_layers, small.num_layers + missing)
    large = replace(
        wide,
        num_layers=len(origins),
        windows=tuple(small.windows[layer] for layer in origins),
        rotary=tuple(small.rotary[layer] for layer in origins),
    )
    label = _label(source, spec, copies, count_parameters(large))
    config = _config(source.config, small, large) | {LABEL: label}
    return ScaledPlan(
        source=source,
        spec=spec,
        widen=copies,
        small=small,
        large=large,
        origins=origins,
        config=config,
    )


def _check_plain(source: Checkpoint, config: DecoderConfig) -> None:
    """Refuse features that the scaled layers and widths do not keep."""
    plain = (config.norms, config.scales, config.fused) == (Norms(), Scales(), Fused())
    if not plain or config.head_order is not None or config.local_rope is not None:
        raise UnsupportedCheckpointError(
            f"{source.path} has model_type {source.config.get('model_type')!r}, which cost scaling "
            "does not support",
            hint="Use a Llama, Mistral, Qwen2, Qwen3 or SmolLM3 checkpoint",
        )


def count_parameters(config: DecoderConfig) -> int:
    """Count the weights of a model of this shape; a tied head is counted once."""
    return sum(torch.Size(shape).numel() for shape in expected_shapes(config).values())


def _goal(spec: str, own: int) -> int:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise OptionError(
            f"cost scale {spec!r} cannot be read",
            hint="Give a number of parameters such as 30M or 8B, or a factor such as x4",
        )
    if match["factor"]:
        return round(own * float(match["factor"]))
    return round(float(match["size"]) * _UNITS[match["unit"]])


def _checked(widen: int) -> int:
    if widen < 1 or widen & (widen - 1):
        raise OptionError(f"widen is {widen}", hint="Give a power of two, such as 1, 4 or 16")
    return widen


def _widest(small: DecoderConfig, goal: int) -> int:
    copies = 1
    if goal < _AUTO_WIDEN_FROM:
        return copies
    while small.hidden_size * copies * 2 <= WIDEST and (
        count_parameters(_widened(small, copies * 2)) <= goal
    ):
        copies *= 2
    return copies


def _widened(small: DecoderConfig, copies: int) -> DecoderConfig:
    return replace(
        small,
        hidden_size=small.hidden_size * copies,
        intermediate_size=small.intermediate_size * copies,
        num_heads=small.num_heads * copies,
        num_kv_heads=small.num_kv_heads * key_copies(small, copies),
    )


def key_copies(small: DecoderConfig, copies: int) -> int:
    """Return the copies of each key-value head; large models get about eight, for small caches."""
    keys = 1
    while keys < copies and small.num_kv_heads * keys * 2 <= _USUAL_KV_HEADS:
        keys *= 2
    return keys


def _spread(real: int, total: int) -> tuple[int, ...]:
    """Return for each of `total` layers its real layer; a real layer precedes its fillers."""
    return tuple(layer * real // total for layer in range(total))


def _label(source: Checkpoint, spec: str, widen: int, parameters: int) -> dict[str, Any]:
    return {
        "from": "/".join(source.path.resolve().parts[-2:]),
        "spec": spec,
        "widen": widen,
        "parameters": parameters,
        "source_fingerprint": source.fingerprint,
    }


def _config(config: dict[str, Any], small: DecoderConfig, large: DecoderConfig) -> dict[str, Any]:
    """Build config.json of the large model; lists with an entry for each layer are extended."""
    scaled = config | {"num_hidden_layers": large.num_layers}
    windowed = any(small.windows) and config["model_type"] != "mistral"  # Mistral has no such list
    if windowed or config.get("layer_types"):
        full, sliding = "full_attention", "sliding_attention"
        scaled["layer_types"] = [full if window is None else sliding for window in large.windows]
    if config["model_type"] == "smollm3":
        scaled["no_rope_layers"] = [int(turned) for turned in large.rotary]
    if large.hidden_size != small.hidden_size:
        scaled |= {
            "hidden_size": large.hidden_size,
            "intermediate_size": large.intermediate_size,
            "num_attention_heads": large.num_heads,
            "num_key_value_heads": large.num_kv_heads,
            "head_dim": large.head_dim,
        }
    return scaled
