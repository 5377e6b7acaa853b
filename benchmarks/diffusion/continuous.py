"""Continuous speculative decoding: distributions, acceptance, forwards and processor time.

Three parts: single numbers of a known model (`ScalarModel`), images of a model of patches, and
two-sample tests between images. Rows go to a file of JSON lines as they are measured. Each part
stops when its share of `--seconds` is used up.

    outrider train patches configs/patches/tiny.toml --data DIR --out runs/patches
    python -m benchmarks.diffusion.continuous runs/patches/tiny-patches --out runs/continuous

`--images` is the number of images of each set of the two-sample tests, `--timed` the number of
pairs of which processor time is taken (one image at a time, one thread).
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic, process_time

import numpy as np
import torch
from benchmarks.diffusion.two_samples import Vectors, energy, linear, nearest
from benchmarks.long_inputs.intervals import bootstrap, geometric

from outrider.diffusion.continuous.cspd import CSpD, Written
from outrider.diffusion.continuous.drawing import pictures
from outrider.diffusion.continuous.patches.files import load_model
from outrider.diffusion.continuous.patches.model import PatchModel
from outrider.diffusion.continuous.patches.pictures import save_picture, sheet
from outrider.diffusion.continuous.scalar import ScalarModel

Row = dict[str, str | int | float | list[float]]
TARGET = ScalarModel(weights=(0.6, 0.4), means=(-1.0, 1.2), stds=(0.3, 0.3), pull=0.4)
DRAFT = ScalarModel(weights=(0.5, 0.5), means=(-0.9, 1.1), stds=(0.4, 0.3), pull=0.3)
_BATCH = 25


def scalar(count: int) -> Iterator[Row]:
    """Mean and standard deviation of all numbers of a sequence, with intervals over sequences."""
    arms = {
        "target alone": (CSpD(), None),
        "exact, shared noise": (CSpD(prefill=0.0, length=3), DRAFT),
        "exact, independent noise": (CSpD(prefill=0.0, length=3, shared=False), DRAFT),
        "target alone, no last noise": (CSpD(mode="published"), None),
        "published": (CSpD(mode="published", prefill=0.0, length=3), DRAFT),
    }
    for seed, (name, (method, draft)) in enumerate(arms.items()):
        found = list(method.write(TARGET, draft, range(count), seed, batch=count))
        values = torch.stack([one.values[:, 0] for one in found])
        means = values.mean(1).tolist()
        middle = float(values.mean())
        # The deviation is a mean of squares, up to its root.
        squares = bootstrap(((values - middle) ** 2).mean(1).tolist())
        yield {
            "part": "scalar",
            "arm": name,
            "sequences": count,
            "mean": list(bootstrap(means)),
            "std": [math.sqrt(one) for one in squares],
            **_counted(found),
        }


def timed(target: PatchModel, draft: PatchModel, count: int) -> Iterator[Row]:
    """Processor seconds and forwards of each image, undrafted and drafted in turn."""
    arms = {
        "target alone": (CSpD(), None),
        **{f"exact, {n} patches": (CSpD(length=n), draft) for n in (2, 4, 8)},
        "exact, 4 patches, independent noise": (CSpD(length=4, shared=False), draft),
        "published, 4 patches": (CSpD(mode="published", length=4), draft),
    }
    for image in range(count):
        for name, (method, small) in arms.items():
            begun = process_time()
            [found] = method.write(target, small, [image], 100, 1)
            yield {
                "part": "timed",
                "arm": name,
                "image": image,
                "seconds": process_time() - begun,
                **_counted([found]),
            }


def drawn(target: PatchModel, draft: PatchModel, count: int, out: Path) -> Iterator[Row]:
    """Draw the sets of the two-sample tests, each with a seed of its own; write their values."""
    exact, published = CSpD(length=4), CSpD(mode="published", length=4)
    arms = {
        "target": (exact, target, None),
        "target again": (exact, target, None),
        "exact": (exact, target, draft),
        "draft": (exact, draft, None),
        "target without last noise": (published, target, None),
        "published": (published, target, draft),
    }
    sets: dict[str, list[Written]] = {name: [] for name in arms}
    # All sets grow together, so that they have equal sizes wherever the time ends.
    for first in range(0, count, _BATCH):
        for seed, (name, (method, model, small)) in enumerate(arms.items()):
            samples = range(first, min(first + _BATCH, count))
            sets[name] += method.write(model, small, samples, 200 + seed, _BATCH)
        values = {name: torch.stack([one.values for one in found]) for name, found in sets.items()}
        for name, one in values.items():
            np.save(out / f"{_file(name)}.npy", one.numpy())
        for name, found in sets.items():
            shown = pictures(arms[name][1], values[name])
            save_picture(sheet(shown[:16]), out / f"{_file(name)}.png", 4)
            yield {"part": "drawn", "arm": name, "images": len(found), **_counted(found)}


def tested(out: Path) -> Iterator[Row]:
    """Two-sample tests between sets of equal sizes."""
    pairs = [
        ("target", "target again"),
        ("target", "exact"),
        ("target", "draft"),
        ("target without last noise", "published"),
        ("target", "target without last noise"),
    ]
    sets: dict[str, Vectors] = {}
    for name in {name for pair in pairs for name in pair}:
        found = np.load(out / f"{_file(name)}.npy")
        sets[name] = found.reshape(len(found), -1)
    size = min(len(one) for one in sets.values())
    for first, second in pairs:
        row: Row = {"part": "tested", "arm": f"{first} / {second}", "images": size}
        for test in (energy, nearest, linear):
            found = test(sets[first][:size], sets[second][:size])
            row[test.__name__], row[f"{test.__name__}_p"] = found.value, found.p
        yield row


def _file(name: str) -> str:
    return name.replace(" ", "-")


def _counted(found: Sequence[Written]) -> Row:
    total = [one.counts for one in found]
    kept, rejected = sum(one.accepted for one in total), sum(one.rejected for one in total)
    return {
        "accepted": kept,
        "rejected": rejected,
        "acceptance": kept / (kept + rejected) if kept + rejected else math.nan,
        "target_forwards": sum(one.target_forwards for one in total) / len(total),
        "draft_forwards": sum(one.draft_forwards for one in total) / len(total),
        "tries": sum(one.tries for one in total) / max(rejected, 1),
        "enveloped": sum(one.enveloped for one in total),
        "bounded": sum(one.bounded for one in total),
    }


def summed(rows: Sequence[Row]) -> Iterator[Row]:
    """The timed rows of each arm: means with intervals over images, and the paired speed ratio."""
    by_arm: dict[str, list[Row]] = {}
    for row in rows:
        if row["part"] == "timed":
            by_arm.setdefault(str(row["arm"]), []).append(row)
    images = min((len(one) for one in by_arm.values()), default=0)
    for name, own in by_arm.items():
        if not images:
            return
        alone = [float(row["seconds"]) for row in by_arm["target alone"][:images]]  # type: ignore[arg-type]
        seconds = [float(row["seconds"]) for row in own[:images]]  # type: ignore[arg-type]
        ratios = [a / b for a, b in zip(alone, seconds, strict=True)]
        forwards = [float(row["target_forwards"]) for row in own[:images]]  # type: ignore[arg-type]
        kept = sum(int(row["accepted"]) for row in own[:images])  # type: ignore[arg-type]
        lost = sum(int(row["rejected"]) for row in own[:images])  # type: ignore[arg-type]
        yield {
            "part": "summed",
            "arm": name,
            "images": images,
            "acceptance": kept / (kept + lost) if kept + lost else math.nan,
            "target_forwards": list(bootstrap(forwards)),
            "seconds": list(bootstrap(seconds)),
            "speed": list(geometric(ratios, [str(i) for i in range(images)])),
        }


def main() -> None:
    """Measure, and write rows."""
    parser = argparse.ArgumentParser(description="Measure continuous speculative decoding.")
    parser.add_argument("models", type=Path, help="folder that holds target and draft")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--timed", type=int, default=20)
    parser.add_argument("--numbers", type=int, default=4000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    target, draft = (load_model(given.models / name) for name in ("target", "draft"))
    rows: list[Row] = []

    def run(part: Callable[[], Iterator[Row]], share: float) -> None:
        ends = monotonic() + share * given.seconds
        with (given.out / "rows.jsonl").open("a", encoding="utf-8") as file:
            for row in part():
                rows.append(row)
                file.write(json.dumps(row) + "\n")
                file.flush()
                if row["part"] != "timed":
                    print(json.dumps(row), flush=True)
                # Sets of one size, or pairs of one image, are finished first.
                last = row["arm"] in ("published", "published, 4 patches")
                if last and monotonic() > ends:
                    break

    run(lambda: scalar(given.numbers), 0.1)
    run(lambda: timed(target, draft, given.timed), 0.4)
    run(lambda: summed(rows), 1.0)
    run(lambda: drawn(target, draft, given.images, given.out), 0.5)
    run(lambda: tested(given.out), 1.0)


if __name__ == "__main__":
    main()
