"""At which costs three tiers beat two: measured, beside the throughput recursion.

    python benchmarks/pyramid_costs.py --out runs/costs --case 100M,20M,5M

Deepens the tiers of the tiny family with blocks that change no output (cost-scaled: true costs with
true acceptance), then decodes the same prompts undrafted, with two tiers (the draft model or the
qualifier drafts) and with three, at several lengths, in turns. The recursion (`metrics.py`) is fed
with forward times measured apart from the runs, and with the acceptance the runs had. `--budgets`
does the same for fuzzy rules with a budget of changed tokens. Writes a JSON line for each setting.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from draft_tokens import draft_seconds

import outrider
from outrider.bench.scaling.scale import cost_scale
from outrider.core import metrics
from outrider.core.counters import Counters
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.costs import forward_seconds
from outrider.models.cpu.native import NativeDecoder
from outrider.models.sources.families import family
from outrider.sampling import SamplingParams

TIERS = ("target", "qualifier", "draft")
SAMPLINGS: dict[str, dict[str, Any]] = {
    "0": {"temperature": 0.0},
    "0.8": {"temperature": 0.8, "top_p": 0.95},
}
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 17)
DRAFTING = 0
"""Key of the seconds of a token in a draft, beside those of forwards by their rows."""
ANY = 1e9
"""A threshold that leaves the decision to the budget alone."""


@dataclass(kw_only=True)
class Setting:
    """One way to decode, and what was measured of it."""

    label: str
    tiers: tuple[str, ...]
    windows: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    generator: Any = None
    tokens: int = 0
    spent: dict[int, list[float]] = field(default_factory=dict)
    repeated: int = 0
    outer: list[Counters] = field(default_factory=list)
    inner: list[Counters] = field(default_factory=list)

    def open(self, models: dict[str, NativeDecoder], codec: Tokenizer) -> None:
        """Put the tiers together."""
        chosen = [models[tier] for tier in self.tiers]
        rest: dict[str, Any] = {"qualifier": "none", "draft": "none"}
        if len(chosen) > 1:
            rest |= {"draft": chosen[-1], "drafter": "pyramid" if chosen[2:] else "model"}
            rest |= {"num_speculative_tokens": self.windows[-1]}
        if len(chosen) > 2:
            rest |= {"qualifier": chosen[1], "num_qualified_tokens": self.windows[0]}
        mode = "none" if len(chosen) == 1 else "exact"
        options = {"mode": mode, "tokenizer": codec} | rest | self.options
        self.generator = outrider.load(chosen[0], **options)

    def run(self, prompt: Any, seed: int, tokens: int, sampling: dict[str, Any]) -> None:
        """Decode one prompt; the time to read it is left out."""
        self.generator.reset()
        begun = perf_counter()
        result = self.generator.generate(
            prompt, max_new_tokens=tokens, ignore_eos=True, seed=seed, **sampling
        )
        elapsed = perf_counter() - begun
        counters = result.speculation.target
        times = self.spent.setdefault(seed, [])
        times.append(elapsed - counters.seconds.get("prefill", 0.0))
        if len(times) > 1:
            return
        self.tokens += len(result.token_ids)
        self.repeated += repeated(result.token_ids)
        self.outer.append(counters)
        self.inner += [c for name, c in result.speculation.stages.items() if name == "qualifier"]

    @property
    def seconds(self) -> float:
        """The sum over prompts of the median over repeats."""
        return sum(median(times) for times in self.spent.values())

    def line(self, costs: dict[str, dict[int, float]]) -> dict[str, Any]:
        """What goes to the file."""
        outer = metrics.total(self.outer)
        predicted = self.predict(costs, outer)
        speed = self.tokens / self.seconds
        return {
            "setting": self.label,
            "windows": self.windows,
            "tokens": self.tokens,
            "tokens_per_second": round(speed, 2),
            "predicted": None if predicted is None else round(predicted, 2),
            "measured_over_predicted": None if predicted is None else round(speed / predicted, 3),
            "tokens_per_target_forward": round(metrics.block_efficiency(outer), 3),
            "acceptance_chance": round(metrics.acceptance_chance(outer), 4),
            "changed_share": round(metrics.changed_share(outer), 4),
            "repeated_8_grams": round(self.repeated / self.tokens, 4),
        }

    def predict(self, costs: dict[str, dict[int, float]], outer: Counters) -> float | None:
        """The recursion, with costs from outside the run."""
        if len(self.tiers) == 1:
            return 1.0 / costs["target"][1]
        verify = costs["target"][self.windows[0] + 1]
        accept = metrics.acceptance_chance(outer)
        if len(self.tiers) == 2:
            each = costs[self.tiers[-1]][DRAFTING]
            return metrics.predicted_two_tier_speed(each, verify, accept, self.windows[0])
        inner = metrics.total(self.inner)
        return metrics.predicted_speed(
            metrics.PyramidCosts(
                draft=costs["draft"][DRAFTING],
                qualifier=costs["qualifier"][self.windows[1] + 1],
                target=verify,
                accept_qualifier=metrics.acceptance_chance(inner),
                accept_target=accept,
            ),
            self.windows[1],
            self.windows[0],
        )


def repeated(ids: tuple[int, ...] | list[int], size: int = 8) -> int:
    """Tokens inside an n-gram that stood earlier in the text."""
    seen: set[tuple[int, ...]] = set()
    inside = [False] * len(ids)
    for start in range(len(ids) - size + 1):
        gram = tuple(ids[start : start + size])
        if gram in seen:
            inside[start : start + size] = [True] * size
        seen.add(gram)
    return sum(inside)


def exact_settings() -> Iterator[Setting]:
    """Undrafted, two tiers of both kinds, three tiers."""
    yield Setting(label="undrafted", tiers=("target",))
    for draft in ("draft", "qualifier"):
        for k in (2, 3, 4, 6, 8):
            yield Setting(label=f"2 tiers, {draft}", tiers=("target", draft), windows=(k,))
    for low, high in ((2, 4), (2, 6), (3, 6), (3, 8), (4, 8), (3, 10)):
        yield Setting(label="3 tiers", tiers=TIERS, windows=(high, low))


def budget_settings() -> Iterator[Setting]:
    """Fuzzy rules under budgets, and the paper's own kind of threshold."""
    yield Setting(label="undrafted", tiers=("target",))
    yield Setting(label="2 tiers, exact", tiers=("target", "draft"), windows=(4,))
    for mode in ("assisted", "fuzzy"):
        for budget in (0.0, 0.02, 0.05, 0.1, 0.2):
            options: dict[str, Any] = {"mode": mode, "max_changed": budget}
            options |= {"threshold_target": ANY}
            options |= {"threshold_qualifier": 0.1 if mode == "fuzzy" else ANY}
            label = f"3 tiers, {mode}, at most {budget:.0%} changed"
            yield Setting(label=label, tiers=TIERS, windows=(12, 4), options=options)
        options = {"mode": mode, "threshold_target": 0.4, "threshold_qualifier": 0.3}
        label = f"3 tiers, {mode}, thresholds 0.3 and 0.4"
        yield Setting(label=label, tiers=TIERS, windows=(12, 4), options=options)


