"""Workloads: prompts that ship with the package, and JSON lines of the user's prompts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider.core.errors import OptionError, nearest
from outrider.inputs.lines import numbered_lines

WORKLOADS: dict[str, str] = {
    "stories": "beginnings of tales and novels to continue",
    "dialogue": "small talk, one to three user turns",
    "qa": "questions on a passage, word problems, sums",
    "copy": "texts to repeat, whole or with one word replaced",
}
"""Workloads that ship with the package, 32 held-out prompts each, with descriptions."""

FIELDS = ("prompt", "text", "messages", "turns")
"""Fields of a JSON line that may hold its prompt. Of `turns` (Spec-Bench, MT-Bench) the first is
read.
"""

_SHIPPED = Path(__file__).with_name("prompts.jsonl")
_EXPECTED = 'Expected one of {"prompt": ...}, {"text": ...}, {"messages": [...]}, {"turns": [...]}'

Prompt = str | list[dict[str, str]]
"""Text to continue, or chat messages to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One prompt of one workload; `id` is unique in a run."""

    workload: str
    id: str
    prompt: Prompt


def read_workloads(names: Sequence[str], limit: int | None = None) -> list[Task]:
    """Read the first `limit` prompts of each workload.

    Args:
        names: names in `WORKLOADS`, or files of JSON lines (`.jsonl`, `.jsonl.zst`). Lines with a
            `category` or `workload` are grouped by it; any other file is one workload with the name
            of the file.
        limit: number of prompts of each workload; None reads all.

    Raises:
        OptionError: a name is unknown, a file or line cannot be read, or there is no prompt.
        MissingExtraError: a compressed file without the `zstandard` package.
    """
    found: dict[str, list[Task]] = {}
    for name in dict.fromkeys(names):
        for task in _tasks(name):
            found.setdefault(task.workload, []).append(task)
    tasks = [task for group in found.values() for task in group[:limit]]
    if not tasks:
        raise OptionError("no workload is given", hint=f"Known: {', '.join(WORKLOADS)}, or a file")
    return tasks


def as_chat(prompt: Prompt) -> list[dict[str, str]]:
    """Return a chat; a text is the message of its user."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _tasks(name: str) -> list[Task]:
    if name in WORKLOADS:
        return [t for t in _file_tasks(_SHIPPED) if t.workload == name]
    file = Path(name).expanduser()
    if not file.is_file():
        if file.suffix in (".jsonl", ".zst") or file.exists():
            raise OptionError(f"there is no file of prompts at {name}", hint="Check the path")
        raise OptionError(
            f"unknown workload {name!r}",
            hint=f"{nearest(name, WORKLOADS)}; a file is also accepted",
        )
    return _file_tasks(file)


def _file_tasks(file: Path) -> list[Task]:
    default = file.name.removesuffix(".zst").removesuffix(".jsonl")
    tasks = [
        _task(line, f"{file.name} line {number}", default, number)
        for number, line in numbered_lines(file, hint="Give JSON lines", extra="bench")
    ]
    if not tasks:
        raise OptionError(f"{file} holds no prompt", hint="Give one JSON object per line")
    return tasks


def _task(line: str, where: str, default: str, number: int) -> Task:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise OptionError(f"{where} is not JSON: {line.strip()!r:.60}", hint=_EXPECTED) from None
    field = next((f for f in FIELDS if isinstance(record, dict) and f in record), None)
    if field is None:
        raise OptionError(f"{where} holds no prompt: {line.strip()!r:.60}", hint=_EXPECTED)
    prompt = record[field]
    if field == "turns" and isinstance(prompt, list):
        prompt = _first_turn(prompt)
    if not _is_prompt(prompt):
        raise OptionError(f"{where}: {field!r} is {record[field]!r:.60}", hint=_EXPECTED)
    workload = str(record.get("workload") or record.get("category") or default)
    name = record.get("question_id", record.get("id", number))
    return Task(workload=workload, id=f"{workload}/{name}", prompt=prompt)


def _first_turn(turns: list[Any]) -> Any:
    """Return a chat of the first turn only: later turns depend on answers that do not exist yet."""
    first = turns[0] if turns else None
    return as_chat(first) if isinstance(first, str) else first


def _is_prompt(prompt: Any) -> bool:
    if isinstance(prompt, list):
        return bool(prompt) and all(
            isinstance(part, dict)
            and isinstance(part.get("role"), str)
            and isinstance(part.get("content"), str)
            for part in prompt
        )
    return isinstance(prompt, str) and bool(prompt.strip())
