"""SentencePiece BPE: the pair whose joined token has the highest score is merged first.

The whole text is one piece, in which `▁` stands for a space. Characters without a token become
byte tokens such as `<0x0A>`. `tokenizers` merges by rank, so each way to divide a token in two
becomes a merge. Text never becomes a control token, which is why those get no merges.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from outrider.models.checkpoints.fields import FieldError
from outrider.models.checkpoints.gguf_tokens.entries import PREFIX, Entries, Kind, read_scores

if TYPE_CHECKING:
    import tokenizers

_SPACE = "▁"
_NEVER_MERGED = frozenset(map(int, (Kind.UNKNOWN, Kind.CONTROL, Kind.BYTE)))


def build_sentence_piece(entries: Entries, unknown: int | None) -> "tokenizers.Tokenizer":
    """Build a tokenizer of the model `llama`, without special tokens.

    As in llama.cpp, `remove_extra_whitespaces` has no effect on this model.

    Args:
        entries: the vocabulary.
        unknown: the id of the unknown token.

    Raises:
        CheckpointError: scores are missing or wrong, or characters may have no token.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    _check_bytes(entries, unknown)
    texts = list(entries.ids)
    model = models.BPE(
        dict(entries.ids),
        _merges(entries, texts, read_scores(entries)),
        unk_token=None if unknown is None else texts[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    built = Tokenizer(model)
    escape, unescape = normalizers.Replace(" ", _SPACE), decoders.Replace(_SPACE, " ")
    steps = [unescape, decoders.ByteFallback(), decoders.Fuse()]
    if entries.get("add_space_prefix", True):
        built.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), escape])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        built.normalizer = escape
    built.decoder = decoders.Sequence(steps)
    return built


def _check_bytes(entries: Entries, unknown: int | None) -> None:
    """Refuse a vocabulary that has neither all byte tokens nor an unknown token."""
    missing = next((one for one in range(256) if f"<0x{one:02X}>" not in entries.ids), None)
    if missing is not None and unknown is None:
        raise FieldError(
            f"{entries.name} has no <0x{missing:02X}> in {PREFIX}tokens and no "
            f"{PREFIX}unknown_token_id",
            hint="Correct the file, or download it again",
        )


def _merges(
    entries: Entries, texts: Sequence[str], scores: Sequence[float]
) -> list[tuple[str, str]]:
    """Return all pairs of tokens that make a token, the highest score first.

    Of the pairs of one token, the one with the longer left part comes first. SentencePiece takes
    the leftmost one in the text, which has no rank; this order gives the same for runs.
    """
    ids, kinds = entries.ids, entries.kinds
    best_first = sorted(range(len(texts)), key=lambda token: -scores[token])
    return [
        (left, right)
        for text in (texts[token] for token in best_first if kinds[token] not in _NEVER_MERGED)
        for at in range(len(text) - 1, 0, -1)
        if (left := text[:at]) in ids and (right := text[at:]) in ids
    ]
