"""Tokens of a round of several heads of one model, on the same prompts: for ablations.

    python -m benchmarks.heads.ablation MODEL --prompts question.jsonl.zst \
        --heads runs/base/head runs/plain/head --depths 1 3

Every prompt of Spec-Bench is answered greedily with chains of each depth. Tokens and rounds are
counted, so that other programs on the machine have no effect. A ratio is that of the tokens of a
round to those of the first head on the same prompt; its interval draws whole prompts. With `--reads
all 64` each head is measured reading whole prompts, and their last 64 tokens only (`NAME@64`).
"""

import argparse
import json
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.real_models.prompts import by_category
from rich.progress import track

from outrider.bench.statistics import Ratio
from outrider.engine.heads.probe import tokens_a_round
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.loading import HeadPair, run_head
from outrider.models.loading import load_model
from outrider.models.sources.finding import local_folder
from outrider.protocols import LanguageModel
from outrider.sampling import SamplingParams

Line = dict[str, Any]


def measure(given: argparse.Namespace) -> None:
    """Answer all prompts with each head that has not answered them yet."""
    done = {key(line) for line in read(given.out)}
    source = local_folder(given.model)
    target, tokenizer = load_model(source, threads=given.threads), Tokenizer.load(source)
    prompts = by_category(given.prompts, given.of_each, given.characters)
    params = SamplingParams(max_new_tokens=given.max_new_tokens)
    with given.out.open("a", encoding="utf-8") as out:
        for folder, reads in product(given.heads, given.reads):
            pair, name = opened(folder, target), name_of(folder) + suffix_of(reads)
            if reads:
                pair.head.reads = None if reads == "all" else int(reads)
            for place in track(range(len(prompts)), name):
                category, text = prompts[place]
                ids = tokenizer.chat([{"role": "user", "content": text}])
                for depth in given.depths:
                    line: Line = {"head": name, "depth": depth, "prompt": place}
                    if key(line) in done:
                        continue
                    tokens = tokens_a_round(pair, [ids], params, depth)
                    line |= {"category": category, "tokens": tokens}
                    out.write(json.dumps(line) + "\n")
                    out.flush()


def opened(folder: Path, target: LanguageModel) -> HeadPair:
    """Return a head beside its target."""
    states = target.hidden_states
    file = read_head(folder, layers=None if states is None else states.num_layers)
    return run_head(file.config, file.tensors, target, name=folder.name, grouped=file.grouped)


def name_of(folder: Path) -> str:
    """Return the name under which a head is listed: that of its folder."""
    return folder.resolve().name


def suffix_of(reads: str) -> str:
    """Return what the name of a head says about how much of a prompt it reads."""
    return f"@{reads}" if reads else ""


def key(line: Line) -> tuple[str, int, int]:
    """Return what names a measurement."""
    return line["head"], line["depth"], line["prompt"]


def read(file: Path) -> list[Line]:
    """Return the measurements that a file holds."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def report(given: argparse.Namespace) -> None:
    """Print a table of all heads of the file."""
    lines = read(given.out)
    found = {key(line): line["tokens"] for line in lines}
    heads = list(dict.fromkeys(line["head"] for line in lines))
    depths = sorted({line["depth"] for line in lines})
    print(
        "| head | " + " | ".join(f"chains of {depth}; over {heads[0]}" for depth in depths) + " |"
    )
    print("|---|" + "---|" * len(depths))
    for head in heads:
        cells: list[str] = []
        for depth in depths:
            places = sorted({p for name, d, p in found if name == head and d == depth})
            values = [found[head, depth, place] for place in places]
            if not values:
                cells.append("")
                continue
            pairs = [
                value / found[heads[0], depth, place]
                for value, place in zip(values, places, strict=True)
                if (heads[0], depth, place) in found
            ]
            cells.append(f"{mean(values):.2f}{shown(Ratio.of(pairs))}")
        print(f"| {head} | " + " | ".join(cells) + " |")


def shown(ratio: Ratio | None) -> str:
    """Return a ratio with its interval."""
    return "" if ratio is None else f"; {ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def main() -> None:
    """Read the command line, measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--heads", type=Path, nargs="+", required=True)
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 3])
    parser.add_argument(
        "--reads", nargs="+", default=[""], help="'all', or last tokens of a prompt"
    )
    parser.add_argument("--of-each", type=int, default=8)
    parser.add_argument("--characters", type=int, default=1500)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/heads.jsonl"))
    given = parser.parse_args()
    measure(given)
    report(given)


if __name__ == "__main__":
    main()
