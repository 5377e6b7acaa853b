"""Files of prompts: JSON lines with a `prompt`, or plain lines of text."""

import json
from pathlib import Path
from typing import Any

from outrider.core.errors import OptionError

Prompt = str | list[dict[str, str]]
"""Text to go on from, or chat messages to answer."""


def read_prompts(file: Path, limit: int | None = None) -> list[Prompt]:
    """The first `limit` prompts of `file`.

    A name that ends in .jsonl holds one JSON object a line, with text or chat messages under
    `prompt`; any other file holds one text a line. Empty lines do not count.

    Raises:
        OptionError: the file can not be read, a line is not a prompt, or there is none.
    """
    lines = [line for line in _text(file).splitlines() if line.strip()][:limit]
    if not lines:
        raise OptionError(f"{file} holds no prompt", hint="Give one prompt a line")
    if file.suffix != ".jsonl":
        return list(lines)
    return [_prompt(line, file, number) for number, line in enumerate(lines, start=1)]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise OptionError(f"{file} can not be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OptionError(f"{file} is not text in UTF-8") from None


def _prompt(line: str, file: Path, number: int) -> Prompt:
    try:
        record: Any = json.loads(line)
    except ValueError:
        record = None
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if prompt and (isinstance(prompt, str) or _are_messages(prompt)):
        return prompt
    raise OptionError(
        f"prompt {number} of {file} is {line!r:.60}",
        hint='Expected {"prompt": "..."}, or chat messages in place of the text',
    )


def _are_messages(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(
        isinstance(part, dict) and isinstance(part.get("content"), str) for part in prompt
    )
