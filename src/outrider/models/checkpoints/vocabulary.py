"""Checks that two tiers use the same token ids.

A draft model can propose token 17 only if the target's token 17 is the same text. Logits are often
wider than the vocabulary, padded to a round number that differs between models of one family; such
rows at the end are harmless.
"""

from itertools import zip_longest

from outrider.core.errors import VocabularyError
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.protocols import LanguageModel

_BROKEN = "\ufffd"
_HINT = "Draft with a model of the target's own family, or leave this tier out"


def check_vocabularies(
    target: Tokenizer | None,
    other: Tokenizer | None,
    target_model: LanguageModel,
    other_model: LanguageModel,
    tier: str,
) -> int:
    """Check that ids have the same meaning for the target and for the tier called `tier`.

    The target may have further marks (for example of images) after the other vocabulary; the tier
    never drafts them. If a tokenizer is missing, only the widths of the logits are compared and
    must be equal. If both models have the same tokenizer, it must fit both when their widths
    differ.

    Returns:
        Ids below this number can be read by both models.

    Raises:
        VocabularyError: the vocabularies differ; the message names the first id and both texts.
    """
    shared = min(target_model.info.vocab_size, other_model.info.vocab_size)
    if target is None or other is None:
        _check_widths(target_model.info.vocab_size, other_model.info.vocab_size, tier)
        return shared
    if target is other:
        _check_fit(target, target_model.info.vocab_size, other_model.info.vocab_size, tier)
        return shared
    first = first_difference(target, other)
    if first is not None and only_marks_from(target, other, first):
        return min(shared, first)
    if first is not None:
        ours, theirs = spelling(target, first), spelling(other, first)
        raise VocabularyError(
            f"the {tier} model does not share the target's vocabulary: token {first} is {ours} "
            f"for the target and {theirs} for the {tier} model",
            hint=_HINT,
        )
    return shared


def _check_widths(ours: int, theirs: int, tier: str) -> None:
    if ours != theirs:
        raise VocabularyError(
            f"the target returns {ours} logits, the {tier} model {theirs}; without both tokenizers "
            "the padding is unknown",
            hint="Give tokenizer=..., which is then used for both, or use models of one family",
        )


def _check_fit(tokenizer: Tokenizer, ours: int, theirs: int, tier: str) -> None:
    """Refuse widths of logits that differ by more than padding after the tokenizer's last entry."""
    entries = len(tokenizer.table)
    if ours != theirs and entries > min(ours, theirs):
        raise VocabularyError(
            f"the target returns {ours} logits, the {tier} model {theirs}, and the tokenizer has "
            f"{entries} entries, too many for one of them",
            hint=_HINT,
        )


def first_difference(ours: Tokenizer, theirs: Tokenizer) -> int | None:
    """Return the first id that differs or exists in only one vocabulary; None if there is none."""
    pairs = enumerate(zip_longest(ours.table, theirs.table))
    differing = (token for token, (mine, other) in pairs if mine != other)
    return next((token for token in differing if not _same_text(ours, theirs, token)), None)


def only_marks_from(ours: Tokenizer, theirs: Tokenizer, first: int) -> bool:
    """Whether `theirs` ends at `first` and `ours` has only added marks from there on."""
    if first != len(theirs.table):
        return False
    marks = ours.marks
    return all(
        ours.table[token] is None or token in marks for token in range(first, len(ours.table))
    )


def _same_text(ours: Tokenizer, theirs: Tokenizer, token: int) -> bool:
    """Whether entries with different spellings decode to the same text."""
    if entry(ours, token) is None or entry(theirs, token) is None:
        return False
    texts = [_continuation(tokenizer, token) for tokenizer in (ours, theirs)]
    return texts[0] == texts[1] and _BROKEN not in texts[0]


def _continuation(tokenizer: Tokenizer, token: int) -> str:
    """Decode the text that `token` adds; some decoders drop the space before the first token."""
    once, twice = (tokenizer.decode([token] * times, skip_special_tokens=False) for times in (1, 2))
    return twice[len(once) :]


def entry(tokenizer: Tokenizer, token: int) -> str | None:
    """Return the vocabulary's entry for `token`, or None."""
    return tokenizer.table[token] if token < len(tokenizer.table) else None


def spelling(tokenizer: Tokenizer, token: int) -> str:
    """Show `token` in an error: its text, or its entry if two texts would look alike."""
    found = entry(tokenizer, token)
    if found is None:
        return "nothing"
    text = tokenizer.decode([token], skip_special_tokens=False)
    return repr(found if _BROKEN in text or not text.strip() else text)
