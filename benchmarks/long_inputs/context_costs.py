"""Memory and time of a selection, against reading everything, with a cost-scaled target.

    python -m benchmarks.long_inputs.context_costs --data DIR --out runs/context-costs

The target is the tiny family's, stretched to long inputs and cost-scaled (true costs; what it would
write is worth nothing, so a human text is forced to be written, one token at a time). Inputs:
stories of SQuALITY, one after the other. Each run is a fresh process: it loads model and encoder,
notes its resident memory, resets the high-water mark, reads the prompt and writes. Runs of all
settings take turns.

Reported for each: bytes of keys and values at most (generated tokens included); peak memory less
that after loading; seconds to the first token, of which choosing chunks (encoding included);
milliseconds a token after it, refreshes included; the share of that spent on refreshes; swaps, and
tokens read again, per 1,000 written tokens; medians, and ratios to reading everything.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.long_inputs.inputs.stories import long_story
from benchmarks.long_inputs.inputs.texts import Library
from benchmarks.long_inputs.records import Records
from benchmarks.long_inputs.selecting import settings_of
from benchmarks.long_inputs.stretched import KIND, KINDS, stretch

from outrider.bench.memory import peak_bytes, reset_peak
from outrider.bench.scaling.scale import cost_scale, cost_scaled_label
from outrider.context.config import ContextConfig
from outrider.context.rankers.make import make_ranker
from outrider.context.selector import Selected
from outrider.core.types import NO_IDS, Passage, Prompt, as_ids
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model
from outrider.models.sources.families import family
from outrider.protocols import LanguageModel, Segment

DENSE = "dense"
FIGURES = (
    "kv_bytes",
    "peak_bytes",
    "ttft_seconds",
    "select_seconds",
    "ms_per_token",
    "refresh_share",
    "seconds",
    "swaps_per_1000",
    "read_again_per_1000",
)


# -- one run, in a process of its own ----------------------------------------------------------


def run_one(job: Mapping[str, Any]) -> dict[str, Any]:
    """Load, read, write; the figures of one setting."""
    model: Any = load_model(job["folder"], dtype=job["dtype"], threads=job["threads"])
    library = Library(Tokenizer.load(family("tiny")["target"]))
    text, asked, told = long_story(library, Path(job["data"]), job["story"], job["input"])
    config = ContextConfig.of(**job["context"]) if job["context"] else ContextConfig()
    prompt = library.prompt(text, asked, config.chunk_size)
    forced = library.passage(told).token_ids
    forced = (forced * (job["tokens"] // max(len(forced), 1) + 1))[: job["tokens"]]
    model.forward([Segment(model.start([_short(prompt)])[0], NO_IDS)], [as_ids([-1])])  # warm
    before_encoder = resident_bytes()
    if job["context"]:
        ranker = make_ranker(config, model.embed)
        _warm(ranker)
        model = Selected(model, ranker, config)
    loaded = resident_bytes()
    resets = reset_peak()
    found = timed(model, prompt, forced)
    found |= {"peak_bytes": peak_bytes() - loaded, "resets": resets}
    return found | {"loaded_bytes": loaded, "encoder_bytes": loaded - before_encoder}


def _short(prompt: Prompt) -> Prompt:
    return Prompt(token_ids=prompt.token_ids[:64])


def _warm(ranker: Any) -> None:
    """Load the encoder, where there is one: its weights are no cost of the input's."""
    encoder = ranker.encoder
    if encoder is not None and ranker.encoder_name != "embeddings":
        encoder.encode([Passage("Once upon a time.", ())])


def timed(model: LanguageModel, prompt: Prompt, forced: Sequence[int]) -> dict[str, Any]:
    """Read the prompt and write the tokens, by the clock."""
    begun = perf_counter()
    [cache] = model.start([prompt])
    model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
    first = perf_counter()
    cache.commit(forced[:1])
    for token in forced[1:]:
        model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
        cache.commit([token])
    ended = perf_counter()
    reading = cache.report.reading
    figures = {} if reading is None else reading.to_dict()
    rows = figures.get("kv_tokens", len(cache.text))
    refreshing = figures.get("refresh_seconds", 0.0)
    per = 1000 / len(forced)
    return {
        "prompt_tokens": len(prompt),
        "held_tokens": len(cache.text) - len(forced),
        "kv_bytes": rows * model.info.bytes_per_token,
        "ttft_seconds": first - begun,
        "select_seconds": figures.get("select_seconds", 0.0),
        "ms_per_token": 1e3 * (ended - first) / max(len(forced) - 1, 1),
        "refresh_seconds": refreshing,
        "refresh_share": refreshing / (ended - first),
        "seconds": ended - begun,
        "swaps_per_1000": figures.get("swaps", 0) * per,
        "read_again_per_1000": figures.get("recomputed_tokens", 0) * per,
        "refreshes": figures.get("refreshes", 0),
    }


