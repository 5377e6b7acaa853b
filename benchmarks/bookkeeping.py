"""The share of a text's time that is not prefill, drafting, verification or acceptance.

    PYTHONPATH=../before/src python -m benchmarks.bookkeeping    # the version before
    python -m benchmarks.bookkeeping                             # this one; several times in turn

Writes 40 texts of 100 tokens with `tiny` (int8, one thread, temperature 0.8), undrafted and with
the automatic choice, and prints one line of JSON.
"""

import json
from typing import Any

import outrider

PROMPT = "Once upon a time there was a girl. Once upon a time"
STRATEGIES: dict[str, dict[str, Any]] = {"undrafted": {"mode": "none"}, "auto": {}}
TEXTS, TOKENS = 40, 100


def share(**options: Any) -> float:
    """The share over all texts of one strategy."""
    generator = outrider.load("tiny", threads=1, dtype="int8", **options)
    total = rest = 0.0
    for seed in range(TEXTS):
        result = generator.generate(PROMPT, max_new_tokens=TOKENS, seed=seed, temperature=0.8)
        seconds = result.seconds
        total += seconds["total"]
        rest += seconds["total"] - sum(v for name, v in seconds.items() if name != "total")
    return rest / total


if __name__ == "__main__":
    print(json.dumps({name: round(share(**o), 4) for name, o in STRATEGIES.items()}))