def prompts(count: int) -> list[Any]:
    """The same number of each built-in workload but `copy`."""
    file = Path(outrider.__file__).parent / "bench" / "prompts.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found: list[Any] = []
    for workload in ("stories", "dialogue", "qa"):
        own = [line["prompt"] for line in lines if line["workload"] == workload]
        found += own[: count // 3]
    return found


def measure_case(case: str, args: argparse.Namespace) -> None:
    """One trio of sizes; `-` leaves a tier as it is."""
    folders = family("tiny")
    models: dict[str, NativeDecoder] = {}
    for tier, spec in zip(TIERS, case.split(","), strict=True):
        folder = folders[tier]
        if spec != "-":
            folder = cost_scale(folder, spec, args.out / f"{tier}-{spec}")
        models[tier] = NativeDecoder.load(folder, dtype=torch.int8, threads=args.threads)
    codec = Tokenizer.load(folders["target"])
    costs = {tier: forward_seconds(model, WIDTHS) for tier, model in models.items()}
    for tier in TIERS[1:]:
        costs[tier][DRAFTING] = draft_seconds(models[tier], SamplingParams(seed=0))
    ones = [costs["target"][1], costs["qualifier"][1], costs["draft"][DRAFTING]]
    told = ":".join(f"{20 * one / ones[0]:.2f}" for one in ones)
    print(f"\ncost-scaled {case}: costs {told}, target {ones[0] * 1e3:.2f} ms")
    for temperature, sampling in SAMPLINGS.items():
        settings = list(budget_settings() if args.budgets else exact_settings())
        for setting in settings:
            setting.open(models, codec)
            setting.generator.generate("Once", max_new_tokens=16, ignore_eos=True)
        for seed, prompt in enumerate(prompts(args.prompts)):
            for repeat in range(args.repeats):
                turn = (seed * args.repeats + repeat) % len(settings)
                for setting in settings[turn:] + settings[:turn]:
                    setting.run(prompt, seed, args.tokens, sampling)
        with (args.out / "lines.jsonl").open("a") as log:
            for setting in settings:
                line = {"case": case, "costs": told, "temperature": temperature}
                line |= setting.line(costs)
                log.write(json.dumps(line) + "\n")
                print(line, flush=True)


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--case", action="append", required=True, help="target,qualifier,draft sizes, such as -"
    )
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--budgets", action="store_true", help="fuzzy rules instead of exact ones")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for case in args.case:
        measure_case(case, args)


if __name__ == "__main__":
    main()
