"""From the body of a request to the prompts that the engine reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from outrider.core.errors import OutriderError
from outrider.core.types import Prompt
from outrider.guidance.recipe import Recipe
from outrider.inputs.given import GivenPrompt
from outrider.inputs.images.messages import is_chat
from outrider.inputs.prompts.reading import read_prompt
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.server.errors import from_outrider, invalid, unsupported
from outrider.server.prompts.conversation import (
    Messages,
    has_images,
    plain_text,
    template_messages,
    with_text,
    with_text_arguments,
)
from outrider.server.prompts.documents import Document, documents_of, prompt_with_documents
from outrider.server.schema.chat import ChatBody, ChatMessage, Tool
from outrider.server.schema.completions import CompletionBody
from outrider.server.tools.showing import described, with_default_text

HINTS = ("reasoning_effort", "verbosity")
"""Fields that only some chat templates know."""

_END_OF_MESSAGE = "\u2063outrider\u2063"
"""Marks the end of the last message, where its continuation begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What is rendered: messages, and how.

    Attributes:
        messages: the messages.
        tools: the functions that may be called.
        documents: texts that the answer refers to.
        values: other variables of the template.
        open: whether the template begins an answer.
        continued: the last message is continued.
        opening_tokens: the tokenizer adds its opening tokens (such as BOS) once more.
        contrast: the other prompt of guidance: messages, or the text of the last one; None: what
            the guidance of the model derives.
    """

    messages: Sequence[ChatMessage]
    tools: Sequence[Tool] = ()
    documents: Sequence[Document] = ()
    values: dict[str, Any] | None = None
    open: bool = True
    continued: bool = False
    opening_tokens: bool = False
    contrast: str | Sequence[ChatMessage] | None = None

    @property
    def shows_images(self) -> bool:
        """Whether a message has an image, which need not have been read."""
        contents = (message.content for message in self.messages)
        return any(
            part.type == "image_url"
            for content in contents
            if isinstance(content, list)
            for part in content
        )


def conversation_of(body: ChatBody, tokenizer: Tokenizer) -> Conversation:
    """Return what a chat request asks to render."""
    return Conversation(
        messages=body.messages,
        tools=body.tools or (),
        documents=documents_of(body.documents),
        values=template_values(body, tokenizer),
        open=_opens(body.add_generation_prompt, body.continue_final_message),
        continued=bool(body.continue_final_message),
        opening_tokens=bool(body.add_special_tokens),
        contrast=body.contrast,
    )


def template_values(body: ChatBody, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the variables of the template: those given, and fields of OpenAI that it knows."""
    hints = {name: getattr(body, name) for name in HINTS}
    return known_values(hints, tokenizer) | (body.chat_template_kwargs or {})


