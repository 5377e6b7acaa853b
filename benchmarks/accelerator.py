"""Outrider on an accelerator: the bandwidth floor, two and three tiers, and Hugging Face.

    python benchmarks/accelerator.py --out runs/accelerator

Scales the shipped family to the cost of an 8B target, a 1B qualifier and a 100M draft model in
bfloat16 (outputs, and so acceptance, stay those of the small models; every figure is labelled).
Measures forwards by width against the time that reading the weights takes, the draft model's time
per token, and decoding: undrafted, two tiers, three tiers, and, over the same weights, `generate`
of transformers, plain and assisted. Systems take turns, prompt by prompt. Writes a JSON line for
each measurement to OUT/accelerator.jsonl and ends with a summary, also as a line.

Needs about 20 GB on the device, and as much on the disk for the scaled checkpoints, which are kept
in OUT and found again. `--no-transformers` needs no disk. A small run on the CPU shows that all is
well:

    python benchmarks/accelerator.py --device cpu --target x2 --qualifier x2 --draft x2 \\
        --prompts 1 --tokens 12 --repeats 1 --out runs/smoke
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

import outrider
from outrider.bench.environment import environment
from outrider.bench.memory import bandwidth_gb_s
from outrider.bench.scaling.scale import cost_scale, scaled_decoder
from outrider.bench.workloads import read_workloads
from outrider.core.types import EMPTY_DRAFT, NO_IDS, Prompt
from outrider.models.caches.attaching import attach
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.costs import forward_seconds
from outrider.models.cuda import StaticDecoder
from outrider.models.devices import resolve_device, resolve_dtype
from outrider.models.llama.decoder import Decoder
from outrider.models.sources.families import family
from outrider.protocols import ChainRequest
from outrider.sampling import Sampler, SamplingParams

WORKLOADS = ("stories", "dialogue", "qa")
DRAFT_DEPTH = 6


@dataclass(frozen=True, kw_only=True)
class System:
    """One way to decode: prompt ids and a number of tokens in, tokens out."""

    name: str
    write: Callable[[list[int], int], list[int]]


@dataclass
class Log:
    """JSON lines, on disk and on the screen."""

    file: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, **found: Any) -> None:
        """One measurement."""
        self.lines.append({"kind": kind, **found})
        line = json.dumps(self.lines[-1])
        with self.file.open("a", encoding="utf-8") as out:
            out.write(line + "\n")
        print(line, flush=True)


# -- what is measured ------------------------------------------------------------------------


def load_tiers(args: argparse.Namespace, place: torch.device) -> dict[str, Decoder]:
    """The shipped family, each tier at the cost asked for."""
    dtype = resolve_dtype(args.dtype, place)
    scales = {"target": args.target, "qualifier": args.qualifier, "draft": args.draft}
    tiers: dict[str, Decoder] = {}
    for tier, folder in family("tiny").items():
        if args.transformers:
            checkpoint = cost_scale(folder, scales[tier], scaled_folder(args, tier), widen=None)
            tiers[tier] = StaticDecoder.load(checkpoint, dtype=dtype, device=place, name=tier)
        else:
            tiers[tier] = scaled_decoder(folder, scales[tier], place, dtype, name=tier)
    return tiers


def scaled_folder(args: argparse.Namespace, tier: str) -> Path:
    """Where the scaled checkpoint of one tier is kept."""
    return args.out / f"{tier}-{getattr(args, tier)}"


def measure_forwards(log: Log, tiers: dict[str, Decoder], gb_s: float, context: int) -> None:
    """Time by width, the floor, and its share of a forward over one row."""
    for tier, model in tiers.items():
        seconds = forward_seconds(model, context=context, repeats=30)
        floor = (model.info.weight_bytes or 0) / (gb_s * 1e9)
        log.add(
            "forward",
            tier=tier,
            runner=type(model).__name__,
            parameters=model.info.num_parameters,
            dtype=str(model.dtype),
            context=context,
            ms={n: 1e3 * s for n, s in seconds.items()},
            verify_cost={n: s / seconds[1] for n, s in seconds.items()},
            floor_ms=1e3 * floor,
            floor_share=floor / seconds[1],
        )


def measure_draft(log: Log, model: Decoder, context: int, repeats: int = 30) -> None:
    """Time per drafted token, without the host in between."""
    if not isinstance(model, StaticDecoder):
        return
    ids = tuple(
        int(i) for i in np.random.default_rng(0).integers(5, model.info.vocab_size, context)
    )
    [cache] = model.start([Prompt(token_ids=ids)])
    for params in (SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95, seed=1)):
        sampler, times = Sampler(params), []
        for _ in range(repeats):
            segment, _ = attach(cache, NO_IDS, EMPTY_DRAFT)
            begun = perf_counter()
            written = model.write_chains([ChainRequest(segment, sampler, (), DRAFT_DEPTH)])
            assert written is not None
            times.append((perf_counter() - begun) / DRAFT_DEPTH)
            cache.commit(())
        ms = 1e3 * median(times)
        log.add("draft", temperature=params.temperature, depth=DRAFT_DEPTH, ms_per_token=ms)


# -- who decodes -----------------------------------------------------------------------------


def our_systems(tiers: dict[str, Decoder], tokenizer: Tokenizer) -> list[System]:
    """Undrafted, two tiers, three tiers; greedy, exact, at fixed lengths."""
    two = {"draft": tiers["draft"], "num_speculative_tokens": DRAFT_DEPTH}
    three = two | {"qualifier": tiers["qualifier"], "num_qualified_tokens": 2 * DRAFT_DEPTH}
    settings: dict[str, dict[str, Any]] = {
        "undrafted": {"mode": "none"},
        "two tiers": two,
        "three tiers": three,
    }
    return [
        System(name=name, write=our_writer(tiers["target"], tokenizer, options))
        for name, options in settings.items()
    ]


def our_writer(
    target: Decoder, tokenizer: Tokenizer, options: dict[str, Any]
) -> Callable[[list[int], int], list[int]]:
    """One strategy over models that are loaded already."""
    generator = outrider.load(target, tokenizer=tokenizer, **options)

    def write(prompt: list[int], count: int) -> list[int]:
        generator.reset()
        given = Prompt(token_ids=tuple(prompt))
        result = generator.generate(given, temperature=0, max_new_tokens=count, ignore_eos=True)
        return list(result.token_ids)

    return write


def their_systems(args: argparse.Namespace, place: torch.device) -> list[System]:
    """`generate` of transformers over the same files."""
    from transformers import AutoModelForCausalLM

    dtype = resolve_dtype(args.dtype, place)
    models = {
        tier: AutoModelForCausalLM.from_pretrained(scaled_folder(args, tier), dtype=dtype)
        .to(place)
        .eval()
        for tier in ("target", "draft")
    }
    for model in models.values():
        model.generation_config.eos_token_id = None  # ours ignores end tokens too

    def writer(**options: Any) -> Callable[[list[int], int], list[int]]:
        def write(prompt: list[int], count: int) -> list[int]:
            ids = torch.tensor([prompt], device=place)
            with torch.inference_mode():
                out = models["target"].generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    max_new_tokens=count,
                    pad_token_id=0,
                    **options,
                )
            return out[0, len(prompt) :].tolist()

        return write

    return [
        System(name="transformers", write=writer()),
        System(name="transformers assisted", write=writer(assistant_model=models["draft"])),
    ]


# -- the run ---------------------------------------------------------------------------------


def decode(log: Log, systems: list[System], prompts: list[list[int]], args: Any) -> None:
    """All systems over all prompts, in turn; each warms up on the first prompt."""
    for system in systems:
        system.write(prompts[0], args.tokens)
    for repeat in range(args.repeats):
        for number, prompt in enumerate(prompts):
            texts: dict[str, list[int]] = {}
            for system in systems if repeat % 2 == 0 else reversed(systems):
                begun = perf_counter()
                texts[system.name] = system.write(prompt, args.tokens)
                elapsed = perf_counter() - begun  # the tokens are on the host: nothing is left
                log.add(
                    "decode",
                    system=system.name,
                    prompt=number,
                    repeat=repeat,
                    tokens=len(texts[system.name]),
                    ms_per_token=1e3 * elapsed / len(texts[system.name]),
                )
            for name, text in texts.items():
                log.add("text", system=name, prompt=number, equal=equal(text, texts["undrafted"]))


def equal(ours: list[int], theirs: list[int]) -> int:
    """Tokens before the first difference."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


