"""Requests of `/v1/responses`, which holds no state."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from outrider.server.errors import invalid, unsupported
from outrider.server.schema.base import FUNCTION_NAME, Known, Off, Whole
from outrider.server.schema.constraints import TextFormat
from outrider.server.schema.sampling import SamplingBody

_STATELESS = "the server keeps no answers; send the conversation as input"


class InputPart(Known):
    """A part of an input message."""

    type: Literal["input_text", "output_text", "text", "input_image", "refusal"]
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None


class InputItem(Known):
    """A message, a call, or what a call returned."""

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[InputPart] | list[Any] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None
    input: str | None = None
    id: str | None = None
    status: str | None = None
    summary: list[Any] | None = None
    encrypted_content: str | None = None


class InputFormat(Known):
    """What the input of a custom tool may be."""

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class FunctionTool(Known):
    """A function that may be called, or a custom tool, whose input is text."""

    type: str
    name: Annotated[str, Field(pattern=FUNCTION_NAME)] | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: InputFormat | None = None


class TextOptions(Known):
    """Options of the text."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Known):
    """How much the model thinks."""

    effort: str | None = None
    summary: str | None = None


class ResponsesBody(SamplingBody):
    """The body of a response request."""

    refused: ClassVar[Mapping[str, str]] = {
        **SamplingBody.refused,
        "previous_response_id": _STATELESS,
        "conversation": _STATELESS,
        "prompt": "no prompts are stored",
        "response_format": "give text.format",
        "max_completion_tokens": "give max_output_tokens",
    }
    elsewhere: ClassVar[tuple[str, ...]] = (
        *("return_token_ids", "return_sources", "prompt_logprobs", "include_stop_str_in_output"),
        "add_special_tokens",
    )

    input: str | Annotated[list[InputItem], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[Whole, Field(ge=1, lt=2**31)] | None = None
    max_tool_calls: Annotated[Whole, Field(ge=1)] | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    truncation: Literal["disabled"] | None = None
    background: Off | None = None
    store: Off | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def limit(self) -> int | None:
        """Most tokens of an answer; None: what fits."""
        return self.max_output_tokens

    @property
    def top(self) -> int | None:
        """How many log-probabilities each token has besides its own; None: none at all."""
        wanted = self.top_logprobs or "message.output_text.logprobs" in (self.include or ())
        return (self.top_logprobs or 0) if wanted else None

    def check_supported(self) -> None:
        """Raise `ApiError` for fields that are not supported in this form."""
        for name in self.elsewhere:
            if getattr(self, name) is not None:
                raise unsupported(name, "it belongs to /v1/chat/completions")
        if self.n not in (None, 1):
            raise invalid(f"n is {self.n}. Responses have one sample", "n")
        if self.max_tokens is not None:
            raise unsupported("max_tokens", "give max_output_tokens")
        for tool in self.tools or ():
            if tool.type not in ("function", "custom") or tool.name is None:
                raise unsupported(
                    "tools", f"{tool.type!r:.40} is no function or custom tool with a name"
                )
