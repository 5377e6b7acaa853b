"""Checks the files of a folder that `transformers` reads, before it reads them."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from outrider.core.errors import CheckpointError, OutriderWarning
from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import check_fields
from outrider.models.checkpoints.json_file import (
    check_depth,
    checked_size,
    is_there,
    parse_object,
    read_bytes,
)
from outrider.models.checkpoints.limits import CheckpointLimits
from outrider.models.checkpoints.patterns import check_patterns
from outrider.models.checkpoints.tables import (
    GENERATION,
    TOKENIZER,
    check_adapter,
    check_config,
    check_processor,
)

Check = Callable[[str, Mapping[str, JsonValue]], None]


def _generation(file: str, content: Mapping[str, JsonValue]) -> None:
    check_fields(file, content, GENERATION)


def _tokenizer(file: str, content: Mapping[str, JsonValue]) -> None:
    check_fields(file, content, TOKENIZER)


def _anything(file: str, content: Mapping[str, JsonValue]) -> None:
    """Accept any object."""


_OBJECTS: dict[str, tuple[str, Check]] = {
    "config.json": ("config_bytes", check_config),
    "generation_config.json": ("config_bytes", _generation),
    "tokenizer_config.json": ("config_bytes", _tokenizer),
    "special_tokens_map.json": ("config_bytes", _anything),
    "added_tokens.json": ("config_bytes", _anything),
    "preprocessor_config.json": ("config_bytes", check_processor),
    "video_preprocessor_config.json": ("config_bytes", check_processor),
    "processor_config.json": ("config_bytes", check_processor),
    "chat_template.json": ("config_bytes", _anything),
    "adapter_config.json": ("config_bytes", check_adapter),
    "model.safetensors.index.json": ("index_bytes", _anything),
    "vocab.json": ("tokenizer_bytes", _anything),
}
"""JSON objects: the limit of their size, and the check of their fields."""

_SIZED = {
    "merges.txt": "tokenizer_bytes",
    "vocab.txt": "tokenizer_bytes",
    "tokenizer.model": "tokenizer_bytes",
    "spiece.model": "tokenizer_bytes",
    "sentencepiece.bpe.model": "tokenizer_bytes",
    "chat_template.jinja": "template_bytes",
}
"""Files that are no JSON."""

TOKENIZER_JSON = "tokenizer.json"


def check_folder(folder: Path) -> None:
    """Check sizes, depths and known fields of all settings in a folder.

    Raises:
        CheckpointError: names the first file, and field, that is wrong.
    """
    for name, (limit, check) in _OBJECTS.items():
        file = folder / name
        if is_there(file):
            check(str(file), parse_object(read_bytes(file, limit), str(file)))
    for name, limit in _SIZED.items():
        if is_there(folder / name):
            checked_size(folder / name, limit)
    file = folder / TOKENIZER_JSON
    if is_there(file):
        checked_size(file, "tokenizer_bytes")
        found = file.stat()
        _check_tokenizer_json(file, found.st_size, found.st_mtime_ns, CheckpointLimits.current())


@lru_cache(maxsize=8)
def _check_tokenizer_json(file: Path, size: int, changed: int, limits: CheckpointLimits) -> None:
    """Check depth and regular expressions of a large file once, until the file changes."""
    data = read_bytes(file, "tokenizer_bytes")
    check_depth(data, str(file))
    check_patterns(data, file)


def explain_code(place: str, error: Exception) -> None:
    """Raise `CheckpointError` if `transformers` failed because it must not run code of a folder."""
    if "trust_remote_code=True" in str(error):
        raise CheckpointError(
            f"{place} needs Python code that comes with it, which is not run",
            hint="Read that code; then load it from Python with trust_remote_code=True",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Context manager: `transformers` and libraries below it print nothing; errors are raised.

    Their notes would be more lines beside the error of one line.
    """
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", OutriderWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
