"""Copies of small checkpoints that read far beyond what they were trained for, and at what loss.

    python -m benchmarks.long_inputs.stretched --data DIR --out runs/stretched

The tiny family was trained on texts of up to 2048 tokens. A stretched copy has the same weights and
slower rotary embeddings, so it runs over 16k tokens and more; what it writes there is worse than
what it writes within its window. Measured: nats per token of the same book text (its last
`--scored` tokens), after ever more of the text before it, for each way to stretch, beside the
checkpoint as it is. Whatever uses such a copy says so.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.long_inputs.inputs.documents import FOLDER
from benchmarks.long_inputs.inputs.known_tasks import without_lines
from benchmarks.long_inputs.inputs.texts import Library, read_lines
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.long_inputs.likelihood import log_likelihoods
from benchmarks.long_inputs.records import Records, options
from benchmarks.long_inputs.selecting import settings_of

from outrider.core.types import Prompt
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model
from outrider.models.sources.families import family

KINDS = ("yarn", "ntk", "linear")
KIND = "yarn"
"""The one that loses least (`results.md` has the table)."""
LABEL = "outrider_stretched"


def rope_parameters(config: Mapping[str, Any], kind: str, factor: float) -> dict[str, Any]:
    """How rotary embeddings are slowed down.

    Args:
        config: config.json of a checkpoint with plain ones.
        kind: `yarn` (Peng et al. 2023), `linear` (Chen et al. 2023) or `ntk`: a base that is higher
            by factor^(d / (d - 2)), so that the slowest pair turns `factor` times more slowly.
        factor: how much longer texts become.

    Raises:
        ValueError: an unknown kind.
    """
    plain = config["rope_parameters"]
    if kind == "ntk":
        dim = config["head_dim"]
        return {
            "rope_type": "default",
            "rope_theta": plain["rope_theta"] * factor ** (dim / (dim - 2)),
        }
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    own = {"rope_type": kind, "factor": float(factor), "rope_theta": plain["rope_theta"]}
    if kind == "yarn":
        own["original_max_position_embeddings"] = config["max_position_embeddings"]
    return own


def stretch(folder: Path, out: Path, factor: float, kind: str = KIND) -> Path:
    """Write the checkpoint at `folder` with slower rotary embeddings to `out`, and return that."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    new = config | {
        "rope_parameters": rope_parameters(config, kind, factor),
        "max_position_embeddings": int(factor * config["max_position_embeddings"]),
        LABEL: {"kind": kind, "factor": factor},
    }
    text = json.dumps(new, indent=2) + "\n"
    if (out / "config.json").is_file() and (out / "config.json").read_text("utf-8") == text:
        return out
    shutil.copytree(folder, out, dirs_exist_ok=True)
    (out / "config.json").write_text(text, "utf-8")
    return out


def measure(args: argparse.Namespace, records: Records) -> None:
    """Nats per token for each copy and length of text."""
    tiers = family("tiny")
    library = Library(Tokenizer.load(tiers["target"]))
    items = read_lines(args.data / FOLDER / "w32000.jsonl.zst")
    books = [without_lines(i["context"]) for i in items if i["task"] == "niah_single"]
    copies: dict[str, Path] = {"as it is": tiers[args.tier]}
    for kind in args.kinds:
        for factor in args.factors:
            name = f"{kind} {factor:g}"
            copies[name] = stretch(
                tiers[args.tier], args.out / name.replace(" ", "-"), factor, kind
            )
    for name, folder in copies.items():
        model = load_model(folder, dtype=args.dtype, threads=args.threads)
        for length in args.lengths:
            key = f"{args.tier} {name} {length}"
            if key in records.keys or length > model.info.context_length:
                continue
            nats = []
            for book in books[: args.books]:
                ids = library.ids(book)
                end = max(args.lengths)
                prompt = Prompt(token_ids=ids[end - length : end - args.scored])
                found, _ = log_likelihoods(model, prompt, ids[end - args.scored : end], 64)
                nats.append(-mean(found))
            middle, low, high = bootstrap(nats)
            records.add("loss", key=key, copy=name, length=length, nats=nats, mean=middle)
            print(f"{key}: {middle:.3f} [{low:.3f}, {high:.3f}]", flush=True)


def main() -> None:
    """Measure all of it."""
    parser = options(__doc__)
    parser.add_argument("--tier", default="target")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--factors", nargs="+", type=float, default=[10.0])
    parser.add_argument("--lengths", nargs="+", type=int, default=[1536, 2048, 4096, 8192, 16384])
    parser.add_argument("--books", type=int, default=3)
    parser.add_argument("--scored", type=int, default=512)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    given = {k: v for k, v in settings_of(args).items() if k in ("scored", "books", "dtype")}
    measure(args, Records(args.out / "stretched.jsonl", given))


if __name__ == "__main__":
    main()
