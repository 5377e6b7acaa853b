"""Checks the files of a folder that `transformers` reads, before it reads them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import check_fields
from outrider.models.checkpoints.json_file import (
    check_depth,
    checked_size,
    is_there,
    parse_object,
    read_bytes,
)
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
        data = read_bytes(file, "tokenizer_bytes")
        check_depth(data, str(file))
        check_patterns(data, file)
