"""PyramidSD on a real model: two and three tiers in every mode, beside the throughput recursion.

    python -m benchmarks.real_models.pyramid MODEL --students runs/students --prompts FILE

The students come from `benchmarks.real_models.students`. FILE: Spec-Bench prompts, as many from
each of the six official categories, in the chat template of the model. Every setting decodes every
prompt, in turns that rotate, at equal precision. The text of mode exact is compared with undrafted
text. The recursion (`core/metrics.py`) is fed with times measured apart from the runs and with the
acceptance of the runs; then it is asked which cost or acceptance would make three tiers win.
A line of JSON is written for each text, and a second run continues the first.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.draft_tokens import draft_seconds
from benchmarks.real_models.exactness import prompts
from benchmarks.real_models.pyramid_report import COUNTS, DRAFTING, read_lines, report

import outrider
from outrider.core.counters import Counters
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.costs import forward_seconds
from outrider.models.cpu.formats import FORMATS
from outrider.models.cpu.native import NativeDecoder
from outrider.sampling import SamplingParams

TIERS = ("target", "qualifier", "draft")
SAMPLINGS: Mapping[str, Mapping[str, Any]] = {
    "0": {"temperature": 0.0},
    "0.8": {"temperature": 0.8, "top_p": 0.95},
}
WIDTHS = tuple(range(1, 14))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to decode: models from the target down, windows, and the mode."""

    tiers: tuple[str, ...]
    windows: tuple[int, ...] = ()
    mode: str = "exact"
    threshold: float | None = None

    @property
    def label(self) -> str:
        """How tables name it."""
        if len(self.tiers) == 1:
            return "undrafted"
        tail = f"js <= {self.threshold:g}" if self.threshold is not None else ""
        windows = "/".join(map(str, self.windows))
        parts = (self.mode, "-".join(tier[0] for tier in self.tiers), windows, tail)
        return " ".join(part for part in parts if part)

    def open(self, models: Mapping[str, NativeDecoder], codec: Tokenizer) -> outrider.Generator:
        """Put the tiers together."""
        chosen = [models[tier] for tier in self.tiers]
        options: dict[str, Any] = {"qualifier": "none", "draft": "none", "mode": self.mode}
        if len(chosen) > 1:
            options |= {"draft": chosen[-1], "num_speculative_tokens": self.windows[-1]}
            options |= {"drafter": "pyramid" if chosen[2:] else "model"}
        if len(chosen) > 2:
            options |= {"qualifier": chosen[1], "num_qualified_tokens": self.windows[0]}
        if self.threshold is not None:
            options |= {"threshold_target": self.threshold}
            options |= {"threshold_qualifier": self.threshold} if self.mode == "fuzzy" else {}
        return outrider.load(chosen[0], tokenizer=codec, **options)


def settings(temperature: str) -> list[Setting]:
    """Undrafted, both pairs and all three tiers; lossless first, then by threshold."""
    greedy = temperature == "0"
    pairs = (("target", "draft"), ("target", "qualifier"))
    rows = [Setting(tiers=("target",), mode="none")]
    rows += [Setting(tiers=pair, windows=(k,)) for pair in pairs for k in ((1, 2, 4)[: 2 + greedy])]
    rows += [Setting(tiers=TIERS, windows=(high, 2)) for high in ((3, 5)[: 1 + greedy])]
    if not greedy:
        rows += [Setting(tiers=pair, windows=(2,), mode="distribution") for pair in pairs]
        rows += [Setting(tiers=TIERS, windows=(3, 2), mode="distribution")]
    for threshold in (0.1, 0.2, 0.4) if greedy else (0.2,):
        lossy: dict[str, Any] = {"threshold": threshold}
        rows += [Setting(tiers=pair, windows=(4,), mode="fuzzy", **lossy) for pair in pairs]
        rows += [
            Setting(tiers=TIERS, windows=(8, 4), mode=mode, **lossy)
            for mode in ("assisted", "fuzzy")
        ]
    return rows


class Run:
    """Decodes prompt by prompt; costs are measured between them, under the same load."""

    def __init__(self, models: Mapping[str, NativeDecoder], codec: Tokenizer, out: Path) -> None:
        self._models, self._codec, self._out = models, codec, out
        self._done = {line.get("key") for line in read_lines(out)}

    def decode(self, number: int, text: str, temperature: str, tokens: int) -> None:
        """Let every setting decode one prompt that is not done yet, beginning with another one
        for each prompt."""
        rows = settings(temperature)
        chat = [{"role": "user", "content": text}]
        turn = number % len(rows)
        for setting in rows[turn:] + rows[:turn]:
            key = f"{temperature}|{number}|{setting.label}"
            if key not in self._done:
                line = self._text(setting, chat, temperature, tokens, number)
                self._write({"key": key, "temperature": temperature, "prompt": number} | line)

    def costs(self, repeats: int = 3) -> None:
        """Time the forwards of all tiers a few times."""
        found: dict[str, dict[int, float]] = {}
        for tier, model in self._models.items():
            found[tier] = forward_seconds(model, WIDTHS, repeats=repeats, summary=min)
            found[tier][DRAFTING] = draft_seconds(model, SamplingParams(seed=0), 4, repeats)
        self._write({"costs": found, "load": os.getloadavg()[0]})

    def _text(
        self, setting: Setting, chat: Any, temperature: str, tokens: int, seed: int
    ) -> dict[str, Any]:
        generator = setting.open(self._models, self._codec)
        begun = perf_counter()
        result = generator.generate(
            chat, max_new_tokens=tokens, ignore_eos=True, seed=seed, **SAMPLINGS[temperature]
        )
        outer = result.speculation.target
        seconds = perf_counter() - begun - outer.seconds.get("prefill", 0.0)
        inner = result.speculation.stages.get("qualifier") if setting.tiers[2:] else None
        return {
            "setting": dataclasses.asdict(setting) | {"label": setting.label},
            "ids": list(result.token_ids),
            "seconds": seconds,
            "outer": _counts(outer),
            "inner": None if inner is None else _counts(inner),
            "load": os.getloadavg()[0],
        }

    def _write(self, line: Mapping[str, Any]) -> None:
        with self._out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _counts(counters: Counters) -> dict[str, int]:
    return {name: getattr(counters, name) for name in COUNTS}


def main() -> None:
    """Parse the command line, decode what is missing, and print the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--students", type=Path, required=True, help="qualifier/ and draft/")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--count", type=int, default=12, help="prompts, from each category in turn")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--dtype", default="int8", choices=FORMATS)
    parser.add_argument("--out", type=Path, default=Path("runs/pyramid.jsonl"))
    parser.add_argument("--report-only", action="store_true")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    if not given.report_only:
        places = {"target": given.model} | {tier: given.students / tier for tier in TIERS[1:]}
        dtype = FORMATS[given.dtype].dtype
        models = {
            tier: NativeDecoder.load(place, dtype=dtype, threads=1)
            for tier, place in places.items()
        }
        run = Run(models, Tokenizer.load(given.model), given.out)
        for number, text in enumerate(prompts(given.prompts)[: given.count]):
            run.costs()
            for temperature in SAMPLINGS:
                run.decode(number, text, temperature, given.max_new_tokens)
            print(f"prompt {number}, load {os.getloadavg()[0]:.1f}", flush=True)
    print(report(read_lines(given.out)))


if __name__ == "__main__":
    main()
