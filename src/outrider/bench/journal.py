"""Stores measurements on disk, so that an interrupted run continues where it stopped.

The folder holds `settings.json` (the settings, with the fingerprints of the models) and
`runs.jsonl` (a line for each finished text, and lines of other kinds).
"""

import json
from pathlib import Path
from typing import Any

from outrider.bench.measure import Run
from outrider.bench.settings import changes
from outrider.core.errors import OptionError, writing

SETTINGS, RUNS = "settings.json", "runs.jsonl"


class Journal:
    """Runs by key, in memory and, with a folder, on disk.

    Raises:
        OptionError: the folder holds a run with other settings, or is not a folder.
    """

    def __init__(self, settings: dict[str, Any], folder: Path | None = None) -> None:
        self.folder = folder
        self.runs: dict[tuple[str, str, int], Run] = {}
        self.facts: dict[str, Any] = {}
        if folder is not None:
            self._open(folder, json.loads(json.dumps(settings, default=str)))

    def add(self, run: Run) -> None:
        """Store a finished run."""
        self.runs[run.key] = run
        self._write({"kind": "run", **run.to_dict()})

    def note(self, name: str, value: Any) -> None:
        """Store a measurement that is not a run, such as the bandwidth."""
        self.facts[name] = value
        self._write({"kind": "fact", "name": name, "value": value})

    def _write(self, line: dict[str, Any]) -> None:
        if self.folder is not None:
            path = self.folder / RUNS
            with writing(path), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _open(self, folder: Path, settings: dict[str, Any]) -> None:
        if folder.exists() and not folder.is_dir():
            raise OptionError(f"{folder} is a file", hint="Give a folder for the runs")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if (file := folder / SETTINGS).exists():
            try:
                self._resume(folder, settings)
            except OSError as error:
                raise OptionError(f"{folder} cannot be used: {error.strerror}") from None
        else:
            with writing(file):
                file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def _resume(self, folder: Path, settings: dict[str, Any]) -> None:
        try:
            old = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        except ValueError:
            raise OptionError(
                f"{folder / SETTINGS} is damaged", hint="Use another folder"
            ) from None
        differing = changes(old, settings)
        if differing:
            raise OptionError(
                f"{folder} holds a run with other settings ({'; '.join(differing[:3])})",
                hint="Give the same settings to continue it, or another folder",
            )
        if (folder / RUNS).exists():
            self._read(folder / RUNS)

    def _read(self, file: Path) -> None:
        """Read complete lines; truncate a line that was cut off when the run stopped."""
        whole = 0
        for line in file.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError):
                raise OptionError(
                    f"{file} is damaged at byte {whole}", hint="Use another folder"
                ) from None
            whole += len(line)
        with file.open("r+b") as rest:
            rest.truncate(whole)

    def _take(self, line: dict[str, Any]) -> None:
        if line.pop("kind") == "run":
            run = Run(**line)
            self.runs[run.key] = run
        else:
            self.facts[line["name"]] = line["value"]
