"""Builds a tokenizer of `transformers` from the metadata of a GGUF file."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import FieldError
from outrider.models.checkpoints.gguf_tokens.byte_level import build_byte_level, splitting_of
from outrider.models.checkpoints.gguf_tokens.entries import (
    PREFIX,
    ROLES,
    TEMPLATE,
    Entries,
    read_entries,
)
from outrider.models.checkpoints.gguf_tokens.sentence_piece import build_sentence_piece

if TYPE_CHECKING:
    import tokenizers
    import transformers

_BYTE_LEVEL, _SENTENCE_PIECE = "gpt2", "llama"
_DEFAULTS = {
    _BYTE_LEVEL: {"bos_token": 11, "eos_token": 11},
    _SENTENCE_PIECE: {"bos_token": 1, "eos_token": 2, "unk_token": 0},
}
"""Ids in files that name none, as in llama.cpp."""


def build_tokenizer(
    metadata: Mapping[str, JsonValue], *, name: str
) -> "transformers.PreTrainedTokenizerFast":
    """Return the tokenizer that a GGUF file describes, with its chat template.

    The ids are those of llama.cpp. Control tokens are special tokens; user-defined tokens are added
    tokens that are not special. Other chat templates (`tokenizer.chat_template.NAME`) are ignored.

    Args:
        metadata: the settings of the file, with Python values.
        name: the file in messages.

    Raises:
        CheckpointError: the tokenizer is of another kind, or a setting is missing or wrong.
    """
    entries = read_entries(metadata, name)
    kind = entries.get("model")
    if kind == _BYTE_LEVEL:
        splitting = splitting_of(entries)
        roles = entries.roles(_DEFAULTS[kind])
        core, add_bos = build_byte_level(entries, splitting), splitting.add_bos
    elif kind == _SENTENCE_PIECE:
        roles = entries.roles(_DEFAULTS[kind])
        core, add_bos = build_sentence_piece(entries, roles.get("unk_token")), True
    else:
        raise CheckpointError(
            f"{name} has {PREFIX}model {kind!r:.60}, which is not supported; "
            f"expected {_BYTE_LEVEL} or {_SENTENCE_PIECE}",
            hint="Give the original model's tokenizer with tokenizer=...",
        )
    special = _add_marks(core, entries, roles)
    _add_ends(core, entries, roles, add_bos)
    return _wrap(core, entries, roles, special)


def _add_marks(
    core: "tokenizers.Tokenizer", entries: Entries, roles: Mapping[str, int]
) -> list[str]:
    """Add the tokens that are found in a text before it is split; return the special ones."""
    from tokenizers import AddedToken

    special, others = entries.marks(roles)
    core.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in special])
    core.add_tokens([AddedToken(one, special=False, normalized=False) for one in others])
    return special


def _add_ends(
    core: "tokenizers.Tokenizer", entries: Entries, roles: Mapping[str, int], add_bos: bool
) -> None:
    """Put BOS before every text, and EOS after it, if the file or its kind says so."""
    from tokenizers.processors import TemplateProcessing

    texts = list(entries.ids)
    ends: dict[str, dict[str, JsonValue]] = {}
    for role, default in (("bos_token", add_bos), ("eos_token", False)):
        asked = entries.get(f"add_{role}")
        if asked and role not in roles:
            raise FieldError(
                f"{entries.name} has {PREFIX}add_{role} True, but no {PREFIX}{ROLES[role]}",
                hint="Correct the file, or download it again",
            )
        if role in roles and (default if asked is None else asked):
            token = roles[role]
            ends[role] = {"id": role, "ids": [token], "tokens": [texts[token]]}
    before = ["bos_token"] if "bos_token" in ends else []
    after = ["eos_token"] if "eos_token" in ends else []
    core.post_processor = TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *(f"{one}:1" for one in before), "$B:1"]
        + [f"{one}:1" for one in after],
        special_tokens=list(ends.values()),
    )


def _wrap(
    core: "tokenizers.Tokenizer",
    entries: Entries,
    roles: Mapping[str, int],
    special: Sequence[str],
) -> "transformers.PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    texts = list(entries.ids)
    named = {role: texts[token] for role, token in roles.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=_Handed(core),
        chat_template=entries.metadata.get(TEMPLATE),
        clean_up_tokenization_spaces=False,
        extra_special_tokens=[one for one in special if one not in named.values()],
        **named,
    )


class _Handed:
    """Hands a tokenizer over where `transformers` would copy it, which takes seconds."""

    def __init__(self, core: "tokenizers.Tokenizer") -> None:
        self.core = core

    def __deepcopy__(self, memo: dict[int, JsonValue]) -> "tokenizers.Tokenizer":
        return self.core
