"""Reads the settings of a tokenizer from the metadata of a GGUF file and checks them.

Everything is checked before a tokenizer is built, because the parts of `tokenizers` name no field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import Field, FieldError, check_fields
from outrider.models.checkpoints.limits import CheckpointLimits, raise_limit

PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
_CORRECT = "Correct the file, or download it again"
_LONGEST = 4096
"""Characters of a token; known vocabularies have at most some hundreds."""
_MOST_CHARACTERS = 1 << 24
"""Characters of all tokens; the largest known vocabularies have two million."""

ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
"""The names of roles in `transformers` and in the file."""

_FLAGS = ("add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces")
_FIELDS = (
    Field(f"{PREFIX}model", ("text",), null=False, needed=True),
    Field(f"{PREFIX}pre", ("text",), null=False),
    Field(TEMPLATE, ("text",), null=False),
    *(Field(f"{PREFIX}{name}", ("true or false",), null=False) for name in _FLAGS),
    *(Field(f"{PREFIX}{name}", ("whole number",), least=0, null=False) for name in ROLES.values()),
)


class Kind(IntEnum):
    """The types of tokens in a GGUF file."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_KINDS = frozenset(map(int, Kind))  # comparing with members of an enumeration is slow
_SPECIAL = frozenset({int(Kind.UNKNOWN), int(Kind.CONTROL)})
_USER_DEFINED = int(Kind.USER_DEFINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """The checked vocabulary of one file.

    Attributes:
        name: the file in messages.
        metadata: all settings; those of single values have the right type.
        ids: the id of each token, in order of the ids.
        kinds: the type of each token.
        typed: whether the file holds types.
    """

    name: str
    metadata: Mapping[str, JsonValue]
    ids: Mapping[str, int]
    kinds: Sequence[int]
    typed: bool

    def get(self, name: str, default: JsonValue = None) -> JsonValue:
        """Return the setting `tokenizer.ggml.NAME`."""
        return self.metadata.get(PREFIX + name, default)

    def roles(self, defaults: Mapping[str, int]) -> dict[str, int]:
        """Return the ids of tokens with a role, by the names of `transformers`.

        `transformers` never reads a token with a role as ordinary text. A padding or unknown token
        that is ordinary text (such as `!`) therefore has no role.

        Args:
            defaults: ids that hold if the file names none and the token is a special one.
        """
        found: dict[str, int] = {}
        for role, key in ROLES.items():
            token = self.get(key)
            if token is None:
                token = defaults.get(role)
                if token is None or token >= len(self.kinds) or not self._is_special(token):
                    continue
            ordinary = self.typed and not self._is_special(token)
            if ordinary and role in ("unk_token", "pad_token"):
                continue
            found[role] = token
        return found

    def _is_special(self, token: int) -> bool:
        return self.kinds[token] in _SPECIAL

    def marks(self, roles: Mapping[str, int]) -> tuple[list[str], list[str]]:
        """Return special tokens, and other tokens that are found in a text before it is split."""
        named = frozenset(roles.values())
        special: list[str] = []
        others: list[str] = []
        for (text, token), kind in zip(self.ids.items(), self.kinds, strict=True):
            if kind in _SPECIAL or token in named:
                special.append(text)
            elif kind == _USER_DEFINED:
                others.append(text)
        return special, others


def read_entries(metadata: Mapping[str, JsonValue], name: str) -> Entries:
    """Read the vocabulary, its types, and the settings of single values.

    Args:
        metadata: all settings of the file.
        name: the file in messages.

    Raises:
        CheckpointError: a setting is missing or wrong.
    """
    check_fields(name, metadata, _FIELDS)
    _check_template(metadata, name)
    tokens = _texts(metadata, "tokens", name)
    _check_sizes(tokens, name)
    for key in ROLES.values():
        number = metadata.get(PREFIX + key)
        if number is not None and number >= len(tokens):
            raise _wrong(name, f"{PREFIX}{key} {number}, but {len(tokens)} tokens")
    kinds = per_token(metadata, "token_type", (int,), len(tokens), name)
    if kinds is not None and not _KINDS.issuperset(kinds):
        at = next(i for i, kind in enumerate(kinds) if kind not in _KINDS)
        raise _wrong(name, f"{PREFIX}token_type[{at}] {kinds[at]}, expected 0 to 6")
    return Entries(
        name=name,
        metadata=metadata,
        ids=_ids(tokens, name),
        kinds=[int(Kind.NORMAL)] * len(tokens) if kinds is None else kinds,
        typed=kinds is not None,
    )


def read_merges(entries: Entries) -> list[tuple[str, str]]:
    """Return the pairs of tokens that are merged, the first to be merged first.

    Raises:
        CheckpointError: an entry is not two tokens, or their merged text is no token.
    """
    ids, name = entries.ids, entries.name
    found: dict[tuple[str, str], None] = {}  # of two equal merges the first counts
    for at, entry in enumerate(_texts(entries.metadata, "merges", name)):
        middle = entry.find(" ", 1)
        left, right = entry[:middle], entry[middle + 1 :]
        if middle < 1 or not right:
            raise _wrong(name, f"{PREFIX}merges[{at}] {entry!r:.60}, expected two tokens")
        if left not in ids or right not in ids or left + right not in ids:
            missing = next(one for one in (left, right, left + right) if one not in ids)
            raise _wrong(name, f"{PREFIX}merges[{at}] {entry!r:.60}, but no token {missing!r:.60}")
        found[left, right] = None
    return list(found)


def read_scores(entries: Entries) -> Sequence[float]:
    """Return the score of each token. Raises `CheckpointError` if they are missing or wrong."""
    count = len(entries.ids)
    found = per_token(entries.metadata, "scores", (float, int), count, entries.name)
    if found is None:
        raise FieldError(
            f"{entries.name} has no {PREFIX}scores, expected a list of numbers", hint=_CORRECT
        )
    if not all(-1e300 <= score <= 1e300 for score in found):
        at = next(i for i, score in enumerate(found) if not -1e300 <= score <= 1e300)
        raise _wrong(entries.name, f"{PREFIX}scores[{at}] {found[at]}, expected a number")
    return found


def per_token(
    metadata: Mapping[str, JsonValue],
    field: str,
    types: tuple[type, ...],
    count: int,
    name: str,
) -> list[JsonValue] | None:
    """Return a list with one number for each token, or None if the file has none."""
    if PREFIX + field not in metadata:
        return None
    values = _entries_of(metadata, field, types, "numbers", name)
    if len(values) != count:
        raise _wrong(name, f"{len(values)} entries in {PREFIX}{field}, but {count} tokens")
    return values


def _texts(metadata: Mapping[str, JsonValue], field: str, name: str) -> list[str]:
    """Return a list of texts that can be encoded, which those with half a surrogate cannot."""
    found = _entries_of(metadata, field, (str,), "texts", name)
    try:
        "\n".join(found).encode()
    except UnicodeEncodeError:
        raise _wrong(name, f"a text in {PREFIX}{field} that is not Unicode") from None
    return found


def _entries_of(
    metadata: Mapping[str, JsonValue], field: str, types: tuple[type, ...], what: str, name: str
) -> list[JsonValue]:
    key = PREFIX + field
    if key not in metadata:
        raise FieldError(f"{name} has no {key}, expected a list of {what}", hint=_CORRECT)
    values = metadata[key]
    if not isinstance(values, list):
        raise _wrong(name, f"{key} {values!r:.60}, expected a list of {what}")
    if not frozenset(map(type, values)) <= frozenset(types):
        at = next(i for i, value in enumerate(values) if type(value) not in types)
        raise _wrong(name, f"{key}[{at}] {values[at]!r:.60}, expected a list of {what}")
    return values


def _check_sizes(tokens: Sequence[str], name: str) -> None:
    if not tokens:
        raise _wrong(name, f"no entry in {PREFIX}tokens")
    lengths = list(map(len, tokens))
    if max(lengths) > _LONGEST:
        at = lengths.index(max(lengths))
        raise _wrong(
            name, f"{PREFIX}tokens[{at}] of {lengths[at]} characters, expected up to {_LONGEST}"
        )
    if sum(lengths) > _MOST_CHARACTERS:
        raise _wrong(
            name,
            f"{PREFIX}tokens of {sum(lengths)} characters, expected up to {_MOST_CHARACTERS}",
        )


def _check_template(metadata: Mapping[str, JsonValue], name: str) -> None:
    most = CheckpointLimits.current().template_bytes
    size = len(metadata.get(TEMPLATE, "").encode(errors="replace"))
    if size > most:
        raise CheckpointError(
            f"{name} has {TEMPLATE} of {size} bytes, expected up to {most}",
            hint=raise_limit("template_bytes"),
        )


def _ids(tokens: Sequence[str], name: str) -> dict[str, int]:
    """Return the id of each token. Empty tokens are named as in llama.cpp."""
    found = {text or f"[EMPTY_{token}]": token for token, text in enumerate(tokens)}
    if len(found) == len(tokens):
        return found
    first: dict[str, int] = {}
    for token, text in enumerate(tokens):
        if (other := first.setdefault(text or f"[EMPTY_{token}]", token)) != token:
            raise _wrong(name, f"{PREFIX}tokens {text!r:.60} twice, as {other} and {token}")
    raise AssertionError("a token occurs twice")


def _wrong(name: str, what: str) -> FieldError:
    return FieldError(f"{name} has {what}", hint=_CORRECT)
