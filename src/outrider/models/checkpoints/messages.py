"""Chat messages whose content is a text or a list of parts, and templates that read one or both.

A part is `{"type": "text", "text": ...}` or `{"type": "image"}`, as in `transformers`. Templates
disagree about what they read: some print a list as Python does, others loop over the letters of a
text. Which is tried with a probe.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outrider.core.errors import OptionError
from outrider.core.types import Message
from outrider.core.values import JsonValue

Render = Callable[[list[dict[str, JsonValue]]], str]
"""What a template makes of messages; it raises what it likes."""

_PROBE = "outrider-probe"

_OTHERS = ("image_url", "input_image", "video", "video_url", "audio", "input_audio")
"""Parts of chats elsewhere. Templates leave out what they do not know, without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What a chat template understands as the content of a message."""

    texts: bool
    parts: bool

    @classmethod
    def of(cls, render: Render) -> "Reads":
        """Try it."""
        return cls(
            texts=_matches(render, _PROBE),
            parts=_matches(render, [{"type": "text", "text": _PROBE}]),
        )

    def fit(self, messages: Sequence[Message], mark: str = "") -> list[dict[str, JsonValue]]:
        """The same messages in a form that the template understands.

        Args:
            messages: what is to be said.
            mark: stands for an image where only texts are understood.
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
    except Exception:  # templates raise what they like
        return False
    return _PROBE in text and "'type'" not in text and '"type"' not in text


def is_image(part: JsonValue) -> bool:
    """Whether a part of a message is an image."""
    return isinstance(part, Mapping) and part.get("type") == "image"


def check_parts(messages: Sequence[Message]) -> None:
    """Raise `OptionError` for parts that would be lost: of other media, and texts without one."""
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
    """The image parts of all messages, in order."""
    for message in messages:
        yield from filter(is_image, _parts(message.get("content")) or ())


def without_images(messages: Sequence[Message]) -> list[dict[str, JsonValue]]:
    """The texts alone. What is left of a list of parts stays a list."""
    found = []
    for message in messages:
        content = message.get("content")
        if (parts := _parts(content)) is not None:
            content = [part for part in parts if not is_image(part)]
        found.append({**message, "content": content})
    return found


def spoken_text(messages: Sequence[Message]) -> str:
    """All texts of the messages, one after the other, where there is no template."""
    texts: list[str] = []
    for message in messages:
        content = message.get("content")
        if (parts := _parts(content)) is not None:
            texts += [part.get("text", "") for part in parts if not is_image(part)]
        elif content:
            texts.append(content)
    return "\n".join(texts)


def _parts(content: Any) -> Sequence[Any] | None:
    """The parts, where it is a list of them."""
    return content if isinstance(content, Sequence) and not isinstance(content, str) else None
