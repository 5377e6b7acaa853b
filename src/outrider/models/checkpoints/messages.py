"""Chat messages and templates: fits messages to the form of content that a template reads.

Content is a text or a list of parts. A part is `{"type": "text", "text": ...}` or `{"type":
"image"}`, as in `transformers`. Templates differ: some print a list as Python does, others iterate
over the characters of a text. A probe finds out what a template reads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outrider.core.errors import CheckpointError, OptionError
from outrider.core.types import Message
from outrider.core.values import JsonValue

Render = Callable[[list[dict[str, JsonValue]]], str]
"""Renders messages with a template; it may raise any exception."""

_PROBE = "outrider-probe"

_OTHERS = ("image_url", "input_image", "video", "video_url", "audio", "input_audio")
"""Part types of other chat formats. Templates ignore unknown parts without an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """The forms of message content that a chat template reads."""

    texts: bool
    parts: bool

    @classmethod
    def of(cls, render: Render) -> "Reads":
        """Probe a template for the forms that it reads."""
        return cls(
            texts=_matches(render, _PROBE),
            parts=_matches(render, [{"type": "text", "text": _PROBE}]),
        )

    def fit(self, messages: Sequence[Message], mark: str = "") -> list[dict[str, JsonValue]]:
        """Convert messages to a form that the template reads.

        Args:
            messages: the messages.
            mark: replaces an image if the template reads only texts.
        """
        return [self._fit(message, mark) for message in messages]

    def _fit(self, message: Message, mark: str) -> dict[str, JsonValue]:
        content = message.get("content")
        if (parts := _parts(content)) is not None:
            if self.texts and not self.parts:
                content = "".join(mark if is_image(p) else p.get("text", "") for p in parts)
        elif content and self.parts and not self.texts:
            content = [{"type": "text", "text": content}]
        return {**message, "content": content}


def _matches(render: Render, content: Any) -> bool:
    try:
        text = render([{"role": "user", "content": content}])
    except CheckpointError:  # it exceeds a limit, which takes time, so it is not tried again
        raise
    except Exception:  # templates may raise any exception
        return False
    return _PROBE in text and "'type'" not in text and '"type"' not in text


def is_image(part: JsonValue) -> bool:
    """Whether a part of a message is an image."""
    return isinstance(part, Mapping) and part.get("type") == "image"


def check_parts(messages: Sequence[Message]) -> None:
    """Raise `OptionError` for parts that would be lost: other media, and empty text parts."""
    for message in messages:
        for part in _parts(message.get("content")) or ():
            kind = part.get("type") if isinstance(part, Mapping) else None
            no_text = kind == "text" and not isinstance(part.get("text"), str)
            if not isinstance(part, Mapping) or kind in _OTHERS or no_text:
                raise OptionError(
                    f"a message has the part {part!r:.60}",
                    hint='Give {"type": "text", "text": ...} or {"type": "image", "image": ...}',
                )


def images_in(messages: Sequence[Message]) -> Iterator[Message]:
    """Yield the image parts of all messages, in order."""
    for message in messages:
        yield from filter(is_image, _parts(message.get("content")) or ())


def without_images(messages: Sequence[Message]) -> list[dict[str, JsonValue]]:
    """Return messages without image parts. A list of parts stays a list."""
    found = []
    for message in messages:
        content = message.get("content")
        if (parts := _parts(content)) is not None:
            content = [part for part in parts if not is_image(part)]
        found.append({**message, "content": content})
    return found


def spoken_text(messages: Sequence[Message]) -> str:
    """Join all texts of the messages, for models without a template."""
    texts: list[str] = []
    for message in messages:
        content = message.get("content")
        if (parts := _parts(content)) is not None:
            texts += [part.get("text", "") for part in parts if not is_image(part)]
        elif content:
            texts.append(content)
    return "\n".join(texts)


def _parts(content: Any) -> Sequence[Any] | None:
    """Return the parts if the content is a list, else None."""
    return content if isinstance(content, Sequence) and not isinstance(content, str) else None
