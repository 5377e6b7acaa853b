"""Which parser reads the calls of a model."""

from collections.abc import Callable, Mapping

from outrider.core.errors import OptionError, nearest
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.server.tools.calls import CallParser, NoCalls
from outrider.server.tools.hermes import Hermes
from outrider.server.tools.llama3_json import Llama3Json
from outrider.server.tools.reasoning import Reasoning, begins_inside, thinks

PARSERS: Mapping[str, Callable[[], CallParser]] = {
    "hermes": Hermes,
    "llama3-json": Llama3Json,
    "none": NoCalls,
}
"""All parsers by name."""

_MARKS = {
    "hermes": ("<tool_call>",),
    "llama3-json": ("<|python_tag|>", "Environment: ipython", '"parameters": '),
}
"""Texts in chat templates that show how calls are written; the first that fits is taken."""


def check_parser(given: str | None) -> None:
    """Raise `OptionError` if there is no parser of this name."""
    if given is not None and given not in PARSERS:
        raise OptionError(f"unknown parser of calls {given!r}", hint=nearest(given, PARSERS))


def parsers(
    tokenizer: Tokenizer, given: str | None, *, tools: bool, prompt: tuple[int, ...]
) -> Callable[[], CallParser]:
    """Return what makes the parser of each sample of a request.

    Args:
        tokenizer: the tokenizer of the target.
        given: the name of a parser of calls, or None.
        tools: calls are looked for.
        prompt: ids of the prompt, which may open the reasoning.
    """
    calls = parser_for(tokenizer, given) if tools else NoCalls
    if not thinks(tokenizer):
        return calls
    inside = begins_inside(tokenizer, prompt)
    return lambda: Reasoning(calls(), inside)


def parser_for(tokenizer: Tokenizer, given: str | None) -> Callable[[], CallParser]:
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
    if not tokenizer.reads_tools:
        return PARSERS["hermes"]
    for name, marks in _MARKS.items():
        if any(mark in source for mark in marks):
            return PARSERS[name]
    return PARSERS["hermes"]
