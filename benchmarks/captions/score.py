"""Figures of captions, of one file or of several over the same images.

    python -m benchmarks.captions.score before.jsonl after.jsonl --scorer CLIP --images DIR

Files are what `outrider caption --json` prints: lines `{"image": ..., "caption": ...}`. Images are
read from their paths, from `--images`, or, with `--scenes SEED`, drawn: `scene 12` is scene 12 of
that seed, of which everything is known. `--references` is a JSON file `{image: [text, ...]}`.

Every file after the first is also compared with the first: differences caption by caption, with
95 % intervals. An image without a caption in any of the files is left out of all, and counted.
Words are scored against a threshold calibrated on the references, or on what is true of scenes.
"""

import argparse
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.long_inputs.records import described

from outrider.captioning.metrics import (
    CaptionReport,
    ClipScorer,
    Mean,
    calibrate,
    score_captions,
    word_scores,
)
from outrider.captioning.metrics.misalignment import PREFIX
from outrider.captioning.scenes.phrases import Detail
from outrider.captioning.scenes.phrases import caption as describe
from outrider.captioning.scenes.scenes import Scenes
from outrider.core.errors import OptionError
from outrider.inputs.images.files import read_image


def read(file: Path) -> dict[str, str]:
    """Captions by image; lines with errors have none."""
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
    return {line["image"]: line["caption"] for line in lines if line.get("caption", "").strip()}


def drawn(args: argparse.Namespace, names: list[str]) -> tuple[list[Any], list[Any] | None]:
    """Images, and what is true of them where they are drawn."""
    if args.scenes is None:
        folder: Path = args.images or Path()
        return [read_image(folder / name) for name in names], None
    scenes = Scenes(seed=args.scenes)
    places = [int(name.split()[-1]) for name in names]
    return [scenes.image(i) for i in places], [scenes.truth(i) for i in places]


def threshold(
    scorer: ClipScorer, images: Any, truths: list[Any] | None, references: Any, prefix: str
) -> float | None:
    """Below which words are blamed; None where nothing clean is known, or too little of it."""
    if truths is not None:
        clean = [describe(t, Detail.EXACT, Random(i)) for i, t in enumerate(truths)]
    elif references is not None:
        clean = [own[0] for own in references]
    else:
        return None
    try:
        return calibrate(word_scores(scorer, images, clean, prefix=prefix))
    except OptionError as error:
        print(f"no word is blamed: {error}", file=sys.stderr)
        return None


def differences(first: CaptionReport, other: CaptionReport) -> dict[str, Any]:
    """What captions gained, by score, with paired intervals."""
    gains: dict[str, Mean | None] = {
        name: Mean.of([b - a for a, b in zip(first.each[name], other.each[name], strict=True)])
        for name in ("clip_score", "cider")
        if name in first.each
    }
    if "facts" in first.each:
        old, new = (report.each["facts"] for report in (first, other))
        gains["recall"] = Mean.of_share_gain(_said(old), _said(new))
        gains["hallucination_rate"] = Mean.of_share_gain(_invented(old), _invented(new))
    return {name: gain and gain.to_dict() for name, gain in gains.items()}


def _said(found: list[Any]) -> tuple[list[float], list[float]]:
    return [f.true for f in found], [f.there for f in found]


def _invented(found: list[Any]) -> tuple[list[float], list[float]]:
    return [f.said - f.true for f in found], [f.said for f in found]


def main() -> None:
    """Score all files and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captions", type=Path, nargs="+", help="files of JSON lines")
    parser.add_argument("--scorer", required=True, help="folder or hub name of a CLIP")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--images", type=Path, help="folder that paths of images begin in")
    where.add_argument("--scenes", type=int, metavar="SEED", help="images are drawn scenes")
    parser.add_argument("--references", type=Path, help="JSON: captions of people by image")
    parser.add_argument("--prefix", default=PREFIX, help="before captions whose words are scored")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="also keep it here, with figures of each caption")
    args = parser.parse_args()
    files = [read(file) for file in args.captions]
    names = [name for name in files[0] if all(name in file for file in files)]
    references = None
    if args.references:
        known = json.loads(args.references.read_text("utf-8"))
        names = [name for name in names if known.get(name)]
        references = [known[name] for name in names]
    scorer = ClipScorer.load(args.scorer, device=args.device)
    images, truths = drawn(args, names)
    seen = scorer.embed_images(images)
    blame = scorer.causal
    below = threshold(scorer, seen, truths, references, args.prefix) if blame else None
    reports = [
        score_captions(
            [file[name] for name in names],
            images=seen,
            scorer=scorer,
            references=references,
            truths=truths,
            blame=blame,
            threshold=below,
            prefix=args.prefix,
        )
        for file in files
    ]
    found: dict[str, Any] = {"environment": described(), "images": len(names)}
    found["left_out"] = len({name for file in files for name in file}) - len(names)
    for each in (False, True):
        found["files"] = {
            str(file): report.to_dict(each=each)
            | ({"gain": differences(reports[0], report)} if report is not reports[0] else {})
            for file, report in zip(args.captions, reports, strict=True)
        }
        if not each:
            print(json.dumps(found, indent=2))
        elif args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(found | {"names": names}) + "\n", "utf-8")


if __name__ == "__main__":
    main()
