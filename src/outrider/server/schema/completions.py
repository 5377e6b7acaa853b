"""Requests of `/v1/completions`, `/tokenize` and `/detokenize`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from outrider.server.schema.base import Body, Whole
from outrider.server.schema.chat import ChatMessage, Tool
from outrider.server.schema.constraints import ResponseFormat
from outrider.server.schema.sampling import SamplingBody, Token

Ids = Annotated[list[Token], Field(min_length=1)]


class CompletionBody(SamplingBody):
    """The body of a text completion."""

    refused: ClassVar[Mapping[str, str]] = {
        **SamplingBody.refused,
        "suffix": "the model was not trained to fill gaps",
    }

    prompt: (
        str
        | Ids
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[Ids], Field(min_length=1)]
    )
    contrast: Annotated[str, Field(min_length=1)] | Ids | None = None
    response_format: ResponseFormat | None = None
    best_of: Annotated[Whole, Field(ge=1, le=1)] | None = None
    echo: bool | None = None
    logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None

    @property
    def limit(self) -> int | None:
        """Most tokens of an answer; 16 by default, as in the interface of OpenAI."""
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def top(self) -> int | None:
        """How many log-probabilities each token has besides its own; None: none at all."""
        return self.logprobs

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # pyright: ignore[reportReturnType]
        return self.prompt  # pyright: ignore[reportReturnType]


class TokenizeBody(Body):
    """The body of `/tokenize`: a text, or messages."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None
    with_pieces: bool | None = None


class DetokenizeBody(Body):
    """The body of `/detokenize`."""

    model: str | None = None
    tokens: list[Token]
