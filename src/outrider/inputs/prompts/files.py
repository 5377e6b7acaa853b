"""Reads files of prompts: JSON lines with a `prompt`, or plain lines of text."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from outrider.core.errors import OptionError
from outrider.inputs.lines import numbered_lines

Prompt = str | list[dict[str, str]]
"""Text to continue, or chat messages to answer."""


def read_prompts(file: Path, limit: int | None = None) -> list[Prompt]:
    """Read the first `limit` prompts of `file`.

    A .jsonl file holds one JSON object per line, with text or chat messages under `prompt`; any
    other file holds one text per line. Empty lines are skipped.

    Raises:
        OptionError: the file cannot be read, a line is not a prompt, or the file holds none.
    """
    lines = [line.rstrip("\n") for _, line in islice(numbered_lines(file), limit)]
    if not lines:
        raise OptionError(f"{file} holds no prompt", hint="Give one prompt per line")
    if file.suffix != ".jsonl":
        return list(lines)
    return [_prompt(line, file, number) for number, line in enumerate(lines, start=1)]


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
