"""Selection on the drafters alone, over 16k tokens of input: the same text, and how fast.

    python -m benchmarks.long_inputs.lossless_context --data DIR --out runs/lossless

The target reads everything, so the text cannot change; that is checked by equality, token by
token. Compared: undrafted, a draft model that reads everything, draft models that read a selection
(a share of the chunks, or as much as fits the window that they were trained for, positions
compact), and lookup in the prompt as a reference. Systems take turns, text by text; each writes
from an empty cache.

Neither target nor draft model was trained for 16k tokens: they are stretched copies of the tiny
family (`stretched.py` measures the loss), and the target is cost-scaled: true costs, and the
acceptance of stretched tiny models. Draft models that read a budget are used as they are, within
their window. The input: stories of SQuALITY, one after the other.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from statistics import mean, median
from typing import Any

from benchmarks.long_inputs.inputs.stories import long_story
from benchmarks.long_inputs.inputs.texts import Library
from benchmarks.long_inputs.records import Records, options
from benchmarks.long_inputs.selecting import settings_of
from benchmarks.long_inputs.stretched import KIND, KINDS, stretch

import outrider
from outrider.bench.scaling.scale import cost_scale, cost_scaled_label
from outrider.bench.statistics import Ratio, first_difference, repeated_tokens
from outrider.context.config import ContextConfig
from outrider.context.rankers.sentence import MINILM, SentenceEncoder
from outrider.core.types import Prompt
from outrider.engine.generator import Generator
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model
from outrider.models.sources.families import family

UNDRAFTED = "undrafted"
EVERYTHING = "draft model reads everything"
PACE = "decode_seconds_per_token"
_WARM = 1500


def systems(args: argparse.Namespace) -> dict[str, Generator]:
    """Generators over one target, by the name reports give them."""
    tiers = family("tiny")
    folder = stretch(tiers["target"], args.out / "target", args.factor, args.kind)
    if args.scale != "x1":
        folder = cost_scale(folder, args.scale, args.out / f"target-{args.scale}")
    how: dict[str, Any] = {"dtype": args.dtype, "threads": args.threads}
    target = load_model(folder, name="target", **how)
    codec = Tokenizer.load(tiers["target"])
    long = stretch(tiers[args.tier], args.out / args.tier, args.factor, args.kind)
    long_draft = load_model(long, name="draft", **how)
    short_draft = load_model(tiers[args.tier], name="draft", **how)
    encoder = args.encoder
    if encoder == MINILM:
        encoder = SentenceEncoder(device="cpu")
    common: dict[str, Any] = {"tokenizer": codec, "qualifier": "none"}

    def drafted(draft: Any, **context: Any) -> Generator:
        settings = dict(common, draft=draft, drafter="model", num_speculative_tokens=args.depth)
        if context:
            context |= {"encoder": encoder, "chunk_size": args.chunk_size, "positions": "compact"}
            settings |= {"selection": context, "selection_on": "drafters"}
        return outrider.load(target, **settings)

    found = {
        UNDRAFTED: outrider.load(target, draft="none", mode="none", **common),
        EVERYTHING: drafted(long_draft),
    }
    for ratio in args.ratios:
        found[f"draft model reads {ratio:g} of it"] = drafted(long_draft, keep_ratio=ratio)
    for budget in args.budgets:
        name = f"draft model reads {budget} tokens of it"
        found[name] = drafted(short_draft, keep_ratio=1.0, budget=budget)
    found["lookup"] = outrider.load(target, draft="none", drafter="lookup", **common)
    return found


def measure(args: argparse.Namespace, records: Records) -> None:
    """All systems over all inputs, in turn."""
    own = systems(args)
    library = Library(Tokenizer.load(family("tiny")["target"]))
    label = cost_scaled_label(args.out / f"target-{args.scale}") if args.scale != "x1" else None
    records.add("models", target=label, stretched=f"{args.kind}, {args.factor:g} times")
    prompts = [_prompt(library, args, number, args.input) for number in range(args.texts)]
    short = _prompt(library, args, 0, min(args.input, _WARM))
    for name, generator in own.items():  # kernels and encoders are warm from here on
        _write(generator, short, 8, args)
        print(f"warm: {name}", flush=True)
    for repeat in range(args.repeats):
        for number, prompt in enumerate(prompts):
            for name in list(own)[:: 1 if repeat % 2 == 0 else -1]:
                key = f"{name}, {number}, {repeat}"
                if key not in records.keys:
                    line = _write(own[name], prompt, args.tokens, args)
                    about = {"system": name, "text": number, "repeat": repeat}
                    records.add("run", key=key, **about, prompt_tokens=len(prompt), **line)
                    print(key, {k: v for k, v in line.items() if k != "token_ids"}, flush=True)


def _prompt(library: Library, args: argparse.Namespace, number: int, tokens: int) -> Prompt:
    text, asked, _ = long_story(library, args.data, number, tokens)
    return library.prompt(text, asked, args.chunk_size)


def _write(
    generator: Generator, prompt: Prompt, tokens: int, args: argparse.Namespace
) -> dict[str, Any]:
    generator.reset()
    if prompt.context is not None:  # what was learned of an input is kept with it: forget it
        prompt = replace(prompt, context=replace(prompt.context))
    result = generator.generate(
        prompt,
        temperature=args.temperature,
        seed=0,
        max_new_tokens=tokens,
        ignore_eos=True,
    )
    ids, counts = list(result.token_ids), result.speculation.to_dict()
    total, prefill = result.seconds["total"], result.seconds["prefill"]
    return {
        "token_ids": ids,
        "seconds": total,
        "prefill_seconds": prefill,
        "decode_seconds_per_token": (total - prefill) / len(ids),
        "drafted": counts["drafted"],
        "accepted": counts["accepted"],
        "accepted_length": counts["mean_accepted_length"],
        "undrafted_rounds": counts["undrafted_rounds"],
        "repeated": repeated_tokens(ids),
        "context": _brief(result.context),
    }


def _brief(context: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What was read, without the scores over time."""
    return None if context is None else {k: v for k, v in context.items() if k != "decisions"}


