"""Requests of `/v1/chat/completions`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from outrider.server.errors import invalid, unsupported
from outrider.server.schema.base import FUNCTION_NAME, Known, Off, Whole
from outrider.server.schema.constraints import ResponseFormat
from outrider.server.schema.sampling import SamplingBody


class ImageUrl(Known):
    """Where an image is."""

    url: str
    detail: str | None = None


class Part(Known):
    """A part of a message."""

    type: Literal["text", "image_url", "refusal"]
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None


class CalledFunction(Known):
    """What was called: the arguments are JSON in a string."""

    name: str
    arguments: str | dict[str, Any] = ""


class CalledCustom(Known):
    """A custom tool that was called, and its input."""

    name: str
    input: str = ""


class Call(Known):
    """A call in an earlier answer."""

    id: str | None = None
    type: Literal["function", "custom"] = "function"
    function: CalledFunction | None = None
    custom: CalledCustom | None = None

    @property
    def called(self) -> CalledFunction:
        """What was called; the input of a custom tool is shown as an argument. Raises `ApiError`
        if it is missing."""
        if self.function is not None:
            return self.function
        if self.custom is None:
            raise invalid(f"a call has no {self.type}", "messages", "missing_field")
        return CalledFunction(name=self.custom.name, arguments={"input": self.custom.input})


_SOME_CONTENT: dict[str, Any] = {
    "anyOf": [
        {"properties": {"role": {"const": "assistant"}}},
        {"required": ["content"], "properties": {"content": {"type": ["string", "array"]}}},
    ]
}
"""Of the messages, only answers may have no content: they may have calls instead."""


class ChatMessage(Known):
    """One message of the conversation."""

    model_config = ConfigDict(json_schema_extra=_SOME_CONTENT)

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None


class Function(Known):
    """A function that may be called."""

    name: Annotated[str, Field(pattern=FUNCTION_NAME)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class CustomGrammar(Known):
    """A grammar of an input."""

    syntax: Literal["lark", "regex"]
    definition: Annotated[str, Field(min_length=1)]


class CustomFormat(Known):
    """What the input of a custom tool may be: any text, or a text of a grammar."""

    type: Literal["text", "grammar"]
    grammar: CustomGrammar | None = None


class CustomTool(Known):
    """A tool whose input is text."""

    name: Annotated[str, Field(pattern=FUNCTION_NAME)]
    description: str | None = None
    format: CustomFormat | None = None


class Tool(Known):
    """A tool: a function, or one whose input is text."""

    type: str = "function"
    function: Function | None = None
    custom: CustomTool | None = None

    @property
    def name(self) -> str:
        """The name of a tool that `check` has passed."""
        own = self.custom if self.type == "custom" else self.function
        assert own is not None
        return own.name

    def check(self) -> None:
        """Raise `ApiError` if it is neither, both, or incomplete."""
        if self.function is not None and self.custom is not None:
            raise invalid("a tool is a function and a custom tool. Give one of them", "tools")
        if self.type == "function" and self.function is not None:
            return
        if self.type != "custom" or self.custom is None:
            raise unsupported("tools", f"{self.type!r:.40} is not a function or a custom tool")
        form = self.custom.format
        if form is not None and form.type == "grammar" and form.grammar is None:
            raise invalid("the format of a custom tool has no grammar", "tools", "missing_field")


class Prediction(Known):
    """A text that the answer is expected to resemble."""

    type: Literal["content"] = "content"
    content: str | list[Part]


class ChatBody(SamplingBody):
    """The body of a chat request."""

    refused: ClassVar[Mapping[str, str]] = {
        **SamplingBody.refused,
        "audio": "answers are text",
        "functions": "give tools instead",
        "function_call": "give tool_choice instead",
        "web_search_options": "nothing is searched",
        "moderation": "nothing is moderated",
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    max_completion_tokens: Annotated[Whole, Field(ge=1, lt=2**31)] | None = None
    modalities: list[Literal["text"]] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    prediction: Prediction | None = None
    store: Off | None = None

    documents: list[str | dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    contrast: (
        Annotated[str, Field(min_length=1)] | Annotated[list[ChatMessage], Field(min_length=1)]
    ) | None = None

    @property
    def limit(self) -> int | None:
        """Most tokens of an answer; None: what fits."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def top(self) -> int | None:
        """How many log-probabilities each token has besides its own; None: none at all."""
        return (self.top_logprobs or 0) if self.logprobs or self.top_logprobs else None

    def check_supported(self) -> None:
        """Raise `ApiError` for tools that are incomplete, or of another type."""
        for tool in self.tools or ():
            tool.check()
