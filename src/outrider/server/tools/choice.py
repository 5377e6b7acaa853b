"""Which parser reads the answers of a model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from outrider.constraints.tools import CallForm
from outrider.core.errors import OptionError, nearest
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.server.schema.chat import Tool
from outrider.server.tools.calls import CallParser, NoCalls, Schemas, WholeInput
from outrider.server.tools.deepseek import DeepSeek
from outrider.server.tools.harmony import Harmony
from outrider.server.tools.hermes import Hermes
from outrider.server.tools.hidden import Hidden
from outrider.server.tools.incremental import Incremental
from outrider.server.tools.llama3_json import Llama3Json
from outrider.server.tools.mistral import Mistral
from outrider.server.tools.pythonic import Pythonic
from outrider.server.tools.qwen3_coder import Qwen3Coder
from outrider.server.tools.reasoning import Reasoning, begins_inside, tags_of
from outrider.server.tools.response_template import ByTemplate, parser_maker
from outrider.server.tools.showing import described

Kind = type[Incremental] | type[NoCalls]

PARSERS: Mapping[str, Kind] = {
    "hermes": Hermes,
    "llama3-json": Llama3Json,
    "mistral": Mistral,
    "pythonic": Pythonic,
    "qwen3-coder": Qwen3Coder,
    "deepseek": DeepSeek,
    "harmony": Harmony,
    "none": NoCalls,
}
"""All parsers by name."""

_MARKS = {
    "harmony": ("<|channel|>analysis", "<|channel|>final", "<|start|>assistant<|channel|>"),
    "deepseek": ("<｜tool▁calls▁begin｜>",),
    "mistral": ("[TOOL_CALLS]",),
    "qwen3-coder": ("<parameter=",),
    "hermes": ("<tool_call>",),
    "pythonic": ("<function_calls>", "<|tool_call_start|>", "[func_name1("),
    "llama3-json": ("<|python_tag|>", "Environment: ipython", '"parameters": '),
}
"""Texts in chat templates that show how calls are written; the first that fits is taken."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How the answers of one request are read.

    Attributes:
        make: makes the parser of each sample.
        shown: special tokens that the parser must see in the text.
    """

    make: Callable[[], CallParser]
    shown: frozenset[int] = frozenset()


def check_parser(given: str | None) -> None:
    """Raise `OptionError` if there is no parser of this name."""
    if given is not None and given not in PARSERS:
        raise OptionError(f"unknown parser of calls {given!r}", hint=nearest(given, PARSERS))


def reader_of(
    tokenizer: Tokenizer,
    given: str | None,
    *,
    tools: Sequence[Tool],
    prompt: tuple[int, ...],
    special: bool = False,
    custom: str | None = None,
) -> Reader:
    """Return how the answers of a request are read.

    Without the name of a parser, the response template of the tokenizer is used, if there is one.

    Args:
        tokenizer: the tokenizer of the target.
        given: the name of a parser of calls, or None.
        tools: the functions that may be called; if there are none, calls are not looked for.
        prompt: ids of the prompt, which may open the reasoning.
        special: the client wants to see all special tokens.
        custom: the name of the custom tool whose input is the answer.
    """
    texts = tokenizer.special_texts
    if (
        custom is None
        and given is None
        and (maker := parser_maker(tokenizer, described(tools))) is not None
    ):
        before = tokenizer.decode_all(prompt)
        make = partial(ByTemplate, maker, before, calls=bool(tools))
        return _hiding(make, texts, texts.values(), (), special)
    kind = parser_for(tokenizer, given)
    schemas: Schemas = {
        tool.function.name: tool.function.parameters or {}
        for tool in tools
        if tool.function is not None
    }
    if kind is Harmony and custom is None:
        make = partial(Harmony, schemas, calls=bool(tools))
        return _hiding(make, texts, kind.marks, kind.control, special)
    kind = kind if tools else NoCalls
    make: Callable[[], CallParser] = partial(kind, schemas)
    marks, control = kind.marks, kind.control
    if custom is not None:
        make, marks, control = partial(WholeInput, custom), (), ()
    if (tags := tags_of(tokenizer)) is not None:
        inside, inner = begins_inside(tokenizer, prompt, tags), make
        make, marks = (lambda: Reasoning(inner(), inside, tags)), (*marks, *tags)
    return _hiding(make, texts, marks, control, special)


def parser_for(tokenizer: Tokenizer, given: str | None) -> Kind:
    """Return the parser for a model.

    Args:
        tokenizer: its chat template shows how calls are written. If it shows no tools, they are
            listed by `showing.DEFAULT_TEXT`, which asks for calls between tags.
        given: the name of a parser, which takes precedence.

    Raises:
        OptionError: there is no such parser.
    """
    check_parser(given)
    if given is not None:
        return PARSERS[given]
    source = str(tokenizer.tokenizer.chat_template or "")
    fitting = (name for name, marks in _MARKS.items() if any(mark in source for mark in marks))
    name = next(fitting, "hermes")
    if name != "harmony" and not tokenizer.reads_tools:
        return Hermes
    return PARSERS[name]


def form_for(tokenizer: Tokenizer, given: str | None) -> CallForm:
    """Return how a model writes calls, for grammars.

    Raises:
        OptionError: the form cannot be written as a grammar.
    """
    if given is None and parser_maker(tokenizer) is not None:
        raise OptionError(
            "calls cannot be enforced, because a response template reads the answers of this model",
            hint="Start the server with --tool-parser",
        )
    kind = parser_for(tokenizer, given)
    if issubclass(kind, NoCalls):
        raise OptionError(
            "calls cannot be enforced, because the server reads none",
            hint="Start the server with another --tool-parser",
        )
    return kind.form(str(tokenizer.tokenizer.chat_template or ""))


def _hiding(
    make: Callable[[], CallParser],
    texts: Mapping[int, str],
    marks: Iterable[str],
    control: Iterable[str],
    special: bool,
) -> Reader:
    """Return a reader whose parsers see their marks, and whose answers do not hold them.

    Args:
        make: makes the parser.
        texts: the special tokens.
        marks: texts that the parser must see.
        control: those that are never part of an answer, even where they are no special tokens.
        special: the client wants to see all special tokens.
    """
    if special:
        return Reader(make, frozenset(texts))
    wanted = set(marks)
    shown = frozenset(token for token, text in texts.items() if text in wanted)
    hidden = {*control, *(texts[token] for token in shown)}
    return Reader((lambda: Hidden(make(), hidden)) if hidden else make, shown)