def summarise(records: Records) -> None:
    """Equality, speed and acceptance by system."""
    runs = records.of("run")
    by: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for run in runs:
        by.setdefault(run["system"], {})[run["text"], run["repeat"]] = run
    for name, own in by.items():
        base = [by[UNDRAFTED].get(key) for key in own]
        apart = [
            first_difference(run["token_ids"], other["token_ids"])
            for run, other in zip(own.values(), base, strict=True)
            if other is not None
        ]
        drafted = sum(run["drafted"] for run in own.values())
        line: dict[str, Any] = {
            "system": name,
            "runs": len(own),
            "compared": len(apart),
            "equal": sum(at is None for at in apart),
            "ms_per_token": 1e3 * median(run[PACE] for run in own.values()),
            "prefill_seconds": median(run["prefill_seconds"] for run in own.values()),
            "acceptance_rate": sum(run["accepted"] for run in own.values()) / max(drafted, 1),
            "accepted_length": mean(run["accepted_length"] for run in own.values()),
            "repeated": sum(run["repeated"] for run in own.values()),
            "speedup": _speedup(by[UNDRAFTED], own, PACE),
            "speedup_with_prompt": _speedup(by[UNDRAFTED], own, "seconds"),
        }
        if EVERYTHING in by:
            line["over_everything"] = _speedup(by[EVERYTHING], own, PACE)
        records.add("table", **line)
        print(
            f"{name:40} equal {line['equal']}/{line['compared']}  {line['ms_per_token']:.2f} ms"
            f"  prefill {line['prefill_seconds']:.2f} s  accepted {line['acceptance_rate']:.3f}"
            f" ({line['accepted_length']:.2f} a round)  speedup {_told(line['speedup'])},"
            f" over all read {_told(line.get('over_everything'))}"
        )


Runs = Mapping[tuple[int, int], Mapping[str, Any]]


def _speedup(base: Runs, own: Runs, figure: str) -> dict[str, float] | None:
    """Of paired runs: the same text, the same repeat."""
    pairs = Ratio.of([base[key][figure] / run[figure] for key, run in own.items() if key in base])
    return None if pairs is None else pairs.to_dict()


def _told(ratio: Mapping[str, float] | None) -> str:
    return (
        "-" if ratio is None else f"{ratio['mean']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    )


def main() -> None:
    """Measure all of it."""
    parser = options(__doc__)
    parser.add_argument("--encoder", default=MINILM)
    parser.add_argument("--input", type=int, default=16_384, help="tokens of the long input")
    parser.add_argument("--tokens", type=int, default=192, help="to write")
    parser.add_argument("--texts", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--scale", default="x4", help="cost of the target; x1 leaves it")
    parser.add_argument("--tier", default="draft", help="of the family, which drafts")
    parser.add_argument("--kind", choices=KINDS, default=KIND, help="how models are stretched")
    parser.add_argument("--factor", type=float, default=10.0, help="by how much")
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.25, 0.5])
    parser.add_argument("--budgets", type=int, nargs="*", default=[1400])
    parser.add_argument("--chunk-size", type=int, default=ContextConfig().chunk_size)
    parser.add_argument("--depth", type=int, default=4, help="drafted tokens a round")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    given = settings_of(args)
    given.pop("repeats")
    records = Records(args.out / "lossless_context.jsonl", given)
    measure(args, records)
    summarise(records)


if __name__ == "__main__":
    main()
