"""Speed of drafters with heads of their own, beside undrafted decoding, on the same prompts.

    python -m benchmarks.heads.speed smollm2 --prompts question.jsonl.zst --of-each 8 \
        hinted suffix=none eagle3=runs/eagle3/head medusa=runs/medusa/head

Each system is a drafter, and after `=` the folder of its head; `none` is no head, and nothing the
head that ships. All answer a prompt in turn, in another order each time. A ratio is that of seconds
a token after the first one; intervals draw prompts. Answers of eight tokens and fewer are left out.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks.real_models.prompts import by_category
from rich.progress import track

from outrider import Generator, Result, load
from outrider.bench.statistics import Ratio

_SHORTEST = 8


def opened(model: str, system: str, threads: int) -> Generator:
    """Return the generator of a system."""
    drafter, _, head = system.partition("=")
    options: dict[str, Any] = {"draft": head} if head else {}
    return load(model, drafter=drafter, threads=threads, **options)


def seconds_a_token(result: Result) -> float:
    """Return the seconds of a token after the first one."""
    times = result.token_times
    return (times[-1] - times[0]) / (len(times) - 1)


def main() -> None:
    """Answer all prompts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("systems", nargs="+")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--of-each", type=int, default=8)
    parser.add_argument("--characters", type=int, default=1500)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    names = ["none=none", *given.systems]
    systems = {name: opened(given.model, name, given.threads) for name in names}
    found: dict[str, list[Result]] = {name: [] for name in names}
    prompts = by_category(given.prompts, given.of_each, given.characters)
    for number, (_, text) in enumerate(track(prompts)):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            result = systems[name].generate(
                [{"role": "user", "content": text}],
                max_new_tokens=given.max_new_tokens,
                temperature=given.temperature,
                seed=1,
            )
            found[name].append(result)
    plain = found[names[0]]
    different = sum(
        a.token_ids != b.token_ids
        for own in found.values()
        for a, b in zip(own, plain, strict=True)
    )
    print("| | tokens a round | speed over undrafted |\n|---|--:|---|")
    for name in given.systems:
        ratio = Ratio.of(
            [
                seconds_a_token(b) / seconds_a_token(a)
                for a, b in zip(found[name], plain, strict=True)
                if len(b.token_ids) > _SHORTEST
            ]
        )
        rounds = sum(result.speculation.target.rounds for result in found[name])
        tokens = sum(len(result.token_ids) for result in found[name]) / rounds
        shown = "" if ratio is None else f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        print(f"| {name} | {tokens:.2f} | {shown} |")
    texts = len(prompts) * len(given.systems)
    print(f"{different} of {texts} drafted texts differ; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
