"""Two files of prompts by the six official categories of Spec-Bench, without a common prompt.

    python -m benchmarks.real_models.halves question.jsonl.zst runs/spec --of-each 40

Writes `FOLDER/even.jsonl` and `FOLDER/odd.jsonl`: a choice is made on the one, and judged again on
the other. Longer prompts are cut to `--characters`.
"""

import argparse
import json
from pathlib import Path

from benchmarks.real_models.prompts import by_category


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--of-each", type=int, default=40, help="prompts of a category, each file")
    parser.add_argument("--characters", type=int, default=1500)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    texts = by_category(given.prompts, 2 * given.of_each, given.characters)
    kinds = len({kind for kind, _ in texts})
    for part, name in enumerate(("even", "odd")):
        lines = [
            json.dumps({"category": kind, "prompt": text})
            for number, (kind, text) in enumerate(texts)
            if number // kinds % 2 == part
        ]
        (given.folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
