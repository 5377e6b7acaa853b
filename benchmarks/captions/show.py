"""Pictures of a ViZer run: scenes with their captions before and after, and training curves.

    python -m benchmarks.captions.show --run runs/vizer --out docs/images/vizer

Reads what `benchmarks.captions.vizer_scenes` has written. Writes the first scenes of the test set
(enlarged), a figure of the curves, and prints a Markdown table of captions in which the words that
CLIP4DM blames are struck out. Scenes are not selected: they are numbers 0, 1, 2, ...
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from outrider.captioning.metrics.clip import ClipScorer
from outrider.captioning.metrics.misalignment import WordScores, calibrate, word_scores
from outrider.captioning.scenes.phrases import Detail, caption
from outrider.captioning.scenes.scenes import Scenes
from outrider.models.sources.families import families_folder

from .vizer_scenes import TEST_SEED

SIDE = 128
COLORS = {
    "g": "#1b6ca8",
    "gt": "#2a9d5c",
    "g-states": "#b04a8f",
    "gt-states": "#e0a3cf",
    "shuffled": "#8a8a8a",
    "labels": "#c9802b",
}
CLEAN_SEED, CLEAN = 88, 200


def struck(scored: WordScores, text: str, threshold: float) -> str:
    """The caption, blamed words struck out."""
    out, at = "", 0
    blamed = set(scored.below(threshold))
    for i, (start, stop) in enumerate(scored.spans):
        word = text[start:stop]
        out += text[at:start] + (f"~~{word}~~" if i in blamed else word)
        at = stop
    return out + text[at:]


def threshold_of(scorer: ClipScorer, prefix: str) -> float:
    """From true and exact captions of other scenes."""
    from random import Random

    scenes = Scenes(seed=CLEAN_SEED)
    texts = [caption(scenes.truth(i), Detail.EXACT, Random(i)) for i in range(CLEAN)]
    images = [scenes.image(i) for i in range(CLEAN)]
    return calibrate(word_scores(scorer, images, texts, prefix=prefix))


def read(file: Path) -> dict[str, list[str]]:
    """Captions of the test scenes by run."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {line["key"]: line["texts"] for line in lines if line["kind"] == "captions"}


def table(args: argparse.Namespace) -> str:
    """Scenes, captions before and after, blamed words struck out."""
    runs = read(args.run / "vizer.jsonl")
    scorer = ClipScorer.load(args.scorer)
    threshold = threshold_of(scorer, args.prefix)
    scenes = Scenes(seed=TEST_SEED)
    images = [scenes.image(i) for i in range(args.count)]
    shown = {"before": runs["base"], "after": runs[args.after]}
    scored = {
        name: word_scores(scorer, images, texts[: args.count], prefix=args.prefix)
        for name, texts in shown.items()
    }
    lines = ["| | before | after |", "|---|---|---|"]
    for i, image in enumerate(images):
        image.resize((SIDE, SIDE), 0).save(args.out / f"scene-{i:02}.png", optimize=True)
        cells = [struck(scored[n][i], texts[i], threshold) for n, texts in shown.items()]
        place = f"{args.link}/scene-{i:02}.png"
        lines.append(f"| ![scene {i}]({place}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def curves(args: argparse.Namespace) -> None:
    """Score, retrieval and length on held-out images, and the loss, by step."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 2.9), layout="constrained")
    names = (
        ("score", "judge's cosine"),
        ("retrieval", "retrieval, 1 of 32"),
        ("words", "words a caption"),
        ("align", "1 - cosine in training"),
    )
    for method, color in COLORS.items():
        for file in sorted(args.run.glob(f"{method}-[0-9]*/curve.jsonl")):
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            label = method if file.parent.name.endswith("-1") else None
            for axis, (key, _) in zip(axes, names, strict=True):
                points = [(row["step"], row[key]) for row in rows if key in row]
                if points:
                    axis.plot(*_smooth(points, key), color=color, label=label, lw=1.2)
    for axis, (_, title) in zip(axes, names, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right", fontsize=8)
    figure.savefig(args.out / "curves.png", dpi=110)


def _smooth(points: Sequence[tuple[int, float]], key: str) -> tuple[list[Any], list[Any]]:
    """Losses are means of ten steps; the others as they are."""
    size = 10 if key == "align" else 1
    parts = [points[i : i + size] for i in range(0, len(points) - size + 1, size)]
    return [p[-1][0] for p in parts], [sum(v for _, v in p) / size for p in parts]


def main() -> None:
    """Write the pictures, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of vizer_scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--link", default="images/vizer", help="how the page calls that folder")
    parser.add_argument("--after", default="g-1", help="the run to show")
    parser.add_argument("--count", type=int, default=16, help="scenes")
    parser.add_argument("--prefix", default="", help="before captions, for CLIP4DM")
    parser.add_argument("--scorer", type=Path, default=families_folder() / "tiny-vision" / "scorer")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    curves(args)
    print(table(args))


if __name__ == "__main__":
    main()
