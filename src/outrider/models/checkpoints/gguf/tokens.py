"""The tokenizer that a GGUF file holds."""

from pathlib import Path
from typing import TYPE_CHECKING

from outrider.models.checkpoints.gguf.header import read_header
from outrider.models.checkpoints.gguf_tokens.building import build_tokenizer

if TYPE_CHECKING:
    import transformers

_MODEL = "tokenizer.ggml.model"


def has_tokenizer(file: Path) -> bool:
    """Whether a GGUF file holds a tokenizer. Raises `CheckpointError` if it is damaged."""
    return read_header(file).metadata.get(_MODEL) not in (None, "none", "no_vocab")


def load_tokenizer(file: Path) -> "transformers.PreTrainedTokenizerFast":
    """Build the tokenizer of a GGUF file.

    Raises:
        CheckpointError: there is none, it is damaged, or its kind is not supported.
    """
    return build_tokenizer(read_header(file).metadata, name=str(file))