def known_values(hints: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the hints that are given and that the chat template knows."""
    source = str(tokenizer.tokenizer.chat_template or "")
    return {name: v for name, v in hints.items() if v is not None and name in source}


def chat_prompt(
    asked: Conversation,
    tokenizer: Tokenizer,
    param: str = "messages",
    *,
    chunk_size: int | None = None,
    guidance: Recipe | None = None,
) -> Prompt:
    """Return the prompt of a conversation.

    Args:
        asked: the conversation.
        tokenizer: the tokenizer of the target.
        param: the field that holds the messages, for errors.
        chunk_size: tokens of a chunk of documents, if the models read a selection of these; None:
            documents are read only if the chat template shows them.
        guidance: how the model is guided, for the other prompt of each conversation; None: it is
            not, or that prompt is not needed.

    Raises:
        ApiError: messages that cannot be rendered, or documents that cannot be read.
    """
    messages = template_messages(asked.messages)
    prompt = _prompt_of(asked, messages, tokenizer, param, chunk_size)
    other = _other(asked, messages, guidance)
    if other is None:
        return prompt
    if is_chat(other):
        told = [dict(message) for message in other]
        twin = _prompt_of(asked, told, tokenizer, "contrast", chunk_size)
    else:
        twin = read_prompt(other, tokenizer)
    return replace(prompt, contrast=twin)


def _other(asked: Conversation, messages: Messages, guidance: Recipe | None) -> GivenPrompt | None:
    """Return the other prompt of guidance: the one that is given, or else a derived one."""
    if isinstance(asked.contrast, str):
        return [*messages[:-1], with_text(messages[-1], asked.contrast)]
    if asked.contrast is not None:
        return template_messages(asked.contrast, "contrast")
    return None if guidance is None else guidance.contrast(messages)


def _prompt_of(
    asked: Conversation,
    messages: Messages,
    tokenizer: Tokenizer,
    param: str,
    chunk_size: int | None,
) -> Prompt:
    try:
        if has_images(messages):
            return _with_images(asked, messages, tokenizer)
        if asked.documents and not tokenizer.reads_documents:
            return _long(asked, messages, tokenizer, chunk_size)
        text = chat_text(asked, messages, tokenizer)
        ids = tokenizer.encode_chat(text)
    except OutriderError as error:
        raise from_outrider(error, param) from None
    if asked.opening_tokens:
        ids = (*tokenizer.opening_ids, *ids)
    return Prompt(token_ids=_some(ids, param))


def chat_text(asked: Conversation, messages: Messages, tokenizer: Tokenizer) -> str:
    """Render a conversation; the end of a continued message is the end of the text."""
    tools = described(asked.tools)
    if tools and not tokenizer.reads_tools:
        messages, tools = with_default_text(messages, tools), []
    if any("tool_calls" in message for message in messages) and not tokenizer.reads_objects:
        messages = with_text_arguments(messages)
    variables: dict[str, Any] = {"tools": tools or None, "values": asked.values}
    if asked.documents and tokenizer.reads_documents:
        variables["documents"] = asked.documents
    if not asked.continued:
        return tokenizer.chat_text(messages, add_generation_prompt=asked.open, **variables)
    last = messages[-1]
    if last["role"] != "assistant" or not isinstance(last["content"], str):
        raise invalid("the last message is continued, and it is no answer", "messages")
    marked = [*messages[:-1], {**last, "content": last["content"] + _END_OF_MESSAGE}]
    text = tokenizer.chat_text(marked, add_generation_prompt=False, **variables)
    before, mark, _ = text.rpartition(_END_OF_MESSAGE)
    if not mark:
        raise invalid("the chat template does not show the last message as it is", "messages")
    return before


def completion_prompt(
    given: str | Sequence[int],
    body: CompletionBody,
    tokenizer: Tokenizer,
    guidance: Recipe | None = None,
) -> Prompt:
    """Return one prompt of a text completion, with the other one that guidance reads."""
    prompt = _completed(given, body, tokenizer, "prompt")
    other: GivenPrompt | None = body.contrast
    if other is None and guidance is not None:
        other = guidance.contrast(given)
    if other is None:
        return prompt
    if isinstance(other, str):
        return replace(prompt, contrast=_completed(other, body, tokenizer, "contrast"))
    return replace(prompt, contrast=read_prompt(other, tokenizer))


def _completed(
    given: str | Sequence[int], body: CompletionBody, tokenizer: Tokenizer, param: str
) -> Prompt:
    if not isinstance(given, str):
        return Prompt(token_ids=tuple(given))
    try:
        special = body.add_special_tokens is not False
        ids = tokenizer.encode(given) if special else tokenizer.encode_plain(given)
    except OutriderError as error:
        raise from_outrider(error, param) from None
    return Prompt(token_ids=_some(ids, param))


def prediction_ids(body: ChatBody, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the tokens of the text that the answer is expected to resemble."""
    if body.prediction is None:
        return ()
    return tokenizer.encode_plain(plain_text(body.prediction.content))


def _long(
    asked: Conversation, messages: Messages, tokenizer: Tokenizer, chunk_size: int | None
) -> Prompt:
    """Return a prompt with documents that the chat template does not show."""
    if chunk_size is None:
        reason = "the chat template shows none, and the models read no selection of long inputs"
        hint = "Start the server with --keep-ratio or --context-budget, or send them in a message"
        raise unsupported("documents", f"{reason}. {hint}")
    if asked.continued or not asked.open:
        raise invalid("documents are read for a new answer only", "documents")
    return prompt_with_documents(
        asked.documents,
        messages,
        lambda rendered: chat_text(asked, [dict(one) for one in rendered], tokenizer),
        tokenizer,
        chunk_size,
    )


def _with_images(asked: Conversation, messages: Messages, tokenizer: Tokenizer) -> Prompt:
    """Return a prompt with images; the model renders it when it reads it."""
    given = {
        "continue_final_message": asked.continued,
        "add_generation_prompt": not asked.open,
        "chat_template_kwargs": bool(asked.values),
        "documents": bool(asked.documents),
    }
    for name, used in given.items():
        if used:
            raise invalid(f"{name} is given together with images, which is not supported", name)
    if tools := described(asked.tools):
        messages = with_default_text(messages, tools)
    return read_prompt(messages, tokenizer)


def _opens(given: bool | None, continued: bool | None) -> bool:
    """Whether an answer begins at the end. Raises `ApiError` if the last message goes on too."""
    if continued and given:
        raise invalid(
            "continue_final_message and add_generation_prompt are both true. Give one of them",
            "continue_final_message",
        )
    return not continued if given is None else given


def _some(ids: tuple[int, ...], param: str) -> tuple[int, ...]:
    if not ids:
        raise invalid(f"{param} holds no tokens. Give some text", param)
    return ids
