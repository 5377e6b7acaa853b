"""Requests of `/v1/messages` and `/v1/messages/count_tokens`, in the interface of Anthropic."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from outrider.server.errors import unsupported
from outrider.server.schema.base import Body, Known, Whole
from outrider.server.schema.constraints import OutputFormat
from outrider.server.schema.sampling import SamplingBody

CacheControl = dict[str, Any]
"""A hint: prompts that begin alike are read once in any case."""


class Source(Known):
    """Where an image is: in the request, or at an address."""

    type: Literal["base64", "url"]
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class Shown(Known):
    """A text or an image."""

    type: Literal["text", "image"]
    text: str | None = None
    source: Source | None = None
    cache_control: CacheControl | None = None


class Block(Known):
    """A part of a message: text, an image, reasoning, a call, or what a call returned."""

    type: Literal["text", "image", "thinking", "redacted_thinking", "tool_use", "tool_result"]
    text: str | None = None
    source: Source | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Shown] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class Turn(Known):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class ClientTool(Known):
    """A function that may be called; the client runs it."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class ToolChoice(Known):
    """Whether functions are called."""

    type: Literal["auto", "none", "any", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Known):
    """Whether the model reasons before it answers."""

    type: Literal["enabled", "disabled", "adaptive"]


class OutputConfig(Known):
    """How much the model thinks, and the form of the text."""

    effort: str | None = None
    format: OutputFormat | None = None


class CountBody(Body):
    """The body of a request to count the tokens of a conversation."""

    refused: ClassVar[Mapping[str, str]] = {
        "mcp_servers": "the server calls no other servers",
        "container": "the server runs no code",
        "context_management": "the server edits no conversations",
    }

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: str | list[Block] | None = None
    tools: list[ClientTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    cache_control: CacheControl | None = None

    @property
    def choice(self) -> str | dict[str, Any]:
        """Which functions are called, as in requests of chats."""
        given = self.tool_choice
        if given is None or given.type in ("auto", "none"):
            return "auto" if given is None else given.type
        return "required" if given.type == "any" else {"type": "function", "name": given.name}

    @property
    def parallel(self) -> bool:
        """Whether several calls may be written."""
        return self.tool_choice is None or not self.tool_choice.disable_parallel_tool_use

    def check_supported(self) -> None:
        """Raise `ApiError` for fields that are not supported in this form."""
        for tool in self.tools or ():
            if tool.type not in (None, "custom"):
                reason = f"{tool.type!r:.40} does not run here; describe functions of your own"
                raise unsupported("tools", reason)


class MessagesBody(CountBody, SamplingBody):
    """The body of a message request."""

    refused: ClassVar[Mapping[str, str]] = {
        **SamplingBody.refused,
        **CountBody.refused,
        "response_format": "give output_config.format",
        "max_completion_tokens": "give max_tokens",
    }
    elsewhere: ClassVar[tuple[str, ...]] = (
        *("n", "stop", "stream_options", "user", "safety_identifier", "return_token_ids"),
        *("return_sources", "prompt_logprobs", "include_stop_str_in_output", "add_special_tokens"),
    )

    max_tokens: Annotated[Whole, Field(ge=1, lt=2**31)]  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    stop_sequences: Annotated[list[str], Field(max_length=16)] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [one for one in self.stop_sequences or () if one]

    def check_supported(self) -> None:
        """Raise `ApiError` for fields that are not supported in this form."""
        for name in self.elsewhere:
            if getattr(self, name) is not None:
                raise unsupported(name, "it belongs to /v1/chat/completions")
        super().check_supported()
