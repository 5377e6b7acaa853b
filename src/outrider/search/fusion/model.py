"""A language model whose texts are bytes, for targets with another tokenizer."""

from dataclasses import dataclass
from pathlib import Path

from outrider.core.errors import OptionError
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model
from outrider.models.sources.finding import local_folder
from outrider.protocols import LanguageModel
from outrider.search.fusion.vocabulary import ByteVocabulary


@dataclass(frozen=True, slots=True)
class ByteModel:
    """A model with the bytes of its tokens.

    Attributes:
        model: the model.
        vocabulary: the bytes of its tokens.
        opening: the tokens that it reads before every text, at least one.

    Raises:
        OptionError: there is no opening token.
    """

    model: LanguageModel
    vocabulary: ByteVocabulary
    opening: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.opening:
            raise OptionError(
                f"{self.model.info.name} has no token that begins a text",
                hint="Give ByteModel(model, vocabulary, opening) with at least one token",
            )

    @classmethod
    def load(cls, source: str | Path, *, threads: int | None = None) -> "ByteModel":
        """Load a model with its tokenizer.

        Args:
            source: a folder, a known model or a hub name.
            threads: CPU threads of the compiled runner; None measures the best number.

        Raises:
            CheckpointError: the model or its tokenizer cannot be read.
        """
        folder = local_folder(source)
        tokenizer = Tokenizer.load(folder)
        return cls.of(load_model(folder, name=str(source), threads=threads), tokenizer)

    @classmethod
    def of(cls, model: LanguageModel, tokenizer: Tokenizer) -> "ByteModel":
        """Return a built model with its tokenizer."""
        ends = [tokenizer.bos_id, tokenizer.eos_id, *model.info.end_ids]
        first = [(token,) for token in ends if token is not None][:1]
        opening = tokenizer.opening_ids or next(iter(first), ())
        vocabulary = ByteVocabulary.of(tokenizer, model.info.vocab_size)
        return cls(model, vocabulary, opening)
