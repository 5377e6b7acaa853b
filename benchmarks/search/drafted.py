"""Drafts inside searches: the time of each strategy with and without them, and equal texts.

    python -m benchmarks.search.drafted smollm2 --prompts question.jsonl.zst --of-each 4 \
        --part odd "best-of-n(samples=4)" "first-finish(samples=4)"

Both generators search each prompt in turn, in another order each time. They are loaded anew for
each strategy, because earlier answers are drafted from, and several strategies draw the same
samples. A ratio is seconds undrafted over seconds drafted, of the processor and by the clock;
intervals draw prompts. `--part` divides the prompts: one half to choose, one to judge.
"""

import argparse
import json
import os
from pathlib import Path
from time import perf_counter, process_time

from benchmarks.real_models.prompts import by_category
from rich.progress import track

from outrider import load
from outrider.bench.statistics import Ratio

PARTS = ("even", "odd")


def half(path: Path, of_each: int, characters: int, part: str) -> list[tuple[str, str]]:
    """Return prompts of one half, as `benchmarks.real_models.halves` divides them."""
    prompts = by_category(path, of_each if part == "all" else 2 * of_each, characters)
    kinds = len({kind for kind, _ in prompts})
    parts = PARTS if part == "all" else (part,)
    return [pair for i, pair in enumerate(prompts) if PARTS[i // kinds % 2] in parts]


def shown(ratios: list[float]) -> str:
    """Return the mean with its interval."""
    ratio = Ratio.of(ratios)
    return "-" if ratio is None else f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


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
    parser.add_argument("--part", choices=["all", *PARTS], default="all")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each strategy")
    parser.add_argument("--rows", type=Path, help="file to which rows are appended")
    given = parser.parse_args()
    words = given.scorer_words.split(",")

    def scorer(text: str) -> float:
        return sum(word in text.split() for word in words) / len(words)

    prompts = half(given.prompts, given.of_each, given.characters, given.part)
    print("| strategy | processor | clock | prompts | texts that differ |\n|---|---|---|--:|--:|")
    for strategy in given.strategies:
        arms = {
            "undrafted": load(given.model, threads=given.threads, mode="none"),
            "drafted": load(given.model, threads=given.threads, profile=given.profile),
        }
        by_processor, by_clock, differ = [], [], 0
        ends = perf_counter() + given.seconds
        for number, (kind, text) in enumerate(track(prompts, description=strategy)):
            if perf_counter() > ends:
                break
            found, spent = {}, {}
            for name in sorted(arms, reverse=bool(number % 2)):
                begun = process_time()
                found[name] = arms[name].search(
                    strategy,
                    [{"role": "user", "content": text}],
                    scorer=scorer,
                    max_new_tokens=given.max_new_tokens,
                    seed=1,
                )
                spent[name] = process_time() - begun
            plain, drafted = found["undrafted"], found["drafted"]
            by_processor.append(spent["undrafted"] / spent["drafted"])
            by_clock.append(plain.seconds / drafted.seconds)
            texts = [[one.token_ids for one in r.candidates] for r in (plain, drafted)]
            differ += texts[0] != texts[1]
            if given.rows is not None:
                row = {"strategy": strategy, "kind": kind, "seconds": spent}
                clock = {name: result.seconds for name, result in found.items()}
                forwards = {name: result.forwards for name, result in found.items()}
                row |= {"clock": clock, "forwards": forwards, "equal": texts[0] == texts[1]}
                with given.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        ratios = " | ".join(shown(each) for each in (by_processor, by_clock))
        print(f"| `{strategy}` | {ratios} | {len(by_clock)} | {differ} |", flush=True)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
