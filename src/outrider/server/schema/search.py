"""Requests of `/v1/search`."""

from typing import Annotated

from pydantic import Field

from outrider.server.schema.base import Body, Whole
from outrider.server.schema.chat import ChatMessage
from outrider.server.schema.sampling import Penalty, Stop, Token


class SearchBody(Body):
    """The body of a search: a strategy, and a text or messages."""

    model: str
    search: Annotated[str, Field(min_length=1, max_length=1000)]
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    contrast: (
        Annotated[str, Field(min_length=1)] | Annotated[list[ChatMessage], Field(min_length=1)]
    ) | None = None
    scorer: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    n: Annotated[Whole, Field(ge=1)] | None = None
    max_tokens: Annotated[Whole, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, lt=2**31)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=1e-3, le=1e3)] | None = None
    stop_token_ids: list[Token] | None = None
    ignore_eos: bool | None = None
    seed: Annotated[Whole, Field(ge=0, lt=2**48)] | None = None
    budget_tokens: Annotated[Whole, Field(ge=1, lt=2**31)] | None = None
    budget_seconds: Annotated[float, Field(gt=0, le=1e6)] | None = None
    user: str | None = None
    stop: Stop | list[Stop] | None = None
    stream: bool | None = None
