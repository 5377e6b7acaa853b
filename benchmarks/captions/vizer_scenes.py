"""ViZer on drawn scenes: does a captioner say more that is true, from images alone?

    python -m benchmarks.captions.vizer_scenes --out runs/vizer

Draws scenes that the base was never trained on, trains an adapter for each method and seed, and
captions scenes that no adapter has seen, greedily. Methods:

    base       the published captioner, as it is
    mapper     phase A alone: nothing that writes is trained
    g-states   ViZer_G as published: images alone, the gradient through hidden states
    gt-states  ViZer_GT as published: the mapper has read exact captions, the model has not
    g          ViZer_G through words: images alone
    gt         ViZer_GT through words
    shuffled   ViZer_G through words, each image with the features of another: the control
    labels     plain training with as many exact captions as `g` has images: the upper bound

Writes a line for each, then a table: attribute recall and hallucination rate against what the
scenes hold, CLIPScore and retrieval by a scorer that was trained on its own, length and variety.
Interrupted runs go on.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from benchmarks.long_inputs.records import Records

import outrider
from outrider.captioning.captioner import Captioner
from outrider.captioning.metrics.clip import ClipScorer
from outrider.captioning.metrics.report import CaptionReport, score_captions
from outrider.captioning.scenes.phrases import Detail, caption
from outrider.captioning.scenes.scenes import Scenes
from outrider.models.sources.families import families_folder
from outrider.training.vizer.captioner import TrainableCaptioner
from outrider.training.vizer.config import VizerConfig
from outrider.training.vizer.data import Example
from outrider.training.vizer.run import train_vizer

RECIPE = VizerConfig(
    mapper_images=1200,
    mapper_epochs=30,
    mapper_temperature=1.0,
    images=480,
    batch=8,
    learning_rate=6e-4,
    longest=40,
    held_out=128,
    evaluate_every=20,
    patience=4,
)
"""What all methods share."""

WORDS: dict[str, Any] = {"through": "words", "samples": 6, "kappa": 3.0}
STATES: dict[str, Any] = {"through": "states", "learning_rate": 2e-4}

WAYS: dict[str, dict[str, Any]] = {
    "mapper": {},
    "g-states": STATES,
    "gt-states": STATES | {"method": "gt"},
    "g": WORDS,
    "gt": WORDS | {"method": "gt"},
    "shuffled": WORDS | {"shuffle": True},
    "labels": {"method": "labels"},
}
"""What each has of its own. Settings were chosen on scenes of another seed."""

METHODS = tuple(WAYS)
TRAIN_SEED, TEST_SEED = 50, 71
"""Of the scenes: to train adapters on, and to measure them by. The base has seen neither."""


def drawn(folder: Path, seed: int, count: int) -> list[Example]:
    """Scenes as PNG files, with an exact caption for the methods that read one."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes, made = Scenes(seed=seed), list[Example]()
    for i in range(count):
        file = folder / f"{i:05}.png"
        if not file.is_file():
            scenes.image(i).save(file)
        made.append(Example(file, caption(scenes.truth(i), Detail.EXACT, Random(f"label {i}"))))
    return made


def config_of(method: str, seed: int) -> VizerConfig:
    """The recipe of one method."""
    return dataclasses.replace(RECIPE, seed=seed, **WAYS[method])


def train(method: str, seed: int, base: Path, out: Path, examples: Sequence[Example]) -> Path:
    """Train one adapter, or find it trained; its folder."""
    folder = out / f"{method}-{seed}"
    reads = config_of(method, seed).method != "g"
    given = examples if reads else [Example(e.path) for e in examples]
    train_vizer(base, given, folder, config_of(method, seed), say=lambda line: print("  ", line))
    return folder / "adapter"


def untrained(seed: int, base: Path, folder: Path) -> Path:
    """An adapter as phase A leaves it: LoRA that has not begun."""
    captioner = TrainableCaptioner.load(base, config_of("mapper", seed), torch.device("cpu"))
    captioner.save(folder)
    return folder


