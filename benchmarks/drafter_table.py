"""Tables of drafters side by side, from the summary of one `outrider bench speed --json` run.

    outrider bench speed tiny --cost-scale x4 --strategies lookup,recycling,... --json > run.jsonl
    python benchmarks/drafter_table.py run.jsonl

The first table holds speedups after the prompt against undrafted decoding of the same run with
their 95 % bounds, and tokens a round; the second where the time went and what was drafted.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PARTS = ("draft", "verify", "accept", "other")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("summary", type=Path, help="what `outrider bench speed --json` printed")
    given = parser.parse_args()
    summary = json.loads(given.summary.read_text(encoding="utf-8").strip().splitlines()[-1])
    workloads: Mapping[str, Any] = summary["workloads"]
    names = [name for name in workloads if name != "all"]
    systems = [s for s in workloads[names[0]]["systems"] if s != "none"]
    print("| | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for system in systems:
        cells = [cell(workloads[name]["systems"][system]) for name in names]
        print(f"| `{system}` | " + " | ".join(cells) + " |")
    print("\n| | drafted a token | kept of drafted | " + " | ".join(PARTS) + " |")
    print("|---" * (len(PARTS) + 3) + "|")
    for system in systems:
        print(f"| `{system}` | " + " | ".join(split(workloads["all"]["systems"][system])) + " |")


def cell(figures: Mapping[str, Any]) -> str:
    """Speedup after the prompt with its bounds, and tokens a round."""
    ratio = figures["decode_speedup"]
    if ratio is None:
        return "-"
    length = figures["mean_accepted_length"]
    return f"{ratio['mean']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}), {length:.2f}"


def split(figures: Mapping[str, Any]) -> list[str]:
    """Drafted tokens for each written, the share that was kept, and shares of the time."""
    shares = figures["time_split"]["share_of_decoding"]
    drafted = figures["drafted"] / figures["tokens"]
    kept = figures["acceptance_rate"]
    return [
        f"{drafted:.2f}",
        "-" if kept is None else f"{kept:.0%}",
        *(f"{shares[part]:.0%}" for part in PARTS),
    ]


if __name__ == "__main__":
    main()
