"""Builds the tokenizer that a GGUF file holds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.checkpoints.gguf.header import read_header
from outrider.models.checkpoints.gguf.splitting import SPLITTINGS, Splitting
from outrider.models.checkpoints.limits import CheckpointLimits, raise_limit

if TYPE_CHECKING:
    import transformers

_PREFIX = "tokenizer.ggml."
_MODEL, _TOKENS = f"{_PREFIX}model", f"{_PREFIX}tokens"
_TEMPLATE = "tokenizer.chat_template"
_BYTE_LEVEL, _SENTENCE_PIECE = "gpt2", "llama"
_CONTROL, _USER_DEFINED = 3, 4
_SPACE = "▁"
_TRUTH = ("true or false",)
_FIELDS = (
    Field(_MODEL, ("text",), null=False, needed=True),
    Field(_TOKENS, ("text",), null=False, needed=True, levels=(1,)),
    Field(f"{_PREFIX}token_type", ("whole number",), null=False, levels=(1,)),
    Field(f"{_PREFIX}scores", ("number",), null=False, levels=(1,)),
    Field(f"{_PREFIX}merges", ("text",), null=False, levels=(1,)),
    Field(f"{_PREFIX}pre", ("text",), null=False),
    Field(f"{_PREFIX}add_bos_token", _TRUTH, null=False),
    Field(f"{_PREFIX}add_eos_token", _TRUTH, null=False),
    Field(f"{_PREFIX}add_space_prefix", _TRUTH, null=False),
    Field(_TEMPLATE, ("text",), null=False),
)
_NAMED = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
"""Ids in the file, and names of `transformers`."""


def has_tokenizer(file: Path) -> bool:
    """Whether a GGUF file holds a tokenizer. Raises `CheckpointError` if it is damaged."""
    return read_header(file).metadata.get(_MODEL) not in (None, "none", "no_vocab")


def load_tokenizer(file: Path) -> "transformers.PreTrainedTokenizerFast":
    """Build the tokenizer of a GGUF file.

    Raises:
        CheckpointError: there is none, it is damaged, or its kind is not supported.
    """
    return build_tokenizer(read_header(file).metadata, str(file))


def build_tokenizer(
    metadata: Mapping[str, JsonValue], file: str
) -> "transformers.PreTrainedTokenizerFast":
    """Build a tokenizer from the settings of a GGUF file. Raises like `load_tokenizer`."""
    check_fields(file, metadata, _FIELDS)
    tokens: list[str] = metadata[_TOKENS]
    kinds = _of_each_token(file, metadata, "token_type") or [1] * len(tokens)
    special = _special(file, metadata, tokens)
    kind = metadata[_MODEL]
    if kind == _BYTE_LEVEL:
        splitting = _splitting(file, metadata)
        built, adds_bos = _byte_level(file, metadata, splitting), splitting.adds_bos
    elif kind == _SENTENCE_PIECE:
        built, adds_bos = _sentence_piece(file, metadata), True
    else:
        raise CheckpointError(
            f"{file} has a tokenizer of kind {kind!r:.40}, which is not supported; "
            f"known: {_BYTE_LEVEL}, {_SENTENCE_PIECE}",
            hint="Give the tokenizer of the original model with tokenizer=...",
        )
    _add_marks(built, tokens, kinds)
    adds = metadata.get(f"{_PREFIX}add_bos_token", adds_bos)
    _add_outer(built, special, bos=adds, eos=metadata.get(f"{_PREFIX}add_eos_token", False))
    return _wrapped(built, special, _template(file, metadata))


# -- settings --------------------------------------------------------------------------------


def _of_each_token(file: str, metadata: Mapping[str, JsonValue], name: str) -> JsonValue:
    """Return a list with an entry for each token; None if there is none."""
    found, count = metadata.get(_PREFIX + name), len(metadata[_TOKENS])
    if found is not None and len(found) != count:
        raise CheckpointError(
            f"{file} has {len(found)} entries in {_PREFIX}{name} for {count} tokens",
            hint="Download the file again",
        )
    return found


def _special(file: str, metadata: Mapping[str, JsonValue], tokens: Sequence[str]) -> dict[str, str]:
    """Return the tokens with a role, such as `bos_token`, by their names in `transformers`."""
    found: dict[str, str] = {}
    for name, theirs in _NAMED.items():
        token = metadata.get(f"{_PREFIX}{name}_token_id")
        if token is None:
            continue
        if not isinstance(token, int) or not 0 <= token < len(tokens):
            raise CheckpointError(
                f"{file} has {_PREFIX}{name}_token_id {token!r:.40}, but {len(tokens)} tokens",
                hint="Download the file again",
            )
        found[theirs] = tokens[token]
    return found


def _splitting(file: str, metadata: Mapping[str, JsonValue]) -> Splitting:
    name = metadata.get(f"{_PREFIX}pre", "default")
    if name not in SPLITTINGS:
        raise CheckpointError(
            f"{file} has {_PREFIX}pre {name!r:.60}, which is not supported; "
            f"known: {', '.join(SPLITTINGS)}",
            hint="Give the tokenizer of the original model with tokenizer=...",
        )
    return SPLITTINGS[name]


def _template(file: str, metadata: Mapping[str, JsonValue]) -> str | None:
    template = metadata.get(_TEMPLATE)
    most = CheckpointLimits.current().template_bytes
    if template is not None and len(template.encode()) > most:
        raise CheckpointError(
            f"{file} has a chat template of more than {most:,} bytes",
            hint=raise_limit("template_bytes"),
        )
    return template


# -- models ----------------------------------------------------------------------------------


def _byte_level(file: str, metadata: Mapping[str, JsonValue], splitting: Splitting) -> Any:
    """Byte pairs, after each byte of the text has become a visible character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = _vocabulary(metadata)
    merges = [_halves(file, one) for one in metadata.get(f"{_PREFIX}merges") or ()]
    for merge in merges:
        for part in (*merge, "".join(merge)):
            if part not in vocabulary:
                raise CheckpointError(
                    f"{file} has the merge {' '.join(merge)!r:.60}, but no token {part!r:.60}",
                    hint="Download the file again",
                )
    built = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=splitting.whole_words))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(one), "isolated") for one in splitting.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    built.decoder = decoders.ByteLevel()
    return built


