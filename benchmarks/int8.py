"""Int8 against itself, drafted and undrafted, and against float32.

    python benchmarks/int8.py --out runs/int8 --texts heldout.jsonl.zst other.txt

First, 200 prompts of 256 tokens: every strategy must give the text of undrafted decoding to the
last token, greedy and sampled. Then the loss on held-out texts, in both precisions. Writes
`equality.jsonl` and `losses.jsonl` line by line, and prints a summary.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import outrider
from outrider.core.types import Prompt, as_ids
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.cpu.native import NativeDecoder
from outrider.models.sources.families import family
from outrider.protocols import Segment
from outrider.training.core.corpus import read_records

STRATEGIES: dict[str, dict[str, Any]] = {
    "auto": {},
    "two tiers": {"qualifier": "none", "drafter": "model", "num_speculative_tokens": 5},
    "three tiers": {"drafter": "pyramid", "num_speculative_tokens": 4, "num_qualified_tokens": 8},
    "lookup": {"drafter": "lookup"},
}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "temperature 0": {"temperature": 0.0},
    "temperature 0.8, top-p 0.95": {"temperature": 0.8, "top_p": 0.95},
}


def prompts(count: int) -> list[str]:
    """Of the built-in workloads, those that evaluate the family, then first halves of them."""
    package = Path(outrider.__file__).parent
    files = (package / "bench" / "prompts.jsonl", package / "families" / "tiny" / "prompts.jsonl")
    lines = [line for f in files for line in f.read_text(encoding="utf-8").splitlines()]
    whole = [
        p if isinstance(p := json.loads(line)["prompt"], str) else p[-1]["content"]
        for line in lines
    ]
    distinct = list(dict.fromkeys([*whole, *(p[: len(p) // 2] for p in whole)]))
    if len(distinct) < count:
        raise SystemExit(f"there are {len(distinct)} prompts, not {count}")
    return distinct[:count]


def equality(args: argparse.Namespace, out: Path) -> None:
    """Compare every strategy with undrafted decoding, prompt by prompt."""
    plain = outrider.load("tiny", dtype="int8", mode="none", threads=args.threads)
    with (out / "equality.jsonl").open("w") as log:
        for name, options in STRATEGIES.items():
            drafted = outrider.load("tiny", dtype="int8", threads=args.threads, **options)
            for sampling, settings in SAMPLINGS.items():
                differ = tokens = rounds = 0
                for seed, prompt in enumerate(prompts(args.prompts)):
                    asked = {**settings, "seed": seed, "max_new_tokens": args.tokens}
                    for generator in (plain, drafted):
                        generator.reset()
                    ours = drafted.generate(prompt, ignore_eos=True, **asked)
                    theirs = plain.generate(prompt, ignore_eos=True, **asked)
                    differ += ours.token_ids != theirs.token_ids
                    tokens += len(ours.token_ids)
                    rounds += ours.speculation.target.rounds
                line = {"strategy": name, "sampling": sampling, "prompts": args.prompts}
                line |= {"tokens": tokens, "texts_that_differ": differ}
                line |= {"tokens_per_target_forward": round(tokens / rounds, 3)}
                log.write(json.dumps(line) + "\n")
                log.flush()
                print(line, flush=True)


def texts(file: Path) -> Iterator[str]:
    """Documents of a .txt, .jsonl or .jsonl.zst file."""
    if file.suffix == ".txt":
        yield file.read_text(encoding="utf-8")
        return
    for record in read_records(file):
        yield str(next(v for k, v in record.items() if k in ("text", "story", "document", "body")))


def windows(files: list[Path], codec: Tokenizer, length: int, most: int) -> dict[str, list[Any]]:
    """Windows of `length` tokens by file."""
    found: dict[str, list[Any]] = {}
    for file in files:
        rows: list[tuple[int, ...]] = []
        for text in texts(file):
            ids = codec.encode(text[: 8 * length * most])
            rows += [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]
            if len(rows) >= most:
                break
        found[f"{file.parent.name}/{file.name}"] = rows[:most]
    return found


def loss(model: NativeDecoder, rows: list[tuple[int, ...]]) -> float:
    """Mean nats a token."""
    total = 0.0
    for ids in rows:
        [cache] = model.start([Prompt(token_ids=ids[:1])])
        want = as_ids([-1, *range(len(ids) - 2)])
        [out] = model.forward([Segment(cache, as_ids(ids[1:-1]))], [want])
        logp = out.logits.double().log_softmax(-1)
        total -= float(logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].mean())
    return total / len(rows)


def losses(args: argparse.Namespace, out: Path) -> None:
    """Loss of each tier in both precisions, by file."""
    with (out / "losses.jsonl").open("w") as log:
        for tier, folder in family("tiny").items():
            found = windows(args.texts, Tokenizer.load(folder), args.window, args.windows)
            exact, brief = (
                NativeDecoder.load(folder, dtype=dtype) for dtype in (torch.float32, torch.int8)
            )
            for name, rows in found.items():
                a, b = loss(exact, rows), loss(brief, rows)
                line = {"tier": tier, "text": name, "tokens": len(rows) * (args.window - 1)}
                line |= {"float32": round(a, 5), "int8": round(b, 5)}
                line |= {"rise_percent": round(100 * (b / a - 1), 4)}
                log.write(json.dumps(line) + "\n")
                print(line, flush=True)


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--texts", type=Path, nargs="*", default=[], help="held-out texts")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=60, help="windows a file")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    losses(args, args.out)
    equality(args, args.out)


if __name__ == "__main__":
    main()
