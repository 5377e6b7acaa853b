"""Renders a chat template: in this process under a meter, or in a child process with limits."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import jinja2

from outrider.core.errors import CheckpointError, OptionError
from outrider.core.isolation import ChildLimits, FailedCallError, IsolationError, call_isolated
from outrider.core.types import Message
from outrider.core.values import JsonValue
from outrider.models.checkpoints.templates.environment import build
from outrider.models.checkpoints.templates.limits import (
    DEFAULT,
    ExceededError,
    Meter,
    TemplateLimitError,
    TemplateLimits,
    UnboundedError,
)
from outrider.models.checkpoints.templates.metered import CountedTokens, MeteredEnvironment

_CHILD = "outrider.models.checkpoints.templates.environment:render_isolated"
_CHILD_LIMITS = {"seconds": "seconds", "memory": "memory_bytes", "size": "value_characters"}
"""Reason of `IsolationError` -> field of `TemplateLimits`."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of the reasoning in messages; templates read the first or the second."""

_TAKEN = ("messages", "tools", "documents", "add_generation_prompt", "chat_template")
"""Variables of templates that arguments of their own set."""

_STANDARD = "transformers.tokenization_utils_base"


def render_chat(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    name: str,
    template: str | None = None,
    add_generation_prompt: bool = True,
    tools: Sequence[JsonValue] | None = None,
    documents: Sequence[JsonValue] | None = None,
    values: Mapping[str, JsonValue] | None = None,
    limits: TemplateLimits = DEFAULT,
) -> str:
    """Render messages as `tokenizer.apply_chat_template` does, under limits.

    A tokenizer with a method of its own is not limited: it runs code of a package, or code that the
    user trusts.

    Args:
        tokenizer: a tokenizer of `transformers`.
        messages: the messages.
        name: the checkpoint, for error messages.
        template: the template; None takes that of the tokenizer.
        add_generation_prompt: whether the answer begins at the end.
        tools: descriptions of functions, as in `transformers`.
        documents: texts that the answer refers to, as in `transformers`.
        values: other variables of the template, such as `enable_thinking`.
        limits: the limits.

    Raises:
        TemplateLimitError: the template exceeds a limit.
        OptionError: the output is not text, or a variable has a name that is taken.
        Exception: the template refuses the messages, or is wrong.
    """
    _check_free(values or {})
    method = getattr(type(tokenizer), "apply_chat_template", None)
    if getattr(method, "__module__", _STANDARD) != _STANDARD:
        given = {} if template is None else {"chat_template": template}
        given |= {} if tools is None else {"tools": list(tools)}
        given |= {} if documents is None else {"documents": list(documents)}
        text = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **given,
            **(values or {}),
        )
    else:
        source = tokenizer.get_chat_template(template)
        variables = {
            **_plain(values or {}),
            "messages": [_message(message) for message in messages],
            "tools": None if tools is None else _plain(tools),
            "documents": None if documents is None else _plain(documents),
            "add_generation_prompt": add_generation_prompt,
            **_plain(tokenizer.special_tokens_map),
        }
        text = render(source, variables, name=name, limits=limits)
    return _checked(text, messages, name)


def render(
    source: str,
    values: Mapping[str, JsonValue],
    *,
    name: str,
    limits: TemplateLimits = DEFAULT,
) -> str:
    """Render a template with values of plain types. Raises the errors of `render_chat`."""
    if not isinstance(source, str):
        raise CheckpointError(
            f"the chat template of {name} is {source!r:.60}", hint="Expected the text of a template"
        )
    try:
        if len(source) > limits.source_characters:
            raise ExceededError("source_characters")
        return _prepared(source, limits).render(values)
    except ExceededError as error:
        limit = str(error)
    except RecursionError:
        raise TemplateLimitError(
            f"the chat template of {name} is nested too deeply", hint="Download its files again"
        ) from None
    except MemoryError:
        limit = "memory_bytes"
    raise TemplateLimitError(
        f"the chat template of {name} exceeds the limit {limit}={getattr(limits, limit)}",
        hint="Use another template, or give the prompt as plain text",
    )


def _check_free(values: Mapping[str, JsonValue]) -> None:
    """Raise `OptionError` for a variable that the messages or the tokenizer set."""
    for name in values:
        if name in _TAKEN:
            raise OptionError(
                f"the variable {name!r} of the chat template is given",
                hint=f"Give others; {', '.join(_TAKEN)} are set from the request",
            )


class _Prepared:
    """A template that is compiled when it is first rendered."""

    def __init__(self, source: str, limits: TemplateLimits) -> None:
        self._source, self._limits = source, limits
        self._environment = build(MeteredEnvironment, extensions=[CountedTokens])
        self._environment.guard()
        self._compiled: jinja2.Template | None = None
        self._isolated = False
        self._lock = Lock()  # a rendering has the only meter of its environment

    def render(self, values: Mapping[str, JsonValue]) -> str:
        if not self._isolated:
            try:
                with self._lock:
                    return self._metered(values)
            except UnboundedError:
                self._isolated = True
        return self._in_child(values)

    def _metered(self, values: Mapping[str, JsonValue]) -> str:
        self._environment.meter = Meter(self._limits)
        if self._compiled is None:
            self._compiled = self._environment.from_string(self._source)
            self._environment.meter = Meter(self._limits)
        return self._compiled.render(**values)

    def _in_child(self, values: Mapping[str, JsonValue]) -> str:
        limits = self._limits
        try:
            return call_isolated(
                _CHILD,
                json.dumps({"source": self._source, "values": values}).encode(),
                {},
                limits=ChildLimits(
                    seconds=limits.seconds,
                    memory_bytes=limits.memory_bytes,
                    result_bytes=limits.value_characters,
                ),
            )
        except IsolationError as error:
            if error.reason == "crash":
                raise jinja2.TemplateError("the rendering ended without a result") from None
            raise ExceededError(_CHILD_LIMITS[error.reason]) from None
        except FailedCallError as error:
            raise jinja2.TemplateError(str(error) or error.kind) from None


@lru_cache(maxsize=16)
def _prepared(source: str, limits: TemplateLimits) -> _Prepared:
    return _Prepared(source, limits)


def _message(message: Message) -> dict[str, JsonValue]:
    """Return a message of plain types, without empty fields, with all names of its reasoning."""
    found: dict[str, JsonValue] = _plain({k: v for k, v in message.items() if v is not None})
    reasoning = next((found[name] for name in _REASONING if found.get(name) is not None), None)
    if reasoning is None:
        return found
    return {"thinking": reasoning, **found, "reasoning_content": reasoning}


def _plain(value: Any) -> Any:
    """Return a value of plain types only; a template can call methods of others."""
    if isinstance(value, bool) or value is None:
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return value if type(value) is kind else getattr(kind, f"__{kind.__name__}__")(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return f"<{type(value).__name__}>"


def _checked(text: str, messages: Sequence[Message], name: str) -> str:
    """Return `text`; refuse halves of surrogate pairs, which cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        try:
            json.dumps(messages, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise OptionError(
                "a message is not text: it holds half a surrogate pair",
                hint="Decode it with the encoding that it was written in",
            ) from None
        raise CheckpointError(
            f"the chat template of {name} writes half a surrogate pair at character {error.start}",
            hint="Use another template, or give the prompt as plain text",
        ) from None
    return text
