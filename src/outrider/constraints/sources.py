"""Grammars in the form that llguidance reads, and its refusals as errors.

Processes that check grammars of strangers import this: it needs neither PyTorch nor NumPy.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark

from outrider.constraints.json_schema import WHITESPACE, check_references
from outrider.core.errors import OptionError

if TYPE_CHECKING:  # the module of types is not there at run time
    from llguidance._lib import JsonCompileOptions

_TRIED = 4
"""Tokens with which a text is begun for a trial; one that works is enough."""


class Source(Protocol):
    """What a constraint says about its grammar: see `Constraint`."""

    @property
    def kind(self) -> str:
        """How it is written."""
        ...

    @property
    def source(self) -> str:
        """Its text."""
        ...

    @property
    def whitespace(self) -> str | None:
        """White space between tokens of JSON."""
        ...

    @property
    def unsupported(self) -> str:
        """What becomes of parts that cannot be enforced."""
        ...


def check_grammar(constraint: Source) -> None:
    """Check a grammar without a vocabulary, so that a wrong one is reported before a model is
    loaded.

    Raises:
        OptionError: as `compile_grammar`.
    """
    _validate(constraint, engine_source(constraint))


def try_grammar(constraint: Source, vocabulary: LLTokenizer, ends: Sequence[int]) -> None:
    """Check a grammar, compile it, and write a first token: what takes for ever, or breaks the
    engine, does so here.

    Raises:
        OptionError: as `compile_grammar`, or no text can be begun.
    """
    source = engine_source(constraint)
    _validate(constraint, source)
    matcher = _compiled(constraint, source, vocabulary)
    mask = matcher.compute_bitmask()
    reason = matcher.get_error()
    begins = () if reason else _some(mask, vocabulary.vocab_size, frozenset(ends))
    for token in begins:
        begun = matcher.deep_copy()
        begun.consume_token(token)
        if not begun.is_stopped():
            begun.compute_bitmask()
        if not (reason := begun.get_error()):
            return
    if "NoExtension" in reason:
        raise OptionError(f"no text fits the {constraint.kind} constraint", hint="Loosen it")
    if reason:
        raise OptionError(
            f"the {constraint.kind} constraint cannot be followed: {sentence_of(reason)}",
            hint="Simplify it",
        )


def _some(mask: bytes, size: int, ends: frozenset[int]) -> list[int]:
    """Return a few of the tokens of a mask, from all of the vocabulary."""
    found = [t for t in range(size) if mask[t >> 3] >> (t & 7) & 1 and t not in ends]
    return found[:: max(len(found) // _TRIED, 1)][:_TRIED]


def matcher_of(constraint: Source, vocabulary: LLTokenizer, close: str | None = None) -> LLMatcher:
    """Compile a grammar; return a matcher at the beginning of a text.

    Args:
        constraint: the grammar.
        vocabulary: of the model.
        close: a term of Lark that follows its texts; None: nothing follows.

    Raises:
        OptionError: as `compile_grammar`.
    """
    source = engine_source(constraint)
    if close is not None:
        source = _closed(source, close)
    return _compiled(constraint, source, vocabulary)


def _validate(constraint: Source, source: str) -> None:
    """Check a grammar in the form that llguidance reads. Raises `OptionError`."""
    if reason := LLMatcher.validate_grammar(source):
        raise refused(constraint, reason)


def _compiled(constraint: Source, source: str, vocabulary: LLTokenizer) -> LLMatcher:
    """Compile a grammar in the form that llguidance reads. Raises `OptionError`."""
    matcher = LLMatcher(vocabulary, source, log_level=0, limits=LLParserLimits())
    if matcher.is_error():
        raise refused(constraint, matcher.get_error())
    return matcher


def vocabulary_of(tokenizer: str, ends: Sequence[int], vocab_size: int) -> LLTokenizer:
    """Return a vocabulary as llguidance reads it, in about 0.1 s.

    Args:
        tokenizer: the text of tokenizer.json.
        ends: end tokens, at least one.
        vocab_size: of the model, at least that of the tokenizer.

    Raises:
        OptionError: there is no end token, or the engine cannot read this tokenizer.
    """
    if not ends:
        raise OptionError(
            "a constraint needs a model with an end token", hint="Set eos_token_id of the model"
        )
    try:
        return LLTokenizer(tokenizer, n_vocab=vocab_size, eos_token=list(ends))
    except ValueError as error:
        raise OptionError(
            f"the tokenizer cannot be used with a constraint: {sentence_of(str(error))}"
        ) from None


def engine_source(constraint: Source) -> str:
    """Return a grammar in the form that llguidance reads."""
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.source)
    if constraint.kind == "lark":
        return LLMatcher.grammar_from_lark(constraint.source)
    if constraint.kind == "gbnf":
        try:
            return LLMatcher.grammar_from_lark(gbnf_to_lark(constraint.source))
        except Exception as error:
            raise OptionError(f"the GBNF grammar is refused: {sentence_of(str(error))}") from None
    options: "JsonCompileOptions" = {
        "whitespace_flexible": True,
        "coerce_one_of": constraint.unsupported != "refuse",
        "lenient": constraint.unsupported == "lenient",
    }
    if constraint.whitespace == "compact":
        options["whitespace_flexible"] = False
    elif constraint.whitespace != "flexible":
        options["whitespace_pattern"] = constraint.whitespace or WHITESPACE
    check_references(json.loads(constraint.source))
    try:
        return LLMatcher.grammar_from_json_schema(constraint.source, overrides=options)
    except ValueError as error:
        raise OptionError(f"the json constraint is refused: {sentence_of(str(error))}") from None


def _closed(source: str, close: str) -> str:
    """Return a grammar whose texts end with a term of Lark."""
    whole = (
        json.loads(source) if source.startswith("{") else {"grammars": [{"lark_grammar": source}]}
    )
    [body] = whole["grammars"]
    first = {"lark_grammar": f"start: @body {close}"}
    return json.dumps({"grammars": [first, {**body, "name": "body"}]})


def refused(constraint: Source, reason: str) -> OptionError:
    """Return the error for a grammar that the engine refuses, with what would make it usable."""
    sentence, hint = sentence_of(reason), ""
    if constraint.kind == "regex":
        sentence = sentence.rpartition("regex parse error: ")[2]
        hint = "Give a pattern without look-around and back references, as Rust's regex reads it"
    elif "coerce_one_of" in reason:
        sentence = "oneOf whose alternatives may overlap cannot be enforced"
        hint = "unsupported='coerce' reads it as anyOf"
    elif reason.startswith(("Unimplemented keys", "Unknown format")):
        hint = "Leave it out; unsupported='lenient' ignores what cannot be enforced"
    return OptionError(f"the {constraint.kind} constraint is refused: {sentence}", hint=hint)


def sentence_of(text: str) -> str:
    """Return a message of the engine as one line, without the lines that show the place."""
    first, *rest = text.strip().splitlines() or [""]
    cause = next((line for line in rest if line.startswith("error: ")), "")
    return " ".join(f"{first} {cause.removeprefix('error: ')}".split())[:300]
