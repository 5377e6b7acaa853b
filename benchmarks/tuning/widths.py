"""What a forward over few rows takes, alone and with forwards over many rows between.

    python -m benchmarks.tuning.widths smollm2 --repeats 60

The costs that `load` measures run all widths in turns. Where weights stay in the processor's cache
between forwards over few rows, wide forwards may push them out: narrow ones then look slower than
in decoding.
"""

import argparse
import os

from outrider import load
from outrider.models.costs import forward_seconds
from outrider.tuning.facts import lower_quartile

SETS = ((1,), (1, 4), (1, 4, 8), (1, 4, 32), (1,), (1, 4))


def main() -> None:
    """Time the sets of widths one after another, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    model = load(given.model, threads=given.threads, mode="none").strategy.target
    print("| widths in turns | 1 row, ms | 4 rows, ms |\n|---|--:|--:|")
    for widths in SETS:
        found = forward_seconds(model, widths, repeats=given.repeats, summary=lower_quartile)
        shown = [f"{1000 * found[n]:.2f}" if n in found else "" for n in (1, 4)]
        print(f"| {', '.join(map(str, widths))} | {' | '.join(shown)} |", flush=True)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
