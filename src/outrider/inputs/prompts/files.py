"""Reads files of prompts: JSON lines with a `prompt`, or plain lines of text."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from outrider.core.errors import OptionError
from outrider.inputs.lines import DEFAULT, LineLimits, numbered_lines, too_long

Prompt = str | list[dict[str, str]]
"""Text to continue, or chat messages to answer."""


def read_prompts(
    file: Path, limit: int | None = None, *, limits: LineLimits = DEFAULT
) -> list[Prompt]:
    """Read the first `limit` prompts of `file`.

    A .jsonl file holds one JSON object per line, with text or chat messages under `prompt`; any
    other file holds one text per line. Empty lines are skipped.

    Raises:
        OptionError: the file cannot be read, a line is not a prompt, the file holds none, or it
            exceeds a limit.
    """
    lines = list(islice(_lines(file, limits), limit))
    if not lines:
        raise OptionError(f"{file} holds no prompt", hint="Give one prompt per line")
    if file.suffix != ".jsonl":
        return list(lines)
    return [_prompt(line, file, number) for number, line in enumerate(lines, start=1)]


def _lines(file: Path, limits: LineLimits) -> Iterator[str]:
    size = 0
    for _, line in numbered_lines(file, limits=limits):
        size += len(line)
        if size > limits.text_characters:
            raise too_long(str(file), limits)
        yield line.rstrip("\n")


def _prompt(line: str, file: Path, number: int) -> Prompt:
    try:
        record: Any = json.loads(line)
        json.dumps(record, ensure_ascii=False).encode()  # JSON can hold half a surrogate pair
    except (ValueError, RecursionError):
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
