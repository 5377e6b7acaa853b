"""Draft models whose vocabulary is not the target's: which options they fit."""

from typing import cast

from outrider.core.errors import VocabularyError
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.checkpoints.vocabulary import first_difference, only_marks_from, spelling
from outrider.models.wrappers.foreign import ForeignModel, Translator
from outrider.protocols import LanguageModel
from outrider.strategy.recipe import Speculation

NAME = "universal"
"""The drafter that translates between two vocabularies."""


def is_foreign(
    target: Tokenizer | None, own: Tokenizer | None, speculation: Speculation, tier: str
) -> bool:
    """Whether drafts of the last tier are translated: it has another vocabulary than the target,
    or the options ask for it.

    Args:
        target: the target's tokenizer.
        own: the tokenizer of the last tier.
        speculation: the options for drafts.
        tier: name of the last tier.

    Raises:
        VocabularyError: the vocabularies differ, and the options need one that is shared.
    """
    if target is None or own is None:
        return False
    first = None if target is own else first_difference(target, own)
    if first is None or only_marks_from(target, own, first):
        return NAME in speculation.named
    problem = _needs_shared(speculation)
    if problem is None:
        return True
    ours, theirs = spelling(target, first), spelling(own, first)
    raise VocabularyError(
        f"the {tier} model does not share the target's vocabulary (token {first} is {ours} for the "
        f"target and {theirs} for the {tier} model), and {problem}",
        hint=f"Use mode 'exact' with drafter 'auto' or '{NAME}', which translate drafts, or draft "
        "with a model of the target's own family",
    )


def _needs_shared(speculation: Speculation) -> str | None:
    """Return which option needs one vocabulary; None if there is none."""
    if speculation.mode != "exact":
        return f"mode {speculation.mode!r} compares distributions over one vocabulary"
    if speculation.rule is not None and speculation.label != "match":
        return f"rule {speculation.label!r} judges drafts of one vocabulary"
    needing = [one.name for one in speculation.records if one.models and one.name != NAME]
    return f"drafter {needing[0]!r} drafts ids of one vocabulary" if needing else None


def with_tokens(
    model: LanguageModel, own: Tokenizer | None, target: Tokenizer | None, target_size: int
) -> ForeignModel:
    """Return a draft model beside both tokenizers, which `is_foreign` has found."""
    # A cached property fits a property of a protocol, which the type checker does not see.
    pair = cast("Translator", own), cast("Translator", target)
    return ForeignModel(model, own=pair[0], target=pair[1], target_size=target_size)
