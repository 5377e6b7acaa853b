"""Frequencies of rotary position embeddings, and their scaling for longer contexts.

The rules are those of `transformers`, computed in float32 like there, so that the angles are
bit-identical.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.checkpoints.fields import FieldError


@dataclass(frozen=True, slots=True)
class Rope:
    """Parameters of a model's rotary embeddings.

    Attributes:
        frequencies: radians per position, one for each pair of dimensions, float32 on the CPU.
        amplitude: factor on queries and keys (YaRN's attention factor, eq. 15 of the paper).
        context_length: number of positions it supports.
        sections: number of pairs that rotate by time, by height, and so on in turn (Qwen2-VL's
            mRoPE, Wang et al. 2024); None if all rotate by one position.
        still: number of pairs at the end that do not rotate; their frequencies are 0.
    """

    frequencies: Float[Tensor, " pairs"]
    amplitude: float
    context_length: int
    sections: tuple[int, ...] | None = None
    still: int = 0

    @property
    def turning(self) -> int:
        """Number of pairs that rotate."""
        return len(self.frequencies) - self.still

    def turns(
        self, positions: Tensor, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "positions head_dim"], Float[Tensor, "positions head_dim"]]:
        """Compute cosines and signed sines of positions `[positions]`, on their device.

        Angles are float32 as in `transformers`, or float64 for `dtype` float64.
        """
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        frequencies = self.frequencies.to(positions.device, wide)
        angles = torch.outer(positions.to(wide), frequencies)
        cos, sin = angles.cos() * self.amplitude, angles.sin() * self.amplitude
        if self.still:  # the others keep their length
            ones = torch.ones_like(cos[:, self.turning :])
            cos = torch.cat((cos[:, : self.turning], ones), dim=-1)
        return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def read_rope(
    config: Mapping[str, JsonValue],
    *,
    head_dim: int,
    default_theta: float,
    max_positions: int,
    partial: float | None = None,
    original: int | None = None,
) -> Rope:
    """Read the rotary embedding from config.json, in either format.

    `transformers` 5 writes `rope_parameters`; older versions write `rope_theta` and `rope_scaling`.

    Args:
        config: config.json.
        head_dim: size of a head.
        default_theta: base of the frequencies if config.json gives none.
        max_positions: largest number of positions.
        partial: share of a head that rotates if config.json gives none; None: architectures
            that rotate all of it, and a share below 1 is refused.
        original: number of positions before scaling if config.json gives none; None: all.

    Raises:
        FieldError: values that give no frequencies.
        UnsupportedCheckpointError: a variant, or a partial rotation, that is not implemented.
    """
    parameters = _parameters(config, default_theta, original or max_positions)
    dim = _rotated(config, parameters, head_dim, partial)
    kind = parameters["rope_type"]
    if kind not in _VARIANTS:
        raise UnsupportedCheckpointError(
            f"RoPE scaling {kind!r} is not supported; known: {', '.join(_VARIANTS)}"
        )
    sections = _sections(parameters.get("mrope_section"), head_dim)
    try:
        rope = _VARIANTS[kind](parameters, dim, max_positions)
    except KeyError as missing:
        raise UnsupportedCheckpointError(f"RoPE scaling {kind!r} lacks {missing}") from None
    except (ArithmeticError, TypeError, ValueError):  # null, or values that do not fit together
        raise _unusable(parameters) from None
    if not bool(rope.frequencies.isfinite().all()) or not math.isfinite(rope.amplitude):
        raise _unusable(parameters)
    still = (head_dim - dim) // 2
    padded = torch.cat((rope.frequencies, torch.zeros(still)))
    return replace(rope, frequencies=padded, sections=sections, still=still)


def _rotated(
    config: Mapping[str, JsonValue],
    parameters: Mapping[str, JsonValue],
    head_dim: int,
    partial: float | None,
) -> int:
    """Return the number of dimensions of a head that rotate."""
    given = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if given in (None, 1.0):
        given = partial if given is None else None
    elif partial is None:
        raise UnsupportedCheckpointError(f"partial_rotary_factor {given} is not supported")
    dim = head_dim if given is None else int(head_dim * given)
    if dim % 2 or not 0 < dim <= head_dim:
        raise UnsupportedCheckpointError(
            f"partial_rotary_factor {given} rotates {dim} of {head_dim} dimensions, expected an "
            "even number of them"
        )
    return dim


def _unusable(parameters: Mapping[str, JsonValue]) -> FieldError:
    shown = ", ".join(f"{key} {value!r:.20}" for key, value in parameters.items())
    return FieldError(
        f"config.json has rotary settings that give no frequencies: {shown:.300}",
        hint="Correct rope_parameters or rope_scaling",
    )


def _sections(given: Sequence[int] | None, head_dim: int) -> tuple[int, ...] | None:
    if given is None:
        return None
    if min(given, default=0) < 0 or sum(given) != head_dim // 2:
        raise UnsupportedCheckpointError(
            f"mrope_section {list(given)} does not sum to the {head_dim // 2} pairs of a head"
        )
    return tuple(given)


def _parameters(
    config: Mapping[str, JsonValue], default_theta: float, original_positions: int
) -> dict[str, JsonValue]:
    """Collect `rope_type`, `rope_theta` and the fields of the variant in one flat dict."""
    parameters = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    if any(isinstance(value, Mapping) for value in parameters.values()):
        raise UnsupportedCheckpointError("RoPE parameters that differ by layer are not supported")
    parameters.setdefault("rope_type", parameters.get("type", "default"))
    if parameters["rope_type"] == "mrope":  # it only says how pairs share the positions
        parameters["rope_type"] = "default"
    if parameters["rope_type"] in ("su", "yarn") and "short_factor" in parameters:
        parameters["rope_type"] = "longrope"  # as the first checkpoints of Phi-3 call it
    parameters.setdefault("rope_theta", config.get("rope_theta", default_theta))
    original = config.get("original_max_position_embeddings")
    if original is not None:
        parameters["original_max_position_embeddings"] = original
    parameters.setdefault("original_max_position_embeddings", original_positions)
    theta = parameters["rope_theta"]
    return parameters | {"rope_theta": None if theta is None else float(theta)}


def _powers(theta: float, dim: int) -> Float[Tensor, " pairs"]:
    """Return `theta` to the power 0, 2/dim, 4/dim, ...: the wavelengths over 2 pi."""
    if not theta > 0:
        raise ValueError
    return theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def _default(parameters: dict[str, JsonValue], dim: int, max_positions: int) -> Rope:
    return Rope(1.0 / _powers(parameters["rope_theta"], dim), 1.0, max_positions)


def _linear(parameters: dict[str, JsonValue], dim: int, max_positions: int) -> Rope:
    """Position interpolation (Chen et al. 2023): every frequency divided by the factor."""
    frequencies = 1.0 / _powers(parameters["rope_theta"], dim)
    return Rope(frequencies / parameters["factor"], 1.0, max_positions)


def _dynamic(parameters: dict[str, JsonValue], dim: int, max_positions: int) -> Rope:
    """Dynamic NTK: the base grows with texts longer than `max_positions`.

    Beyond that length a row would depend on the length of the text when it was read, and a cache
    could not equal a fresh prefill. Therefore the context window ends there. Up to there the
    variant equals the plain embedding.
    """
    factor = parameters["factor"]
    growth = (factor * max_positions / max_positions) - (factor - 1)
    theta = parameters["rope_theta"] * growth ** (dim / (dim - 2))
    return Rope(1.0 / _powers(theta, dim), 1.0, max_positions)


def _llama3(parameters: dict[str, JsonValue], dim: int, max_positions: int) -> Rope:
    """Llama 3.1: divide long wavelengths by the factor, keep short ones, with a ramp between."""
    factor, old = parameters["factor"], parameters["original_max_position_embeddings"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    plain = 1.0 / _powers(parameters["rope_theta"], dim)
    wavelength = 2 * math.pi / plain
    ramp = (old / wavelength - low) / (high - low)
    mixed = (1 - ramp) * plain / factor + ramp * plain
    long, short = wavelength > old / low, wavelength < old / high
    frequencies = torch.where(long, plain / factor, torch.where(short, plain, mixed))
    return Rope(frequencies, 1.0, max_positions)


def _yarn(parameters: dict[str, JsonValue], dim: int, max_positions: int) -> Rope:
    """YaRN (Peng et al. 2023): interpolate slow pairs, keep fast ones, sharpen attention."""
    original = parameters["original_max_position_embeddings"]
    factor = parameters["factor"]
    factor = float(max_positions / original if factor is None else factor)
    powers = _powers(parameters["rope_theta"], dim)
    kept = 1 - _yarn_ramp(parameters, dim, original)
    frequencies = 1.0 / (factor * powers) * (1 - kept) + 1.0 / powers * kept
    amplitude = parameters.get("attention_factor")
    if amplitude is None:
        amplitude = _yarn_amplitude(factor, parameters)
    return Rope(frequencies, float(amplitude), max(max_positions, int(factor * original)))


def _yarn_ramp(
    parameters: dict[str, JsonValue], dim: int, original: int
) -> Float[Tensor, " pairs"]:
    """Return 0 for pairs that rotate often within the original context, 1 for slow ones."""
    theta = parameters["rope_theta"]

    def pair_turning(times: float) -> float:
        return dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

    low = pair_turning(float(parameters.get("beta_fast") or 32))
    high = pair_turning(float(parameters.get("beta_slow") or 1))
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = (torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)
    return ramp.clamp(0, 1)


def _yarn_amplitude(factor: float, parameters: dict[str, JsonValue]) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    over, under = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return scale(float(over)) / scale(float(under)) if over and under else scale(1.0)


def _longrope(parameters: dict[str, JsonValue], dim: int, max_positions: int) -> Rope:
    """LongRoPE (Ding et al. 2024): a factor for each frequency, of two sets.

    Texts longer than the original window use the long factors for all positions. So the context
    window ends there, as with `dynamic`; a model without longer texts has short factors only.
    """
    original = parameters["original_max_position_embeddings"]
    factor = parameters.get("factor")
    factor = max_positions / original if factor is None else factor
    amplitude = parameters.get("attention_factor")
    if amplitude is None:
        amplitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short = torch.tensor(parameters["short_factor"], dtype=torch.float32)
    powers = _powers(parameters["rope_theta"], dim)
    if short.shape != powers.shape or not bool((short > 0).all()):
        raise ValueError
    return Rope(1.0 / (short * powers), float(amplitude), min(max_positions, original))


def _factors(parameters: dict[str, JsonValue], dim: int, max_positions: int) -> Rope:
    """Each frequency divided by its own factor, as GGUF files store it."""
    factors = torch.tensor(parameters["factors"], dtype=torch.float32)
    if len(factors) != dim // 2 or not bool((factors > 0).all()):
        raise ValueError
    return Rope(1.0 / (_powers(parameters["rope_theta"], dim) * factors), 1.0, max_positions)


_VARIANTS = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "factors": _factors,
}