def captions_of(base: Path, adapter: Path | None, images: Sequence[Any]) -> list[str]:
    """Greedy captions by the ordinary way: `outrider.load` and a captioner."""
    generator = outrider.load(str(base), adapter=adapter, drafter="none", dtype="float32")
    captioner = Captioner(generator, batch_size=32, max_new_tokens=RECIPE.longest)
    found = list(captioner.caption(images))
    failed = [c.error for c in found if c.error]
    if failed:
        raise SystemExit(f"{len(failed)} captions failed, such as: {failed[0]}")
    return [c.text for c in found]


def figures(report: CaptionReport, texts: Sequence[str], base: Sequence[str]) -> dict[str, Any]:
    """One line of the table."""
    facts, clip, diversity = report.facts, report.clip, report.diversity
    assert facts and facts.recall and clip and clip.retrieval
    wrong = facts.hallucination_rate
    return {
        "recall": facts.recall.mean,
        "hallucination": wrong.mean if wrong else 0.0,
        "clip_score": clip.clip_score.mean,
        "retrieval": clip.retrieval.rate,
        "words": diversity.mean_words,
        "distinct_2": diversity.distinct_2,
        "changed": sum(a != b for a, b in zip(texts, base, strict=True)) / len(texts),
        "recall_of": facts.recall_of,
    }


def main() -> None:
    """Train, caption, measure."""
    args = arguments()
    torch.set_num_threads(args.threads)
    records = Records(
        args.out / "vizer.jsonl",
        {
            "base": str(args.base),
            "train": args.train,
            "test": args.test,
            "recipe": dataclasses.asdict(RECIPE),
            "ways": WAYS,
        },
    )
    examples = drawn(args.out / "images", TRAIN_SEED, args.train)
    scenes = Scenes(seed=TEST_SEED)
    images = [scenes.image(i) for i in range(args.test)]
    truths = [scenes.truth(i) for i in range(args.test)]
    scorer = ClipScorer.load(args.scorer)
    seen = scorer.embed_images(images)
    base_file = args.out / "base.txt"
    if not base_file.is_file():
        base_file.write_text("\n".join(captions_of(args.base, None, images)), encoding="utf-8")
    base = base_file.read_text(encoding="utf-8").split("\n")

    def measure(key: str, method: str, seed: int, texts: Sequence[str]) -> None:
        report = score_captions(texts, images=seen, scorer=scorer, truths=truths, batch=16)
        found = figures(report, texts, base)
        records.add("captions", key=key, method=method, seed=seed, **found, texts=list(texts))
        print(key, {k: v for k, v in found.items() if k != "recall_of"}, flush=True)

    if "base" not in records.keys:
        measure("base", "base", 0, base)
    for seed in args.seeds:
        for method in args.methods:
            key = f"{method}-{seed}"
            if key in records.keys:
                continue
            adapter = (
                untrained(seed, args.base, args.out / key / "adapter")
                if method == "mapper"
                else train(method, seed, args.base, args.out, examples)
            )
            measure(key, method, seed, captions_of(args.base, adapter, images))
    print(table(records))


def table(records: Records) -> str:
    """Means over seeds, and their range."""
    names = ("recall", "hallucination", "clip_score", "retrieval", "words", "distinct_2", "changed")
    lines = [f"| method | seeds | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    found = records.of("captions")
    for method in ("base", *METHODS):
        rows = [row for row in found if row["method"] == method]
        if rows:
            cells = " | ".join(_cell([row[name] for row in rows]) for name in names)
            lines.append(f"| {method} | {len(rows)} | {cells} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    return f"{mean:.3f} [{min(values):.3f}, {max(values):.3f}]"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    family = families_folder() / "tiny-vision"
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--base", type=Path, default=family / "target", help="the captioner")
    parser.add_argument("--scorer", type=Path, default=family / "scorer", help="a CLIP")
    parser.add_argument("--train", type=int, default=1800, help="scenes to train on")
    parser.add_argument("--test", type=int, default=512, help="scenes to measure by")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