def resident_bytes() -> int:
    """Resident memory of this process now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


# -- all of them -------------------------------------------------------------------------------


def settings(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Reading everything, and each keep ratio with each encoder."""
    yield DENSE, None
    for ratio in args.ratios:
        for encoder in args.encoders:
            context = {"keep_ratio": ratio, "encoder": encoder, "positions": args.positions}
            extra = dict(part.split("=") for part in args.context.split(",") if part)
            context |= {name: _number(value) for name, value in extra.items()}
            yield f"{ratio:g}, {encoder}", context


def _number(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def run(args: argparse.Namespace, records: Records) -> None:
    """All runs; those that are there already are left out."""
    folder = stretch(family("tiny")["target"], args.out / "target", args.factor, args.kind)
    if args.scale != "x1":
        folder = cost_scale(folder, args.scale, args.out / f"target-{args.scale}")
    records.add(
        "models", target=cost_scaled_label(folder), stretched=f"{args.kind}, {args.factor:g} times"
    )
    for length in args.inputs:
        for repeat in range(args.repeats):
            own = list(settings(args))
            for name, context in own if repeat % 2 == 0 else reversed(own):
                key = f"{length}, {name}, {repeat}"
                if key in records.keys:
                    continue
                job = {
                    "folder": str(folder),
                    "data": str(args.data),
                    "dtype": args.dtype,
                    "threads": args.threads,
                    "input": length,
                    "tokens": args.tokens,
                    "story": args.story,
                    "context": context,
                }
                found = _in_a_process(job)
                about = {"input": length, "setting": name, "repeat": repeat}
                records.add("run", key=key, **about, **found)
                print(key, {k: round(found[k], 4) for k in FIGURES}, flush=True)


def _in_a_process(job: Mapping[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.long_inputs.context_costs", "--one"]
    done = subprocess.run(
        [*command, json.dumps(job)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def summarise(records: Records) -> None:
    """Medians, and their ratios to reading everything."""
    runs = records.of("run")
    for length in dict.fromkeys(run["input"] for run in runs):
        own = [run for run in runs if run["input"] == length]
        dense = [run for run in own if run["setting"] == DENSE]
        print(f"\n{length} tokens, {len(dense)} repeats")
        for name in dict.fromkeys(run["setting"] for run in own):
            mine = [run for run in own if run["setting"] == name]
            middle = {figure: median(run[figure] for run in mine) for figure in FIGURES}
            base = {figure: median(run[figure] for run in dense) for figure in FIGURES}
            ratios = {
                figure: middle[figure] / base[figure]
                for figure in ("kv_bytes", "peak_bytes", "ttft_seconds", "ms_per_token", "seconds")
                if dense and base[figure]
            }
            about = {"input": length, "setting": name, "runs": len(mine)}
            records.add("table", **about, median=middle, over_dense=ratios)
            print(f"  {name:18}", "  ".join(f"{k} {v:.3g}" for k, v in middle.items()))
            print(f"  {'':18}", "  ".join(f"{k} {v:.3f} of dense" for k, v in ratios.items()))


def main() -> None:
    """Measure all of it, or with `--one` a single run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, help="folder for models and results")
    parser.add_argument("--inputs", type=int, nargs="+", default=[8192, 16_384, 32_000])
    parser.add_argument("--tokens", type=int, default=200, help="to write")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.7])
    parser.add_argument("--encoders", nargs="+", default=["minilm", "embeddings"])
    parser.add_argument("--positions", default="original")
    parser.add_argument("--context", default="", help="further settings: max_swaps=1,refresh=128")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--story", type=int, default=0, help="the first one of the input")
    parser.add_argument("--scale", default="x4", help="cost of the target; x1 leaves it")
    parser.add_argument("--kind", choices=KINDS, default=KIND, help="how models are stretched")
    parser.add_argument("--factor", type=float, default=17.0, help="by how much")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(run_one(json.loads(args.one))))
        return
    if args.data is None or args.out is None:
        parser.error("--data and --out are needed")
    args.out.mkdir(parents=True, exist_ok=True)
    given = {k: v for k, v in settings_of(args).items() if k not in ("one", "repeats", "inputs")}
    records = Records(args.out / "context_costs.jsonl", given)
    run(args, records)
    summarise(records)


if __name__ == "__main__":
    main()
