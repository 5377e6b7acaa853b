"""Golden outputs: what fixed runs of the library and the command line print and return.

`record FILE` runs every case twice and writes what was equal both times, so measured times are left
out by themselves. `compare FILE` runs every case once and names each difference. Record with the
version before a change, compare with the version after it, on the same machine: sums in floating
point depend on the processor.

    python -m scripts.golden record golden.json
    python -m scripts.golden compare golden.json --only generate

Every case uses only public names: `outrider`, `outrider.acceptance`, `outrider.drafters`,
`outrider.policies`, and the command line.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from scripts.golden.calls import STORY, WORK, Case
from scripts.golden.inputs import captions, long_inputs
from scripts.golden.library import library
from scripts.golden.texts import generating, helps, wrong
from scripts.golden.tools import tools

DROPPED = object()
"""Stands for a value that is not the same in two runs."""


GROUPS: tuple[Callable[[], Iterator[tuple[str, Case]]], ...] = (
    helps,
    wrong,
    generating,
    library,
    long_inputs,
    captions,
    tools,
)


def prepare() -> None:
    """The environment and the files that cases read."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    os.environ |= {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    from PIL import Image, ImageDraw

    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "docs").mkdir(parents=True)
    (WORK / "album").mkdir()
    (WORK / "story.txt").write_text(STORY)
    (WORK / "docs/one.md").write_text(f"# Birds\n\n{STORY[:900]}")
    (WORK / "docs/two.html").write_text(f"<html><body><p>{STORY[900:1500]}</p></body></html>")
    (WORK / "docs/three.txt").write_text(STORY[1500:2400])
    colours = ["red", "blue", "green", "yellow"]
    for number in range(16):
        image = Image.new("RGB", (96, 96), "white")
        draw = ImageDraw.Draw(image)
        low = 8 + 2 * number
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape((low, low, low + 30, low + 30), fill=colours[number % 4])
        image.save(WORK / f"album/{number:02}.png")
    shutil.copy(WORK / "album/00.png", WORK / "a.png")
    shutil.copy(WORK / "album/03.png", WORK / "b.png")


def common(one: Any, two: Any) -> Any:
    """What is equal in both; `DROPPED` for the rest."""
    if isinstance(one, dict) and isinstance(two, dict):
        pairs = {key: common(one[key], two[key]) for key in one if key in two}
        return {key: value for key, value in pairs.items() if value is not DROPPED}
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        parts = [common(a, b) for a, b in zip(one, two, strict=True)]
        return (
            parts
            if DROPPED not in parts
            else {str(i): p for i, p in enumerate(parts) if p is not DROPPED}
        )
    return one if one == two else DROPPED


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Where `new` does not have what `old` has."""
    if isinstance(old, dict):
        for key, value in old.items():
            if isinstance(new, list):
                inner = new[int(key)] if int(key) < len(new) else DROPPED
            else:
                inner = new.get(key, DROPPED) if isinstance(new, dict) else DROPPED
            yield from differences(value, inner, f"{path}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, f"{path}/{number}")
    elif old != new:
        yield f"{path}: {str(old)[:150]!r}, now {'nothing' if new is DROPPED else str(new)[:150]!r}"


def cases(only: str | None) -> dict[str, Case]:
    """The cases whose name contains `only`."""
    found = {name: case for group in GROUPS for name, case in group()}
    return {name: case for name, case in found.items() if only is None or only in name}


def plain_data(value: Any) -> Any:
    """The value as JSON would return it."""
    return json.loads(json.dumps(value, default=str))


def run_all(chosen: dict[str, Case], say: bool = True) -> dict[str, Any]:
    """Run cases one after the other."""
    found = {}
    for name, case in chosen.items():
        begun = time.perf_counter()
        torch.manual_seed(0)
        torch.set_num_threads(1)
        found[name] = plain_data(case())
        if say:
            print(f"{time.perf_counter() - begun:7.2f} s  {name}", flush=True)
    return found


def main() -> int:
    """Record or compare; the exit code is 1 where something differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", help="cases whose name contains this")
    options = parser.parse_args()
    prepare()
    chosen = cases(options.only)
    if options.what == "record":
        stable = common(run_all(chosen), run_all(chosen))
        options.file.write_text(json.dumps(stable, indent=1, sort_keys=True))
        print(f"{len(stable)} cases recorded in {options.file}")
        return 0
    old = json.loads(options.file.read_text())
    new = run_all(chosen)
    old = {name: value for name, value in old.items() if options.only is None or name in chosen}
    found = list(differences(old, new))
    print("\n".join(found))
    print(f"{len(old)} cases compared: {len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
