"""Schemas with instances, in the form of MaskBench or of the test suite of JSON Schema."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from outrider.core.errors import OptionError
from outrider.core.values import JsonValue
from outrider.inputs.lines import numbered_lines

_ENDINGS = (".jsonl", ".jsonl.zst", ".jsonl.gz")

_DRAFTS = {
    f"draft{number}": f"http://json-schema.org/draft-0{number}/schema#" for number in (4, 6, 7)
}
"""Files of the test suite of JSON Schema whose schemas do not name their draft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A schema with instances.

    Attributes:
        split: the name of its file; tests of a suite that are optional have a split of their own.
        id: its name, unique in the split.
        schema: as JSON.
        instances: texts of JSON, each with whether it is valid, or None where that is not known.
    """

    split: str
    id: str
    schema: str
    instances: tuple[tuple[str, bool | None], ...]

    @property
    def key(self) -> tuple[str, str]:
        """What identifies it."""
        return self.split, self.id


def read_cases(folder: Path, splits: Sequence[str] = ()) -> list[Case]:
    """Read the files of JSON lines in a folder.

    A line has `schema`, `tests` (a list of `data`, and `valid` where it is known), and `id`; lines
    of the test suite of JSON Schema have `file` and `description` instead. Files with lines of
    another form are left out. A schema of draft4.jsonl, draft6.jsonl or draft7.jsonl that does not
    name its draft is read as one of that draft: `$schema` is added.

    Args:
        folder: with files `SPLIT.jsonl`, `SPLIT.jsonl.zst` or `SPLIT.jsonl.gz`.
        splits: the files to read; empty: all.

    Raises:
        OptionError: there is no such file, or a line is damaged.
    """
    if not folder.is_dir():
        raise OptionError(f"there is no folder {folder}", hint="Give a folder of JSON lines")
    files = {file.name.split(".jsonl")[0]: file for file in sorted(folder.iterdir()) if _fits(file)}
    if missing := [split for split in splits if split not in files]:
        raise OptionError(
            f"there is no {missing[0]}.jsonl in {folder}", hint=f"Known: {', '.join(files)}"
        )
    found = [case for name in splits or files for case in _cases(name, files[name])]
    if not found:
        raise OptionError(
            f"{folder} has no schemas", hint='Lines have the form {"schema": ..., "tests": [...]}'
        )
    return found


def sampled(cases: Sequence[Case], count: int | None, seed: int) -> list[Case]:
    """Return `count` cases drawn without replacement, in their order; all for None."""
    if count is None or count >= len(cases):
        return list(cases)
    chosen = sorted(random.Random(seed).sample(range(len(cases)), count))
    return [cases[index] for index in chosen]


def _fits(file: Path) -> bool:
    return file.name.endswith(_ENDINGS)


def _cases(split: str, file: Path) -> Iterator[Case]:
    seen: dict[tuple[str, str], int] = {}
    for number, line in numbered_lines(file, extra="bench"):
        try:
            given = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise OptionError(f"line {number} of {file} is no JSON: {error}") from None
        if not isinstance(given, dict) or "schema" not in given or "tests" not in given:
            continue
        where = str(given.get("file", ""))
        own = f"{split} optional" if where.startswith("optional") else split
        name = str(given.get("id") or f"{where}: {given.get('description', number)}")
        again = seen[own, name] = seen.get((own, name), 0) + 1
        yield Case(
            split=own,
            id=name if again == 1 else f"{name} ({again})",
            schema=json.dumps(_with_draft(given["schema"], split), ensure_ascii=False),
            instances=tuple((text_of(each["data"]), each.get("valid")) for each in given["tests"]),
        )


def _with_draft(schema: JsonValue, split: str) -> JsonValue:
    """Return a schema that names its draft, where the name of the file tells it."""
    if split in _DRAFTS and isinstance(schema, dict) and "$schema" not in schema:
        return {"$schema": _DRAFTS[split], **schema}
    return schema


def text_of(value: JsonValue) -> str:
    """Return a value as JSON, with one space after separators."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() or _encodable(text) else json.dumps(value)


def _encodable(text: str) -> bool:
    """Whether there is no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
