"""Drafts inside searches: the time of each strategy with and without them, and equal texts.

    python -m benchmarks.search.drafted smollm2 --prompts question.jsonl.zst --of-each 2 \
        "best-of-n(samples=4)" "first-finish(samples=4)"

Both generators search each prompt in turn, in another order each time. A ratio is seconds undrafted
over seconds drafted; intervals draw prompts.
"""

import argparse
import os
from pathlib import Path

from benchmarks.real_models.prompts import by_category
from rich.progress import track

from outrider import load
from outrider.bench.statistics import Ratio


def main() -> None:
    """Search with all strategies and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("strategies", nargs="+")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--of-each", type=int, default=2)
    parser.add_argument("--characters", type=int, default=800)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--scorer-words", default="the,and,of")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", default="none", help="of `outrider tune`")
    given = parser.parse_args()
    arms = {
        "undrafted": load(given.model, threads=given.threads, mode="none"),
        "drafted": load(given.model, threads=given.threads, profile=given.profile),
    }
    words = given.scorer_words.split(",")

    def scorer(text: str) -> float:
        return sum(word in text.split() for word in words) / len(words)

    prompts = by_category(given.prompts, given.of_each, given.characters)
    print("| strategy | speed with drafts | prompts | texts that differ |\n|---|---|--:|--:|")
    for strategy in given.strategies:
        ratios, differ = [], 0
        for number, (_, text) in enumerate(track(prompts, description=strategy)):
            found = {}
            for name in sorted(arms, reverse=bool(number % 2)):
                found[name] = arms[name].search(
                    strategy,
                    [{"role": "user", "content": text}],
                    scorer=scorer,
                    max_new_tokens=given.max_new_tokens,
                    seed=1,
                )
            plain, drafted = found["undrafted"], found["drafted"]
            ratios.append(plain.seconds / drafted.seconds)
            texts = [[one.token_ids for one in r.candidates] for r in (plain, drafted)]
            differ += texts[0] != texts[1]
        ratio = Ratio.of(ratios)
        assert ratio is not None
        shown = f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        print(f"| `{strategy}` | {shown} | {len(ratios)} | {differ} |", flush=True)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
