"""Adds an opinion of the user to a question, or removes it (LQCD, arXiv 2408.11261)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from outrider.core.types import Message
from outrider.inputs.given import GivenPrompt
from outrider.inputs.images.messages import is_chat

_SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?]+[\"')\]]*|\n|$)\s*")
_OPINION = re.compile(
    r"\s*(?:but |and |well, )?(?:"
    r"(?:i|we)(?: (?:really|already|also|personally|just))? "
    r"(?:think|thought|believe|feel|guess|suppose|bet|doubt|assume|suspect|know|hope|expect"
    r"|do(?: not|n.t) (?:think|believe)|have an opinion)\b"
    r"|i(?: a|['’])m (?:(?:quite|pretty|very|almost|fairly|absolutely) )?"
    r"(?:sure|certain|convinced|confident|positive)\b"
    r"|(?:in my opinion|to me|as far as i know|if you ask me)\b"
    r"|it (?:seems|looks|appears)\b|(?:surely|obviously|clearly|of course|certainly)\b"
    r"|(?:do|would)n['’]?t you (?:think|agree|say)\b|am i right|right\?|isn['’]?t it\?"
    r"|(?:everyone|everybody) (?:knows|says|thinks)\b)",
    re.IGNORECASE,
)
_TAG = re.compile(
    r",\s*(?:right|isn['’]?t (?:it|he|she|there)|aren['’]?t (?:they|there|you)"
    r"|(?:do|would)n['’]?t you (?:think|agree|say)|wouldn['’]?t it|correct)\s*\?(?=\s*$)",
    re.IGNORECASE,
)


def with_cue(prompt: GivenPrompt, cue: str) -> GivenPrompt | None:
    """Return a prompt whose last user message, or whose text, ends with an opinion.

    None for tokens, and for messages without a text of the user.
    """
    if isinstance(prompt, str):
        return _joined(prompt, cue)
    return _changed(prompt, lambda text: _joined(text, cue))


def neutralised(prompt: GivenPrompt) -> GivenPrompt | None:
    """Return a prompt without the sentences of its last user message, or of its text, that say what
    the user believes, such as `I think it is red.`; a tag such as `, right?` becomes `?`.

    Rules find common English forms only; the paper asks a language model. None if nothing was
    found, if nothing would be left, and for tokens.
    """
    if isinstance(prompt, str):
        found = _neutral(prompt)
        return None if found == prompt else found
    return _changed(prompt, _neutral)


def _changed(prompt: GivenPrompt, change: Callable[[str], str]) -> GivenPrompt | None:
    """Return messages with another last text of the user; None if it stays the same."""
    if not is_chat(prompt):
        return None
    messages = list(cast("Sequence[Message]", prompt))
    asked = [i for i, message in enumerate(messages) if message.get("role") == "user"]
    if not asked:
        return None
    last = messages[asked[-1]]
    messages[asked[-1]] = _with_last_text(last, change)
    return None if messages[asked[-1]] == last else messages


def _with_last_text(message: Message, change: Callable[[str], str]) -> Message:
    """Return a message whose last text is changed."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": change(content)}
    if not isinstance(content, Sequence):
        return message
    parts = list(content)
    for place in reversed(range(len(parts))):
        part = parts[place]
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            parts[place] = {**part, "text": change(part["text"])}
            break
    return {**message, "content": parts}


def _joined(text: str, cue: str) -> str:
    body = text.rstrip()
    return f"{body} {cue}{text[len(body) :]}" if body else text


def _neutral(text: str) -> str:
    sentences = [one for one in _SENTENCE.findall(text) if one]
    kept = [_TAG.sub("?", one) for one in sentences if not _OPINION.match(one)]
    if not any(one.strip() for one in kept):
        return text
    ending = text[len(text.rstrip()) :]
    return "".join(kept).rstrip() + ending
