"""Requests of `/v1/chat/completions`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from outrider.server.errors import unsupported
from outrider.server.schema.base import FUNCTION_NAME, Known, Off, Whole
from outrider.server.schema.constraints import ResponseFormat
from outrider.server.schema.sampling import CONSTRAINED, SamplingBody


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


class Call(Known):
    """A call in an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


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


class Tool(Known):
    """A tool: a function."""

    type: str = "function"
    function: Function | None = None


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

    @property
    def limit(self) -> int | None:
        """Most tokens of an answer; None: what fits."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def top(self) -> int | None:
        """How many log-probabilities each token has besides its own; None: none at all."""
        return (self.top_logprobs or 0) if self.logprobs or self.top_logprobs else None

    def check_unconstrained(self) -> None:
        """Raise `ApiError` for fields that constrain the text, which is not implemented yet."""
        if isinstance(self.tool_choice, dict) or self.tool_choice not in (None, "none", "auto"):
            raise unsupported("tool_choice", f"{CONSTRAINED}; give 'auto' or 'none'")
        for tool in self.tools or ():
            if tool.type != "function" or tool.function is None:
                raise unsupported("tools", "only functions can be called")
            if tool.function.strict:
                raise unsupported("tools", f"strict is set, and {CONSTRAINED}")
