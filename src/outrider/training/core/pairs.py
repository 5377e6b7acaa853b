"""The models of a training: their folders, and pairs that share a vocabulary."""

from dataclasses import dataclass
from pathlib import Path

from outrider.core.errors import OptionError, nearest
from outrider.engine.options import is_family
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.checkpoints.vocabulary import check_vocabularies
from outrider.models.loading import load_model
from outrider.models.sources.families import family
from outrider.models.sources.finding import local_folder
from outrider.protocols import LanguageModel


@dataclass(frozen=True, slots=True)
class ModelPair:
    """Two models and the tokenizer of the target.

    Attributes:
        target: the model that verifies.
        draft: the model that drafts.
        tokenizer: the target's.
    """

    target: LanguageModel
    draft: LanguageModel
    tokenizer: Tokenizer

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that stand for no text, and end tokens."""
        return self.tokenizer.special_ids | frozenset(self.target.info.end_ids)


def load_pair(target: str, draft: str = "") -> ModelPair:
    """Load two models.

    Args:
        target: a folder, a GGUF file or a family.
        draft: the same; empty: the draft model of the family.

    Raises:
        OptionError: no draft model is given.
        VocabularyError: the two models have different vocabularies.
    """
    tiers = family(target) if is_family(target) else {}
    other = draft or tiers.get("draft")
    if not other:
        raise OptionError(f"no draft model is given for {target}", hint="Add a line draft = FOLDER")
    folders = local_folder(tiers.get("target", target)), local_folder(other)
    tokenizer, theirs = (Tokenizer.load(folder) for folder in folders)
    models = load_model(folders[0]), load_model(folders[1])
    check_vocabularies(tokenizer, theirs, *models, "draft")
    return ModelPair(*models, tokenizer)


def folder_of(name: str, tier: str) -> Path:
    """Return the folder of a model: `tiny` is that tier of the family, `tiny:draft` its draft
    model.

    Raises:
        OptionError: the family has no such tier.
    """
    known, _, other = name.partition(":")
    if not is_family(known):
        return local_folder(name)
    tiers = family(known)
    if (other or tier) not in tiers:
        raise OptionError(
            f"family {known!r} has no tier {other or tier!r}", hint=nearest(other, tiers)
        )
    return tiers[other or tier]
