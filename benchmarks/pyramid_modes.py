"""How the modes of the pyramid behave on the shipped family: the tables of docs/results.md.

    python benchmarks/pyramid_modes.py --out runs/modes

Decodes the family's first 40 held-out prompts with every mode, at temperature 0 and 0.8, beside
undrafted decoding in the same run. Writes a JSON line for each setting as it goes (a second call
resumes), then a Markdown table and a plot of tokens per target forward against allowed changes.
"""

import argparse
import json
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

import outrider
from outrider.core import metrics
from outrider.core.counters import Counters
from outrider.models.sources.families import families_folder

TEMPERATURES = (0.0, 0.8)
BUDGETS = (0.0, 0.02, 0.05, 0.1, 0.2)
ANY_DIVERGENCE = 1e9
"""A threshold that leaves the decision to the budget alone."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table."""

    tiers: int
    mode: str
    threshold: float | None = None
    max_changed: float | None = None

    @property
    def label(self) -> str:
        """How the table names it."""
        parts = [f"{self.tiers} tiers, {self.mode}" if self.tiers > 1 else "undrafted"]
        if self.threshold is not None and self.threshold < ANY_DIVERGENCE:
            parts.append(f"js <= {self.threshold:g}")
        if self.max_changed is not None:
            parts.append(f"at most {self.max_changed:.0%} changed")
        return ", ".join(parts)

    def load(self, family: Path) -> outrider.Generator:
        """A generator over the models of `family`."""
        options: dict[str, Any] = {"max_changed": self.max_changed}
        if self.threshold is not None:
            options |= {"threshold_target": self.threshold, "threshold_qualifier": self.threshold}
        return outrider.load(
            family / "target",
            qualifier=family / "qualifier" if self.tiers == 3 else None,
            draft=family / "draft" if self.tiers > 1 else None,
            mode=self.mode,
            num_speculative_tokens=4,
            num_qualified_tokens=8,
            **options,
        )


def settings() -> list[Setting]:
    """Undrafted first, then every mode, thresholds, and the budgets."""
    rows = [Setting(tiers=1, mode="none")]
    for tiers in (2, 3):
        rows += [Setting(tiers=tiers, mode=mode) for mode in ("exact", "distribution")]
        rows += [
            Setting(tiers=tiers, mode=mode, threshold=threshold)
            for mode in ("assisted", "fuzzy")
            for threshold in (0.05, 0.1, 0.2)
            if (tiers, mode) != (2, "fuzzy")
        ]
    rows += [
        Setting(tiers=3, mode=mode, threshold=ANY_DIVERGENCE, max_changed=share)
        for mode in ("assisted", "fuzzy")
        for share in BUDGETS
    ]
    return rows


def measure(setting: Setting, family: Path, prompts: list[Any], temperature: float) -> dict:
    """Decode all prompts as one batch and add the counters up."""
    generator = setting.load(family)
    results = generator.generate(prompts, temperature=temperature, seed=1, max_new_tokens=64)
    counters: Counters = metrics.total([r.speculation.target for r in results])
    return {
        "setting": setting.label,
        "tiers": setting.tiers,
        "mode": setting.mode,
        "threshold": setting.threshold,
        "max_changed": setting.max_changed,
        "temperature": temperature,
        "tokens": counters.tokens,
        "target_forwards": counters.forwards,
        "acceptance_rate": metrics.acceptance_rate(counters),
        "mean_accepted_length": metrics.mean_accepted_length(counters),
        "block_efficiency": metrics.block_efficiency(counters),
        "changed": counters.changed,
        "changed_share": metrics.changed_share(counters),
        "sources": counters.sources,
        "texts": [list(r.token_ids) for r in results],
    }


def differing(ours: list[list[int]], plain: list[list[int]]) -> float:
    """Share of positions at which two sets of texts differ, the longer text counted."""
    total = sum(max(len(a), len(b)) for a, b in zip(ours, plain, strict=True))
    same = sum(x == y for a, b in zip(ours, plain, strict=True) for x, y in zip(a, b, strict=False))
    return metrics.ratio(total - same, total)


def table(rows: list[dict], temperature: float) -> str:
    """One Markdown table."""
    head = (
        "| setting | acceptance | mean accepted length | tokens per target forward "
        "| changed tokens | positions unlike undrafted |\n|---|---|---|---|---|---|"
    )
    found = [r for r in rows if r["temperature"] == temperature]
    plain = found[0]["texts"]
    lines = [
        f"| {r['setting']} | {r['acceptance_rate']:.3f} | {r['mean_accepted_length']:.2f} "
        f"| {r['block_efficiency']:.2f} | {r['changed']} ({r['changed_share']:.1%}) "
        f"| {differing(r['texts'], plain):.1%} |"
        for r in found
    ]
    return "\n".join([head, *lines])


def plot(rows: list[dict], path: Path) -> None:
    """Tokens per target forward against allowed changes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for mode in ("assisted", "fuzzy"):
        for temperature, style in zip(TEMPERATURES, ("-", "--"), strict=True):
            found = [
                r
                for r in rows
                if r["mode"] == mode
                and r["max_changed"] is not None
                and r["temperature"] == temperature
            ]
            axes.plot(
                [100 * r["max_changed"] for r in found],
                [r["block_efficiency"] for r in found],
                style,
                marker="o",
                color={"assisted": "tab:blue", "fuzzy": "tab:orange"}[mode],
                label=f"{mode}, temperature {temperature:g}",
            )
    axes.set_xlabel("allowed changed tokens, %")
    axes.set_ylabel("tokens per target forward")
    axes.set_ylim(bottom=1)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure what is missing, then write table and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/modes"))
    parser.add_argument("--family", type=Path, default=families_folder() / "tiny")
    parser.add_argument("--prompts", type=int, default=40)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "rows.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(r["setting"], r["temperature"]) for r in rows}
    lines = (options.family / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    step = max(len(records) // options.prompts, 1)
    prompts = [r.get("prompt") or r["messages"] for r in records[::step]][: options.prompts]
    todo = [(s, t) for s in settings() for t in TEMPERATURES if (s.label, t) not in done]
    with Progress() as progress, log.open("a") as file:
        for setting, temperature in progress.track(todo):
            rows.append(measure(setting, options.family, prompts, temperature))
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
    report = "\n\n".join(f"Temperature {t:g}:\n\n{table(rows, t)}" for t in TEMPERATURES)
    (options.out / "table.md").write_text(report + "\n")
    plot(rows, options.out / "budgets.png")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(report)
    print(
        f"\ncommit {commit}, torch {torch.__version__}, transformers {version('transformers')}, "
        f"Python {platform.python_version()}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, float32, {len(prompts)} prompts, 64 new tokens"
    )


if __name__ == "__main__":
    main()
