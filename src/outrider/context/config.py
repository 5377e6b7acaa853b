"""Options of context selection."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import ceil
from typing import Any

from outrider.context.catalogue import SELECTORS
from outrider.core.checks import SHARE, ZERO_OR_MORE, Range, check_ranges
from outrider.core.errors import OptionError, nearest, reject_unknown
from outrider.core.naming import name_of
from outrider.core.values import JsonValue

RECOMPUTE: dict[str, str] = {
    "auto": "new_only where positions are original, else suffix",
    "suffix": "everything after the first change is read again, as in a fresh prefill",
    "new_only": "only new chunks are read; the rows after them were computed without them",
    "partial": "new chunks, and a share of the tokens after them, nearest to the change first",
}
CONTEXT_ON: dict[str, str] = {
    "target": "every tier reads a selection: fast, and the text is that of the selected input",
    "drafters": "the target reads everything, the tiers below a selection: the text is the same",
}
POSITIONS: dict[str, str] = {
    "auto": "original where the whole input fits the model's window, else compact",
    "original": "each token keeps its position in the whole input",
    "compact": "the tokens that are read have positions without gaps",
}

_ROUNDING = 1e-9
"""Tolerance of rounding: 0.6 of 5 chunks are 3, though 0.6 * 5 is slightly more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextConfig:
    """How much of a long input is read, and how often the selection is refreshed.

    APCE (arXiv 2510.12051): chunks are scored against a query that changes during generation, and
    the best chunks are read.

    Attributes:
        keep_ratio: share of the chunks that are read (the paper's 0.5 to 0.7), in (0, 1].
        budget: largest number of prompt tokens held at a time, with the instruction; None sets no
            limit beyond `keep_ratio`.
        chunk_size: tokens of a chunk, cut at the nearest end of a sentence.
        refresh: generated tokens between two refreshes (m); 0 means no refresh.
        query_mix: share of the instruction in the query; the rest is the last generated tokens
            (lambda).
        query_window: number of the last generated tokens in the query (w).
        hysteresis: a chunk replaces another one only if its score is larger by this much (delta).
        max_swaps: most chunks replaced in one refresh.
        growth: chunks added at each refresh, within the budget (g).
        pin_ends: whether to always read the first and the last chunk.
        recompute: which tokens are read again after a swap, one of `RECOMPUTE`.
        recompute_share: for `partial`, the share of the tokens after the change that are read
            again.
        positions: one of `POSITIONS`.
        selector: how chunks are scored, a name in `context/catalogue.py`.
        encoder: encodes text as vectors: `embeddings` (the model's own input embeddings), `minilm`,
            a folder or hub name for sentence-transformers, or an `Encoder`; `auto` is `embeddings`
            if the model provides them, else `minilm`.
        seed: seed of the selector `random`.

    Raises:
        OptionError: a value out of range, or an unknown name.
    """

    keep_ratio: float = 0.6
    budget: int | None = None
    chunk_size: int = 256
    refresh: int = 128
    query_mix: float = 0.5
    query_window: int = 128
    hysteresis: float = 0.15
    max_swaps: int = 1
    growth: int = 0
    pin_ends: bool = True
    recompute: str = "auto"
    recompute_share: float = 0.25
    positions: str = "auto"
    selector: str = "apce"
    encoder: Any = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("selector", [name_of(module) for module in SELECTORS]),
            ("recompute", RECOMPUTE),
            ("positions", POSITIONS),
        ):
            value = getattr(self, name)
            if value not in known:
                raise OptionError(f"unknown {name} {value!r}", hint=nearest(str(value), known))
        check_ranges(self, _RANGES)

    def kept(self, chunks: int) -> int:
        """Return how many of `chunks` are read (k)."""
        return min(ceil(self.keep_ratio * chunks - _ROUNDING), chunks)

    def recompute_for(self, compact: bool) -> str:
        """Return `suffix`, `new_only` or `partial`; `auto` depends on whether positions are
        compact.
        """
        if self.recompute != "auto":
            return self.recompute
        return "suffix" if compact else "new_only"

    @classmethod
    def of(cls, **settings: JsonValue) -> "ContextConfig":
        """Build from keywords. Raises `OptionError` for an unknown one, with the nearest name."""
        reject_unknown(
            "context option",
            {k: v for k, v in settings.items() if k not in _NAMES},
            _NAMES,
        )
        return cls(**settings)


_NAMES = tuple(field.name for field in fields(ContextConfig))

_TOKENS = Range(1, hint="Give at least 1 token")

_RANGES: Mapping[str, Range] = {
    "keep_ratio": Range(0.0, 1.0, above=True, hint="Give a share above 0, at most 1"),
    "budget": replace(_TOKENS, optional=True),
    "chunk_size": _TOKENS,
    "refresh": Range(0, hint="Give a number of tokens, or 0 for never"),
    "query_mix": SHARE,
    "query_window": _TOKENS,
    "hysteresis": ZERO_OR_MORE,
    "max_swaps": ZERO_OR_MORE,
    "growth": Range(0, hint="Give 0 or more chunks"),
    "recompute_share": SHARE,
}