def summarise(log: Log) -> None:
    """Medians, and speedups as medians of paired ratios."""
    runs = [line for line in log.lines if line["kind"] == "decode"]
    times: dict[str, dict[Any, float]] = {}
    for run in runs:
        times.setdefault(run["system"], {})[run["prompt"], run["repeat"]] = run["ms_per_token"]
    for base in ("undrafted", "transformers"):
        if base not in times:
            continue
        log.add(
            "summary",
            over=base,
            ms_per_token={name: median(own.values()) for name, own in times.items()},
            speedup={
                name: median(times[base][key] / ms for key, ms in own.items())
                for name, own in times.items()
            },
        )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="auto: bfloat16 on CUDA, else float32")
    parser.add_argument("--target", default="8B", help="cost of the target: 8B, x4, ...")
    parser.add_argument("--qualifier", default="1B")
    parser.add_argument("--draft", default="100M")
    parser.add_argument("--prompts", type=int, default=8, help="of each workload")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--context", type=int, default=200, help="cached tokens behind forwards")
    parser.add_argument("--transformers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Measure all of it."""
    args = arguments()
    place = resolve_device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    log = Log(args.out / "accelerator.jsonl")
    command = shlex.join(["python", *sys.argv])
    log.add("environment", **environment(command), cost_scaled=True, scale=args.target)
    gb_s = bandwidth_gb_s(torch.get_num_threads(), place)
    log.add("bandwidth", gb_s=gb_s)
    tiers = load_tiers(args, place)
    measure_forwards(log, tiers, gb_s, args.context)
    measure_draft(log, tiers["draft"], args.context)
    tokenizer = Tokenizer.load(family("tiny")["target"])
    tasks = read_workloads(WORKLOADS, args.prompts)
    prompts = [list(read(tokenizer, task.prompt)) for task in tasks]
    systems = our_systems(tiers, tokenizer)
    systems += their_systems(args, place) if args.transformers else []
    decode(log, systems, prompts, args)
    summarise(log)


def read(tokenizer: Tokenizer, prompt: Any) -> tuple[int, ...]:
    """Ids of a text or of chat messages."""
    return tokenizer.encode(prompt) if isinstance(prompt, str) else tokenizer.chat(prompt)


if __name__ == "__main__":
    main()
