"""What guidance costs, and what drafts gain under it: one thread, greedy.

    python -m benchmarks.guidance.speed smollm2 --prompts question.jsonl.zst --of-each 2

One copy of the weights writes every prompt three times, in turn: without guidance, guided, and
guided with drafts (`auto`). The first system rotates. Seconds are those of the processor, which
other programs on the machine change little, from the end of the first round on, so that reading the
prompt is left out; all texts have the same length (end tokens are ignored). A line is printed for
each prompt, and ratios with their intervals at the end. After `--seconds` of the clock no other
prompt is begun. Guided texts with and without drafts must be equal.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

from benchmarks.real_models.prompts import by_category

from outrider import Generator, load
from outrider.bench.statistics import Ratio

SYSTEMS = ("plain", "guided", "drafted")


@dataclass(frozen=True)
class Written:
    """One text, and processor seconds for each token after the first round."""

    tokens: tuple[int, ...]
    seconds: float
    forwards: int
    accepted: int
    drafted: int


def write(generator: Generator, prompt: str, length: int) -> Written:
    """Write one text."""
    generator.reset()
    generation, rounds = generator.start(
        [{"role": "user", "content": prompt}],
        max_new_tokens=length,
        temperature=0.0,
        repetition_penalty=1.0,
        ignore_eos=True,
    )
    begun, first = 0.0, 0
    for _ in rounds:
        if not begun:
            begun, first = process_time(), len(generation.output)
    spent = process_time() - begun
    counters = generation.counters
    return Written(
        tokens=tuple(generation.output),
        seconds=spent / (len(generation.output) - first),
        forwards=counters.forwards,
        accepted=counters.accepted,
        drafted=counters.drafted,
    )


def shown(ratio: Ratio | None) -> str:
    """Format a ratio with its interval."""
    assert ratio is not None
    return f"{ratio.mean:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}], n = {ratio.pairs}"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--prompts", type=Path, required=True, help="questions of Spec-Bench")
    parser.add_argument("--of-each", type=int, default=2, help="prompts of each category")
    parser.add_argument("--length", type=int, default=64, help="tokens of each text")
    parser.add_argument("--guidance", default="1.5", help="a scale, or a method with its options")
    parser.add_argument("--dtype", default="auto", help="of the weights, for all systems")
    parser.add_argument("--seconds", type=float, default=480.0)
    given = parser.parse_args()
    plain = load(given.model, threads=1, mode="none", dtype=given.dtype)
    target, codec = plain.strategy.target, plain.tokenizer
    made = {
        "plain": plain,
        "guided": load(target, tokenizer=codec, threads=1, mode="none", guidance=given.guidance),
        "drafted": load(target, tokenizer=codec, threads=1, guidance=given.guidance),
    }
    print(f"{target.info.weights}, cache {target.info.cache}; load {os.getloadavg()}", flush=True)
    prompts = by_category(given.prompts, given.of_each, 4000)
    for generator in made.values():
        write(generator, prompts[0][1], 16)
    cost: list[float] = []
    gain: list[float] = []
    over_plain: list[float] = []
    ended = perf_counter() + given.seconds
    for number, (category, prompt) in enumerate(prompts):
        if perf_counter() > ended:
            print(f"stopped after {number} of {len(prompts)} prompts")
            break
        first = number % len(SYSTEMS)
        order = (*SYSTEMS[first:], *SYSTEMS[:first])
        found = {name: write(made[name], prompt, given.length) for name in order}
        assert found["guided"].tokens == found["drafted"].tokens, f"{category}: texts differ"
        seconds = {name: one.seconds for name, one in found.items()}
        cost.append(seconds["guided"] / seconds["plain"])
        gain.append(seconds["guided"] / seconds["drafted"])
        over_plain.append(seconds["drafted"] / seconds["plain"])
        own = found["drafted"]
        print(
            f"{category:<16} plain {seconds['plain'] * 1e3:.2f} ms, guided "
            f"{cost[-1]:.2f}x, drafted {gain[-1]:.2f}x faster, {own.forwards} forwards, "
            f"{own.accepted} of {own.drafted} drafted tokens accepted",
            flush=True,
        )
    print(f"load {os.getloadavg()}")
    print(f"guided, time of plain: {shown(Ratio.of(cost))}")
    print(f"guided, speedup by drafts: {shown(Ratio.of(gain))}")
    print(f"guided and drafted, time of plain: {shown(Ratio.of(over_plain))}")


if __name__ == "__main__":
    main()
