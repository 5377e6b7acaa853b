"""Limits on the files of a checkpoint. docs/limits.md lists them, and a test compares both."""

import os
from dataclasses import dataclass, fields
from functools import lru_cache

from outrider.core.errors import OptionError, reject_unknown

VARIABLE = "OUTRIDER_CHECKPOINT_LIMITS"
"""Environment variable that changes limits: `name=number`, separated by commas."""

_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointLimits:
    """The largest files and values that are accepted.

    Attributes:
        config_bytes: bytes of a JSON file of settings, such as config.json.
        tokenizer_bytes: bytes of a file of a tokenizer, such as tokenizer.json.
        template_bytes: bytes of a chat template file.
        index_bytes: bytes of the index of sharded weights.
        header_bytes: bytes of the header of a safetensors file.
        gguf_header_bytes: bytes of a GGUF file before its weights: settings and tokenizer.
        gguf_tensors: tensors of a GGUF file.
        gguf_settings: settings of a GGUF file.
        gguf_values: values in all lists of a GGUF file, such as the tokens.
        json_depth: levels of nested lists and objects in a JSON file.
        pattern_seconds: seconds that all regular expressions of one file may take.
        layers: layers of a model.
        heads: attention heads of a layer.
        head_dim: numbers of a key of one head.
        width: numbers of a hidden state.
        inner: numbers between two matrices of a feed-forward part.
        experts: experts of a layer.
        vocabulary: entries of a vocabulary; ids of tokens are below it.
        positions: tokens of a context.
        image_side: pixels along a side of an image that a processor makes.
    """

    config_bytes: int = 16 * _MIB
    tokenizer_bytes: int = 128 * _MIB
    template_bytes: int = _MIB
    index_bytes: int = 32 * _MIB
    header_bytes: int = 32 * _MIB
    gguf_header_bytes: int = 128 * _MIB
    gguf_tensors: int = 1 << 16
    gguf_settings: int = 1 << 12
    gguf_values: int = 1 << 22
    json_depth: int = 64
    pattern_seconds: int = 5
    layers: int = 4096
    heads: int = 1 << 16
    head_dim: int = 1 << 14
    width: int = 1 << 20
    inner: int = 1 << 22
    experts: int = 1 << 12
    vocabulary: int = 1 << 28
    positions: int = 1 << 40
    image_side: int = 1 << 14

    @classmethod
    def current(cls) -> "CheckpointLimits":
        """Return the limits with the changes of the environment variable.

        Raises:
            OptionError: the variable is malformed or names an unknown limit.
        """
        return _changed(os.environ.get(VARIABLE, ""))


@lru_cache(maxsize=4)
def _changed(text: str) -> CheckpointLimits:
    changes: dict[str, int] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, number = part.partition("=")
        if not number.isascii() or not number.isdigit() or len(number) > 18 or not int(number):
            raise OptionError(
                f"{VARIABLE} holds {part!r:.60}", hint="Give limits such as json_depth=100"
            )
        changes[name] = int(number)
    reject_unknown(f"limit in {VARIABLE}", changes, (one.name for one in fields(CheckpointLimits)))
    return CheckpointLimits(**changes)


def raise_limit(name: str) -> str:
    """Return the hint that says how to raise a limit."""
    return f'If the file is right, set {VARIABLE}="{name}=..." to a larger number'
