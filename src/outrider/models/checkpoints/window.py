"""The context window of a checkpoint, and where the number comes from."""

from collections.abc import Mapping
from dataclasses import dataclass

from outrider.core.values import JsonValue

_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len")
_ORIGINAL = "original_max_position_embeddings"
_CHANGING = {"dynamic": "dynamic RoPE scaling", "longrope": "LongRoPE", "su": "LongRoPE"}


@dataclass(frozen=True, slots=True)
class Window:
    """Largest number of tokens that a model reads.

    Attributes:
        tokens: the number; None if the configuration sets none.
        reason: the field that sets it, and why.
    """

    tokens: int | None
    reason: str


def read_window(config: Mapping[str, JsonValue]) -> Window:
    """Read the window from the configuration of a text model.

    Dynamic and LongRoPE embeddings change all positions once a text outgrows the original window.
    Rows read before then would differ from a fresh prefill, so the window ends there.
    """
    name = next((name for name in _NAMES if config.get(name)), None)
    if name is None:
        return Window(None, "config.json sets no number of positions")
    limit, reason = int(config[name]), name
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    for variant in (rope, *(part for part in rope.values() if isinstance(part, Mapping))):
        kind = _CHANGING.get(str(variant.get("rope_type", variant.get("type"))))
        original = variant.get(_ORIGINAL) or config.get(_ORIGINAL)
        if kind and original and original < limit:
            limit = int(original)
            reason = f"{_ORIGINAL}: {kind} changes the positions of longer texts"
    return Window(limit, reason)
