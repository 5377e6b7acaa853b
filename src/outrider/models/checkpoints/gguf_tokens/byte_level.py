"""Byte-level BPE: text is split, its bytes become characters, and merges join them."""

from typing import TYPE_CHECKING

from outrider.core.errors import CheckpointError, nearest
from outrider.models.checkpoints.gguf_tokens.entries import PREFIX, Entries, read_merges
from outrider.models.checkpoints.gguf_tokens.expressions import SPLITTINGS, Splitting

if TYPE_CHECKING:
    import tokenizers

_RAW = ("gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace")
"""Known names whose tokens are text and not bytes."""


def splitting_of(entries: Entries) -> Splitting:
    """Return how text is split. Raises `CheckpointError` for an unknown or unsupported name."""
    name = entries.get("pre", "") or "default"
    if name in SPLITTINGS:
        return SPLITTINGS[name]
    what = "not supported" if name in _RAW else "unknown"
    hint = "" if name in _RAW else f"{nearest(name, SPLITTINGS)}; or give"
    raise CheckpointError(
        f"{entries.name} has {PREFIX}pre {name!r:.60}, which is {what}",
        hint=f"{hint or 'Give'} the original model's tokenizer with tokenizer=...",
    )


def build_byte_level(entries: Entries, splitting: Splitting) -> "tokenizers.Tokenizer":
    """Build a tokenizer of the model `gpt2`, without special tokens.

    Raises:
        CheckpointError: the merges are missing or wrong.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    model = models.BPE(
        dict(entries.ids), read_merges(entries), ignore_merges=splitting.ignore_merges
    )
    built = Tokenizer(model)
    splits = [pre_tokenizers.Split(Regex(one), "isolated") for one in splitting.expressions]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    built.decoder = decoders.ByteLevel()
    return built
