"""Reads prompts in all supported forms."""

from collections.abc import Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import Prompt
from outrider.inputs.documents.files import Document, read_files
from outrider.inputs.documents.limits import DEFAULT, DocumentLimits
from outrider.inputs.given import GivenDocument, GivenImages, GivenPrompt, TextCodec
from outrider.inputs.images.messages import is_chat, needs_vision, read_image_prompt
from outrider.inputs.prompts.ids import is_array, read_ids
from outrider.inputs.prompts.long_prompts import Codec, long_prompt

_LONGEST_PATH = 256
"""Largest number of characters of a path; longer strings are text."""


def is_batch(prompt: GivenPrompt | Sequence[GivenPrompt]) -> bool:
    """Whether `prompt` is a list of prompts, rather than one.

    A list of messages and a list of token ids are one prompt each, and an array with one dimension.
    """
    if isinstance(prompt, Tensor | np.ndarray):
        return prompt.ndim > 1
    if isinstance(prompt, str | bytes | Prompt) or not isinstance(prompt, Sequence):
        return False
    return not (prompt and all(isinstance(part, Mapping | Number) for part in prompt))


def read_prompt(
    prompt: GivenPrompt, tokenizer: TextCodec | None, images: GivenImages = None
) -> Prompt:
    """Read one prompt as token ids, or with images. Raises `OptionError` for other values."""
    if needs_vision(prompt, images):
        return read_image_prompt(prompt, images, tokenizer)
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        return Prompt(token_ids=_needed(tokenizer, "a string").encode(prompt))
    if is_chat(prompt):
        return Prompt(token_ids=_needed(tokenizer, "chat messages").chat(prompt))
    given: object = prompt
    numbers = isinstance(given, Sequence) and given and isinstance(given[0], Number)
    if is_array(given) or (numbers and not isinstance(given, bytes | bytearray)):
        return Prompt(token_ids=read_ids(given))
    raise OptionError(
        f"the prompt is {prompt!r:.60}",
        hint="Give a string, chat messages ({'role': ..., 'content': ...}), or token ids",
    )


def read_documents(
    context: GivenDocument | Sequence[GivenDocument],
    *,
    limits: DocumentLimits = DEFAULT,
) -> list[Document]:
    """Read documents: a text, a `Path` of a file or folder, `(name, text)`, or a list of any of
    these.

    Raises:
        OptionError: the value has another form, or a file cannot be read.
    """
    parts: Any = context
    if isinstance(context, str | Path) or (isinstance(context, tuple) and _is_document(context)):
        parts = [context]
    if not isinstance(parts, Sequence):
        raise _no_document(context)
    found: list[Document] = []
    for part in parts:
        if isinstance(part, Path):
            found += read_files([part], limits=limits)
        elif isinstance(part, str):
            found.append(("", _not_a_path(part)))
        elif isinstance(part, tuple) and _is_document(part):
            found.append((part[0], part[1]))
        else:
            raise _no_document(part)
    return found


def read_long_prompt(
    prompt: GivenPrompt,
    documents: Sequence[Document],
    tokenizer: TextCodec | None,
    chunk_size: int,
    *,
    chat: bool = False,
) -> Prompt:
    """Read one prompt after documents.

    The prompt is a string (a user message if `chat`), or chat messages that end with the
    instruction. Raises `OptionError`.
    """
    codec = _needed(tokenizer, "documents and an instruction")
    if not isinstance(codec, Codec):
        raise OptionError(
            "the tokenizer does not report where each token of a document ends",
            hint="Load the target with a tokenizer of transformers",
        )
    if not isinstance(prompt, str) and not is_chat(prompt):
        raise OptionError(
            f"with documents, the prompt must be the instruction, but it is {prompt!r:.60}",
            hint="Give a string, or chat messages",
        )
    return long_prompt(codec, documents, prompt, chunk_size=chunk_size, chat=chat)


def _is_document(pair: tuple[Any, ...]) -> bool:
    return len(pair) == 2 and all(isinstance(part, str) for part in pair)


def _not_a_path(text: str) -> str:
    """Return `text`; refuse it if it names a file."""
    if 0 < len(text) < _LONGEST_PATH and not set(text) & {"\n", "\0"} and _exists(text):
        raise OptionError(
            f"documents is the text {text!r}, but there is also a file of this name",
            hint="Give Path(...) to read the file, or (name, text)",
        )
    return text


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # name too long, unknown home folder, ...
        return False


def _no_document(what: Any) -> OptionError:
    return OptionError(
        f"documents is {what!r:.60}",
        hint="Give a text, a Path, (name, text), or a list of these",
    )


def _needed(tokenizer: Any, what: str) -> Any:
    if tokenizer is None:
        raise OptionError(
            f"the prompt is {what}, but the target has no tokenizer",
            hint="Give token ids, or load the target from a folder with a tokenizer",
        )
    return tokenizer
