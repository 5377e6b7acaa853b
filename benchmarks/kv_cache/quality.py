"""What a model still knows under each policy of the cache: planted facts, and novels.

    python -m benchmarks.kv_cache.quality MODEL --data DIR --out runs/kv --lengths 2048 4096 \
        --budgets 0.1 0.25 0.5 --facts 20 --books 10

For each length, the same prompts for all systems:

- `one fact`, `four facts`: a chat message with a passage of a novel in which sentences such as "The
  magic number of the tidy candle is 2705579." stand at random places, and a question for one of
  them. The answer is begun for the model, which has to write the seven digits. Right: each digit is
  the most probable one after those before it.
- `book`: nats per token of the next tokens of a novel.

Systems that read the prompt whole share one reading of it (`sharing.py`). Bytes are those of the
cache at the end. Each case is one line in `--out`; an interrupted run goes on where it stopped.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import mean, median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from benchmarks.kv_cache.prompts import Case, books, facts, passages
from benchmarks.kv_cache.sharing import Recorder, under
from benchmarks.long_inputs.inputs.texts import Library
from benchmarks.long_inputs.intervals import bootstrap, wilson
from benchmarks.long_inputs.records import Records, options

from outrider.context.config import ContextConfig
from outrider.context.rankers.make import make_ranker
from outrider.context.selector import Selected
from outrider.core.types import as_ids
from outrider.models.caches.eviction.blocks.actqkv import ActQKV
from outrider.models.caches.eviction.blocks.infllm import InfLLM
from outrider.models.caches.eviction.cache import CompressedCache
from outrider.models.caches.eviction.h2o import H2O
from outrider.models.caches.eviction.heads.duo import Duo
from outrider.models.caches.eviction.heads.gates import Gates
from outrider.models.caches.eviction.policy import KvPolicy
from outrider.models.caches.eviction.snapkv import SnapKV
from outrider.models.caches.eviction.streaming import Streaming
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model, tokenizer_for
from outrider.models.sources.finding import local_folder
from outrider.protocols import Cache, LanguageModel, Segment

_PIECE = 32

Make = Callable[[float], KvPolicy]


def policies(gates: Mapping[str, Gates]) -> tuple[dict[str, Make], dict[str, Make]]:
    """Policies that read a prompt whole, and those that act while they read it."""
    whole: dict[str, Make] = {
        "streaming, prompt whole": lambda b: Streaming(
            budget=b, chunk=0, every=64, positions="original"
        ),
        "h2o": lambda b: H2O(budget=b),
        "snapkv, kernel 7": lambda b: SnapKV(budget=b, kernel=7, pooling="max"),
        "snapkv": lambda b: SnapKV(budget=b),
        **{
            f"heads by {name}": lambda b, own=own: Duo(
                gates=own, budget=b, chunk=0, sinks=16, recent=64
            )
            for name, own in gates.items()
        },
    }
    reading: dict[str, Make] = {
        "streaming": lambda b: Streaming(budget=b),
        "infllm": lambda b: InfLLM(budget=b),
        "actqkv": lambda b: ActQKV(budget=b),
        "actqkv, equal layers": lambda b: ActQKV(budget=b, adaptive=False),
        "actqkv, mean query": lambda b: ActQKV(budget=b, weighted=False),
    }
    return whole, reading


def score(
    model: LanguageModel, cache: Cache, case: Case, start: int = 0, end: int | None = None
) -> dict[str, Any]:
    """Loss of each token of the answer from `start` on, and whether all are the most probable."""
    losses: list[float] = []
    right, at, end = True, start, len(case.answer) if end is None else end
    while at < end:
        most = min(_PIECE, cache.horizon or _PIECE, end - at)
        piece = as_ids(case.answer[at : at + most])
        wanted = np.arange(-1, len(piece) - 1)
        [rows] = model.forward([Segment(cache, piece[:-1])], [wanted])
        logs = torch.log_softmax(rows.logits.double(), dim=-1)
        losses += (-logs[torch.arange(len(piece)), torch.as_tensor(piece)]).tolist()
        right = right and bool((rows.logits.argmax(dim=-1).numpy() == piece).all())
        cache.commit(piece)
        at += len(piece)
    return {"losses": losses, "right": right, "bytes": bytes_of(cache)}


def joined(first: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """Figures of a whole answer; its first token is read like all policies read it."""
    nats = mean([*first["losses"], *rest["losses"]])
    return {"nats": nats, "right": first["right"] and rest["right"], "bytes": rest["bytes"]}


def bytes_of(cache: Any) -> int:
    """Bytes of keys and values of a cache."""
    inner = getattr(cache, "inner", cache)
    return inner.nbytes if isinstance(inner, CompressedCache) else inner.storage.nbytes


def measure(args: argparse.Namespace, records: Records, model: Any, library: Library) -> None:
    """All systems on all cases, in turn; what is there already is left out."""
    whole, reading = policies(_gates(args, model))
    whole = {name: make for name, make in whole.items() if _asked(args, name)}
    reading = {name: make for name, make in reading.items() if _asked(args, name)}
    checked = False
    for case in _cases(args, library):
        length = int(case.key.split()[-2])
        names = {
            (name, budget): make(args_budget(make, budget, length))
            for name, make in whole.items()
            for budget in args.budgets
        }
        left = {
            pair: policy
            for pair, policy in names.items()
            if f"{case.key} {pair[0]} {pair[1]}" not in records.keys
        }
        full = "full" in args.systems and f"{case.key} full 1" not in records.keys
        if left or full:
            recorder = Recorder(policies=list(names.values()))
            begun = process_time()
            whole_model = model.under(recorder)
            [cache] = whole_model.start([case.prompt])
            seconds = process_time() - begun
            first = score(whole_model, cache, case, 0, 1)
            for (name, budget), policy in left.items():
                own = model.under(policy)
                twin = under(cache, recorder, policy)
                twin.layout = own._layout
                found = joined(first, score(own, twin, case, 1))
                if not checked:
                    [apart] = own.start([case.prompt])
                    again = joined(score(own, apart, case, 0, 1), score(own, apart, case, 1))
                    assert again["nats"] == found["nats"], (name, again, found)
                _note(records, case, name, budget, found, seconds)
            checked = True
            if full:
                found = joined(first, score(whole_model, cache, case, 1))
                _note(records, case, "full", 1, found, seconds)
        for name, make in reading.items():
            for budget in args.budgets:
                if f"{case.key} {name} {budget}" in records.keys:
                    continue
                own = model.under(make(args_budget(make, budget, length)))
                begun = process_time()
                [cache] = own.start([case.prompt])
                seconds = process_time() - begun
                found = joined(score(own, cache, case, 0, 1), score(own, cache, case, 1))
                _note(records, case, name, budget, found, seconds)
        if "apce" in args.systems and case.prompt.context is not None:
            _selected(args, records, model, case)
        if perf_counter() - args.begun > args.seconds:
            print("stopped by --seconds", flush=True)
            return


def args_budget(make: Make, budget: float, length: int) -> float:
    """A share for policies of heads, otherwise the rows that this share of a prompt has: then
    positions can be moved into the window."""
    return budget if isinstance(make(budget), Duo) else max(int(budget * length), 2)


def _selected(args: argparse.Namespace, records: Records, model: Any, case: Case) -> None:
    for budget in args.budgets:
        if f"{case.key} apce {budget}" in records.keys:
            continue
        config = ContextConfig(keep_ratio=budget)
        reader = Selected(model, make_ranker(config, model.embed), config)
        begun = process_time()
        [cache] = reader.start([case.prompt])
        seconds = process_time() - begun
        found = joined(score(reader, cache, case, 0, 1), score(reader, cache, case, 1))
        _note(records, case, "apce", budget, found, seconds)


def _cases(args: argparse.Namespace, library: Library) -> Iterator[Case]:
    texts = books(args.data)
    for length in args.lengths:
        for one, four, book in zip(
            *(
                [*own, *[None] * (max(args.facts, args.books) - len(own))]
                for own in (
                    list(facts(library, texts, length, 1, args.facts)),
                    list(facts(library, texts, length, 4, args.facts)),
                    list(passages(library, texts, length, args.scored, args.books)),
                )
            ),
            strict=True,
        ):
            found = (case for case in (one, four, book) if case is not None)
            yield from (case for case in found if case.kind in args.kinds)


def _asked(args: argparse.Namespace, name: str) -> bool:
    return name in args.systems or (name.startswith("heads") and "heads" in args.systems)


def _gates(args: argparse.Namespace, model: Any) -> dict[str, Gates]:
    config = model.config
    drawn = {
        f"chance {seed}": Gates.random(config.num_layers, config.num_kv_heads, seed)
        for seed in range(args.random_gates)
    }
    return drawn | {Path(file).stem: Gates.load(file) for file in args.gates}


def _note(
    records: Records, case: Case, name: str, budget: float, found: dict[str, Any], seconds: float
) -> None:
    records.add(
        "case",
        key=f"{case.key} {name} {budget}",
        case=case.key,
        task=case.kind,
        length=int(case.key.split()[-2]),
        tokens=len(case.prompt),
        system=name,
        budget=budget,
        prefill_seconds=seconds,
        **found,
    )


def summarise(records: Records) -> None:
    """A row for each length, budget and system."""
    rows = records.of("case")
    for length in sorted({row["length"] for row in rows}):
        base = {r["case"]: r for r in rows if r["system"] == "full" and r["length"] == length}
        pairs = dict.fromkeys((r["budget"], r["system"]) for r in rows if r["length"] == length)
        for budget, system in sorted(pairs):
            own = [
                r
                for r in rows
                if (r["length"], r["budget"], r["system"]) == (length, budget, system)
            ]
            print(_line(length, budget, system, own, base))


def _line(
    length: int, budget: float, system: str, own: list[dict[str, Any]], base: dict[str, Any]
) -> str:
    parts = [f"| {length} | {budget:g} | {system} |"]
    for task in ("one fact", "four facts"):
        found = [row["right"] for row in own if row["task"] == task]
        if found:
            low, high = wilson(sum(found), len(found))
            parts.append(f" {sum(found)} of {len(found)} [{low:.2f}, {high:.2f}] |")
        else:
            parts.append(" |")
    book = [
        row["nats"] - base[row["case"]]["nats"]
        for row in own
        if row["task"] == "book" and row["case"] in base
    ]
    if len(book) > 1:
        middle, low, high = bootstrap(book)
        parts.append(f" {middle:+.3f} [{low:+.3f}, {high:+.3f}] |")
    else:
        parts.append(" |")
    parts.append(f" {median(row['bytes'] for row in own) / 1e6:.1f} MB |")
    parts.append(f" {median(row['prefill_seconds'] for row in own):.1f} s |")
    return "".join(parts)


def main() -> None:
    """Measure all of it."""
    parser = options(__doc__)
    parser.add_argument("model")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.1, 0.25, 0.5])
    parser.add_argument("--facts", type=int, default=20, help="prompts of each kind and length")
    parser.add_argument("--books", type=int, default=10, help="passages of each length")
    parser.add_argument("--kinds", nargs="+", default=["one fact", "four facts", "book"])
    parser.add_argument("--scored", type=int, default=256, help="tokens of a passage")
    parser.add_argument("--gates", nargs="*", default=[], help="files of gates")
    parser.add_argument("--random-gates", type=int, default=1, help="gates that are drawn")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--cache-dtype", default="bfloat16")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument(
        "--systems",
        nargs="+",
        default=[
            "full",
            "apce",
            "streaming",
            "streaming, prompt whole",
            "h2o",
            "snapkv",
            "heads",
            "infllm",
            "actqkv",
        ],
    )
    args = parser.parse_args()
    args.begun = perf_counter()
    torch.set_num_threads(1)
    model: Any = load_model(
        local_folder(args.model), dtype=args.dtype, cache_dtype=args.cache_dtype, threads=1
    )
    tokenizer = tokenizer_for(args.model)
    assert isinstance(tokenizer, Tokenizer)
    records = Records(args.out / "quality.jsonl", {"model": args.model, "scored": args.scored})
    measure(args, records, model, Library(tokenizer))
    summarise(records)


if __name__ == "__main__":
    main()
