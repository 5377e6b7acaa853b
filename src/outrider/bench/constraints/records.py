"""Files of records: one JSON line for each, written as they are made, read to continue a run."""

import json
from collections.abc import Sequence
from pathlib import Path

from outrider.core.errors import OptionError, writing
from outrider.core.values import JsonValue

Record = dict[str, JsonValue]


class Records:
    """The records of a run, which a file keeps if one is named."""

    def __init__(self, out: Path | None, names: Sequence[str], *, resume: bool = False) -> None:
        """Read the records that the file has, or empty it.

        Args:
            out: a file of JSON lines; None keeps records nowhere.
            names: the fields that identify a record.
            resume: whether the records of the file are kept.

        Raises:
            OptionError: the file cannot be written or read, or is damaged.
        """
        self._out, self._names = out, tuple(names)
        self._known = self._read(out) if out is not None and resume else {}
        if out is not None and not resume:
            with writing(out):
                out.write_text("", encoding="utf-8")

    def find(self, *key: str) -> Record | None:
        """Return the record with these values of `names`; None if there is none."""
        return self._known.get(key)

    def all(self) -> list[Record]:
        """Return the records that the file had, in its order."""
        return list(self._known.values())

    def add(self, record: Record) -> None:
        """Write a record. Raises `OptionError` if the system refuses."""
        if self._out is not None:
            with writing(self._out), self._out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def _read(self, out: Path) -> dict[tuple[str, ...], Record]:
        """Return the records of a file; cut off a last line that is not complete."""
        if not out.exists():
            return {}
        found: dict[tuple[str, ...], Record] = {}
        whole = 0
        try:
            for line in out.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                record = json.loads(line)
                found[tuple(record[name] for name in self._names)] = record
                whole += len(line)
            with out.open("r+b") as rest:
                rest.truncate(whole)
        except (ValueError, TypeError, KeyError):
            raise OptionError(
                f"{out} is damaged at byte {whole}", hint="Use another file"
            ) from None
        except OSError as error:
            raise OptionError(f"{out} cannot be read: {error.strerror}") from None
        return found
