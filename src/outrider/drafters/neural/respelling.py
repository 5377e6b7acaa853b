"""One text in the tokens of two vocabularies: what was written since, and encodings at a seam.

Tokens of one vocabulary end inside tokens of the other, and the tokens of a text depend on what
follows. A text that grows is therefore encoded again from a few tokens before its end, and a token
that ends inside a character waits for the next one.
"""

from collections.abc import Sequence

from outrider.models.wrappers.foreign import Translator

_BROKEN = "\ufffd"
_WORD = ("\u0120", "\u2581", " ")
"""How the entries of the known kinds of vocabularies begin at the beginning of a word."""

_WIDER = (1, 4)
"""Factors of the window that is encoded again: a wider one where the first does not begin well."""

_ANCHOR = "\n"


def written_since(
    tokenizer: Translator, before: Sequence[int], tokens: Sequence[int]
) -> str | None:
    """Return the text that `tokens` add after the tokens `before`, without special tokens; None if
    it ends inside a character."""
    known = tokenizer.decode(before) if before else ""
    whole = tokenizer.decode([*before, *tokens])
    if whole.endswith(_BROKEN) and len(tokens):
        return None
    return whole[len(known) :] if whole.startswith(known) else tokenizer.decode(tokens)


def whole_characters(text: str) -> str:
    """Return the beginning of `text` before the first incomplete character."""
    return text.partition(_BROKEN)[0]


def respelled(
    tokenizer: Translator, ids: Sequence[int], added: str, window: int
) -> tuple[int, list[int]]:
    """Encode the end of a text again, with the text `added` after it.

    Args:
        tokenizer: the tokenizer of `ids`.
        ids: the text so far.
        added: what follows.
        window: how many of the last tokens are encoded again.

    Returns:
        How many tokens stay, and all tokens after them.
    """
    for factor in _WIDER:
        start, clean = _begin(tokenizer, ids, factor * window)
        known = tokenizer.decode_all(ids[start:]) if start < len(ids) else ""
        if _BROKEN in known:
            continue
        new = tokenizer.encode_plain(known + added)
        same = clean or new[:1] == tuple(ids[start : start + 1])
        if same and _spells(tokenizer, ids, start, new, added):
            return start, list(new)
    return len(ids), _alone(tokenizer, added)


def _spells(
    tokenizer: Translator, ids: Sequence[int], start: int, new: Sequence[int], added: str
) -> bool:
    """Whether `new` after the first `start` tokens has the text of the others and `added`.

    Some decoders drop the space before a text; the token before `start` keeps it.
    """
    before = ids[max(start - 1, 0) : start]
    if not before:
        return True
    known = tokenizer.decode_all([*before, *ids[start:]])
    return tokenizer.decode_all([*before, *new]) == known + added


def following(tokenizer: Translator, ids: Sequence[int], text: str, window: int) -> list[int]:
    """Return the tokens of `text` after `ids`, which stay as they are.

    Where `ids` are not the beginning of the encoding of both, `text` is encoded alone.
    """
    start, _ = _begin(tokenizer, ids, window)
    last = tuple(ids[start:])
    known = tokenizer.decode_all(last) if last else ""
    if _BROKEN not in known:
        whole = tokenizer.encode_plain(known + text)
        if whole[: len(last)] == last:
            return list(whole[len(last) :])
    return _alone(tokenizer, text)


def _begin(tokenizer: Translator, ids: Sequence[int], window: int) -> tuple[int, bool]:
    """Return the first of the last `window` tokens from which a text can be encoded on its own, and
    whether it begins a word or follows a special token.

    Special tokens are never encoded again.
    """
    first, special, table = max(len(ids) - window, 0), tokenizer.special_texts, tokenizer.table
    fresh = first == 0
    for at in range(len(ids) - 1, first - 1, -1):
        if ids[at] in special:
            first, fresh = at + 1, True
            break
    if fresh:
        return first, True
    for at in range(first, len(ids)):
        entry = table[ids[at]] if ids[at] < len(table) else None
        if entry is not None and entry.startswith(_WORD):
            return at, True
    return first, False


def _alone(tokenizer: Translator, text: str) -> list[int]:
    """Return the tokens of `text` inside another text.

    Some tokenizers put a space before every text. An anchor takes it.
    """
    anchor = tokenizer.encode_plain(_ANCHOR)
    whole = tokenizer.encode_plain(_ANCHOR + text)
    if whole[: len(anchor)] == anchor:
        return list(whole[len(anchor) :])
    return list(tokenizer.encode_plain(text))
