"""Captions by drafter, against undrafted decoding and `generate` of transformers.

    python -m benchmarks.captions.speed --model VLM --draft TEXT_MODEL --out runs/captions-speed

Images are those of a folder, or drawn scenes. One caption at a time: all systems write the caption
of one image before the next, in turned order every other time, so that what the machine does
meanwhile meets all of them. Rows are written as they come, and a second call goes on.

Reported for each system: milliseconds a caption, the ratio to undrafted decoding (paired by image
and repeat: median, geometric mean and its 95 % interval), with and without looking and reading the
prompt; the same ratio to `generate`; where the time goes; acceptance. Texts of Outrider must equal
its undrafted ones token for token: the exit code is 1 where one does not.

With `--scale x4` the text part of the model is cost-scaled (`scaled`): the captions and drafts of
the small model at costs of a larger one. Figures carry that label.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.captions.scaled import scale_text_part
from benchmarks.captions.systems import DRAFTERS, PARTS, RIVALS, Models, Writer, opened, reason
from benchmarks.long_inputs.records import Records

from outrider.bench.scaling.scale import cost_scaled_label
from outrider.bench.statistics import Ratio, first_difference
from outrider.captioning.captioner import QUESTION
from outrider.captioning.scenes.scenes import Scenes
from outrider.core.metrics import ratio
from outrider.inputs.images.files import read_image
from outrider.models.loading import load_model

PLAIN = "none"
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif")


def images_of(args: argparse.Namespace) -> list[tuple[str, Any]]:
    """Names and images: of the folder, sorted, or drawn. The last one is to warm up with."""
    if args.images is None:
        scenes = Scenes(seed=args.seed)
        return [(f"scene {i}", scenes.image(i)) for i in range(args.count + 1)]
    files = sorted(f for f in args.images.iterdir() if f.suffix.lower() in _ENDINGS)
    if len(files) < 2:
        raise SystemExit(f"{args.images} holds {len(files)} images: one more than are measured")
    return [(file.name, read_image(file)) for file in files[: args.count + 1]]


def run(args: argparse.Namespace, records: Records) -> None:
    """All rows that are not there yet.

    Drafters that remember earlier captions begin every repeat with empty memories: the same image
    again would be copied whole.
    """
    *images, warm = images_of(args)
    models = Models(
        folder=args.target,
        target=load_model(args.target, name="target", dtype=args.dtype, threads=args.threads),
        qualifier=args.qualifier,
        draft=args.draft,
        question=args.question,
        sampling={"max_new_tokens": args.max_new_tokens, "temperature": args.temperature},
        dtype=args.dtype,
        threads=args.threads,
    )
    rivals = [name for name in args.systems if name in RIVALS]
    kept = dict(_ready(models, rivals, records, warm[1], args.seed))
    for repeat in range(args.repeats):
        names = [name for name in args.systems if name not in RIVALS]
        if all(_key(n, i, repeat) in records.keys for n in (*names, *kept) for i, _ in images):
            continue
        writers = dict(_ready(models, names, records, warm[1], args.seed)) | kept
        for place, (image_name, image) in enumerate(images):
            for name in list(writers) if (place + repeat) % 2 == 0 else list(writers)[::-1]:
                key = _key(name, image_name, repeat)
                if key not in records.keys:
                    done = writers[name](image, args.seed)
                    about = {"system": name, "image": image_name, "repeat": repeat}
                    records.add("run", key=key, **about, **asdict(done))
        print(f"repeat {repeat + 1} of {args.repeats}", flush=True)


def _key(system: str, image: str, repeat: int) -> str:
    return f"{system}, {image}, {repeat}"


def _ready(
    models: Models, names: Sequence[str], records: Records, image: Any, seed: int
) -> Iterator[tuple[str, Writer]]:
    """Systems that can write. Each has written twice, of an image that is not measured: costs are
    known to those that measure them, and libraries are loaded."""
    for name, found in opened(models, names):
        why = found if isinstance(found, str) else _trial(found, image, seed)
        if why is None and not isinstance(found, str):
            yield name, found
        elif not any(line["system"] == name for line in records.of("left out")):
            records.add("left out", system=name, why=why)
            print(f"{name} is left out: {why}", flush=True)


def _trial(write: Writer, image: Any, seed: int) -> str | None:
    try:
        for _ in range(2):
            write(image, seed)
    except Exception as error:  # told, and the others are measured
        return reason(error)
    return None


# -- what came of it ---------------------------------------------------------------------------


def summarise(records: Records) -> bool:
    """Print and keep one line for each system. Whether every text of ours is the undrafted one."""
    runs = {(r["system"], r["image"], r["repeat"]): r for r in records.of("run")}
    names = list(dict.fromkeys(name for name, _, _ in runs))
    equal = True
    for name in names:
        own = {key[1:]: row for key, row in runs.items() if key[0] == name}
        line = _line(name, own, runs)
        equal &= name in RIVALS or not line["unequal"]
        records.add("table", **line)
        _show(line)
    return equal


def _line(name: str, own: dict[Any, Any], runs: dict[Any, Any]) -> dict[str, Any]:
    plain = {key: runs[PLAIN, *key] for key in own if (PLAIN, *key) in runs}
    rival = {key: runs["transformers", *key] for key in own if ("transformers", *key) in runs}
    rows = list(own.values())
    tokens = sum(len(row["token_ids"]) for row in rows)
    total = sum(row["seconds"] for row in rows)
    counts = {c: sum(row["counts"].get(c, 0) for row in rows) for c in _counts(rows)}
    unlike = [
        {"image": key[0], "repeat": key[1], "at": at}
        for key, row in plain.items()
        if (at := first_difference(own[key]["token_ids"], row["token_ids"])) is not None
    ]
    return {
        "system": name,
        "captions": len(rows),
        "tokens_per_caption": tokens / len(rows),
        "ms_per_caption": 1e3 * median(row["seconds"] for row in rows),
        "tokens_per_second": ratio(tokens, total),
        "speedup": _ratios(plain, own, _whole),
        "decode_speedup": _ratios(plain, own, _decode) if rows[0]["parts"] else None,
        "over_transformers": _ratios(rival, own, _whole),
        "shares": _shares(rows, total),
        "acceptance_rate": ratio(counts.get("accepted", 0), counts.get("drafted", 0)),
        "mean_accepted_length": ratio(
            counts.get("accepted", 0) + counts.get("next_tokens", 0), counts.get("rounds", 0)
        ),
        "counts": counts,
        "compared": len(plain),
        "unequal": unlike,
    }


def _counts(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(rows[0]["counts"])


def _whole(row: dict[str, Any]) -> float:
    return row["seconds"]


def _decode(row: dict[str, Any]) -> float:
    """What is left after looking and reading the prompt."""
    return row["seconds"] - row["parts"]["vision"] - row["parts"]["prefill"]


def _ratios(base: dict[Any, Any], own: dict[Any, Any], of: Any) -> dict[str, float] | None:
    found = Ratio.of([of(row) / of(own[key]) for key, row in base.items()])
    return found and found.to_dict()


def _shares(rows: Sequence[dict[str, Any]], total: float) -> dict[str, float] | None:
    """Of the whole time; `other` is what no clock inside counted: reading the prompt as text,
    preparing pixels of other systems, making the result."""
    if not rows[0]["parts"]:
        return None
    parts = {part: sum(row["parts"][part] for row in rows) / total for part in PARTS}
    return parts | {"other": 1.0 - sum(parts.values())}


def _show(line: dict[str, Any]) -> None:
    def shown(what: str, found: dict[str, float] | None) -> str:
        if not found:
            return ""
        return f"{what} {found['median']:.2f} ({found['mean']:.2f}, from {found['low']:.2f})  "

    print(
        f"{line['system']:20} {line['ms_per_caption']:8.1f} ms  "
        + shown("speedup", line["speedup"])
        + shown("decoding", line["decode_speedup"])
        + shown("to generate", line["over_transformers"])
        + f"accepted {line['acceptance_rate']:.2f}, {line['mean_accepted_length']:.2f} a round  "
        + f"{len(line['unequal'])} of {line['compared']} texts differ"
    )
    if line["shares"]:
        print(" " * 21 + ", ".join(f"{k} {v:.1%}" for k, v in line["shares"].items()))


def main() -> None:
    """Measure what is missing, and sum up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="an image-text model's folder")
    parser.add_argument("--draft", type=Path, help="a text model with its vocabulary")
    parser.add_argument("--qualifier", type=Path, help="a larger one, or a smaller one that sees")
    parser.add_argument("--images", type=Path, help="a folder of images; none draws scenes")
    parser.add_argument("--count", type=int, default=20, help="images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--systems", nargs="+", default=[*DRAFTERS, *RIVALS])
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1, help="of scenes and of sampling")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", default="x1", help="cost of the text part; x1 leaves it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    args = parser.parse_args()
    if unknown := set(args.systems) - {*DRAFTERS, *RIVALS}:
        parser.error(f"unknown systems: {', '.join(sorted(unknown))}")
    args.target = args.model
    if args.scale != "x1":
        args.target = scale_text_part(args.model, args.scale, args.out / f"model-{args.scale}")
    kept = {k: v for k, v in vars(args).items() if k not in ("out", "systems", "count", "repeats")}
    records = Records(args.out / "speed.jsonl", kept)
    label = cost_scaled_label(args.target)
    records.add("models", target=label or str(args.model), draft=str(args.draft))
    print(label or "", flush=True)
    run(args, records)
    if not summarise(records):
        raise SystemExit("texts differ from undrafted ones: see the rows of kind `table`")


if __name__ == "__main__":
    main()