def _halves(file: str, merge: str) -> tuple[str, str]:
    """Split a merge at its space; a token may begin with one."""
    at = merge.find(" ", 1)
    if at < 0 or at + 1 == len(merge):
        raise CheckpointError(
            f"{file} has the merge {merge!r:.60}, expected two tokens", hint="Download it again"
        )
    return merge[:at], merge[at + 1 :]


def _sentence_piece(file: str, metadata: Mapping[str, JsonValue]) -> Any:
    """Pairs merged by the scores of their results; text without tokens becomes bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = _of_each_token(file, metadata, "scores")
    if scores is None:
        raise CheckpointError(f"{file} has no {_PREFIX}scores", hint="Download the file again")
    vocabulary = _vocabulary(metadata)
    unknown = metadata.get(f"{_PREFIX}unknown_token_id")
    built = Tokenizer(
        models.BPE(
            vocabulary,
            _merges_by_score(metadata[_TOKENS], scores, vocabulary),
            unk_token=None if unknown is None else metadata[_TOKENS][unknown],
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    prefix = metadata.get(f"{_PREFIX}add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    built.normalizer = (
        normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    built.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return built


def _merges_by_score(
    tokens: Sequence[str], scores: Sequence[float], vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Return all pairs of tokens that make a token, best score first."""
    found = [
        (score, len(token[:at]), len(token[at:]), token[:at], token[at:])
        for token, score in zip(tokens, scores, strict=True)
        for at in range(1, len(token))
        if token[:at] in vocabulary and token[at:] in vocabulary
    ]
    found.sort(key=lambda one: one[:3], reverse=True)
    return [(left, right) for *_, left, right in found]


def _vocabulary(metadata: Mapping[str, JsonValue]) -> dict[str, int]:
    return {token: number for number, token in enumerate(metadata[_TOKENS])}


# -- parts around the model ------------------------------------------------------------------


def _add_marks(built: Any, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    """Add control tokens, which stand for no text, and tokens that are never split."""
    from tokenizers import AddedToken

    pairs = list(zip(tokens, kinds, strict=True))
    special = [text for text, kind in pairs if kind == _CONTROL and text]
    plain = [text for text, kind in pairs if kind == _USER_DEFINED and text]
    built.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    built.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])


def _add_outer(built: Any, special: Mapping[str, str], *, bos: bool, eos: bool) -> None:
    """Put BOS before a text and EOS behind it."""
    from tokenizers import processors

    first = special.get("bos_token") if bos else None
    last = special.get("eos_token") if eos else None
    marks = list(dict.fromkeys(filter(None, (first, last))))
    if not marks:
        return
    one = ([f"{first}:0"] if first else []) + ["$A:0"] + ([f"{last}:0"] if last else [])
    two = ([f"{first}:1"] if first else []) + ["$B:1"] + ([f"{last}:1"] if last else [])
    built.post_processor = processors.TemplateProcessing(
        single=one,
        pair=one + two,
        special_tokens=[(text, built.token_to_id(text)) for text in marks],
    )


def _wrapped(
    built: Any, special: Mapping[str, str], template: str | None
) -> "transformers.PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=built, clean_up_tokenization_spaces=False, **special
    )
    tokenizer.chat_template = template
    return tokenizer
