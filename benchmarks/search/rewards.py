"""DeAL and Transfer Q* beside greedy decoding, beam search and best of n with as many rows.

    python -m benchmarks.search.rewards smollm2 --stories stories.jsonl.zst

`keywords`: a sentence with three words of a sentence of a story is asked for; the reward is the
share of them in the text. `length`: a sentence about one word is asked for; the reward is minus
the distance to `--words` words, divided by `--words`. The weights were set before the first run.
Best of n has as many samples as fit into the rows that DeAL has computed for the same prompt, or
Transfer Q*. Intervals (95 %) draw prompts; differences are paired.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zstandard
from benchmarks.long_inputs.intervals import bootstrap

from outrider import Generator, load
from outrider.search import SearchResult

Reward = Callable[[str], float]


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt with its reward."""

    prompt: str
    reward: Reward


@dataclass(frozen=True, slots=True)
class Written:
    """The text of one system: its reward, mean log-probability and rows."""

    reward: float
    logprob: float
    rows: float


def sentences(path: Path) -> list[list[str]]:
    """Return the words of short sentences, one of each story."""
    text = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().decode()
    found: list[list[str]] = []
    for line in text.splitlines():
        story = json.loads(line)
        own = re.split(r"(?<=[.!?])\s+", str(story.get("text") or story.get("story")))
        fit = [one.split() for one in own if 8 <= len(one.split()) <= 14 and '"' not in one]
        found += fit[:1]
    return found


def keywords(words: list[str]) -> list[str]:
    """Return the three longest different words in small letters."""
    plain = [word.lower() for word in words[1:] if word.isalpha() and word.islower()]
    return sorted(set(plain), key=lambda word: (-len(word), word))[:3]


def share_of(wanted: list[str]) -> Reward:
    """Return the share of these words in a text."""

    def reward(text: str) -> float:
        words = set(re.findall(r"[a-z]+", text.lower()))
        return sum(word in words for word in wanted) / len(wanted)

    return reward


def near(words: int) -> Reward:
    """Return minus the distance to this many words, as a share of it."""
    return lambda text: -abs(len(text.split()) - words) / words


def tasks(name: str, path: Path, count: int, words: int) -> list[Asked]:
    """Return the prompts."""
    found: list[Asked] = []
    for sentence in sentences(path):
        wanted = keywords(sentence)
        if len(wanted) < 3:
            continue
        if name == "keywords":
            prompt = f"Write one sentence with the words: {', '.join(wanted)}."
            found.append(Asked(prompt, share_of(wanted)))
        else:
            found.append(Asked(f"Write one sentence about the word: {wanted[0]}.", near(words)))
    return found[:count]


def main() -> None:
    """Write all texts and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--stories", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["keywords", "length"])
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--first", type=int, default=0, help="prompts that are left out")
    parser.add_argument("--words", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=14)
    parser.add_argument("--beams", type=int, default=2)
    parser.add_argument("--lookahead", type=int, default=4)
    parser.add_argument("--weight", type=float, default=2.0, help="of DeAL's standardised rewards")
    parser.add_argument("--tilt", type=float, default=10.0, help="weight of Transfer Q*")
    parser.add_argument("--seconds", type=float, default=540, help="begins no prompt after them")
    given = parser.parse_args()
    deal = f"deal(num_beams={given.beams},weight={given.weight}"
    other = f"transfer-q(branches={given.beams + 1},weight={given.tilt}"
    systems = {
        "greedy": "beam(num_beams=1)",
        "beam": f"beam(num_beams={given.beams})",
        "deal": f"{deal},lookahead={given.lookahead})",
        "deal, whole segments": f"{deal},lookahead={given.lookahead},keep=segment)",
        "deal, look-ahead 0": f"{deal},lookahead=0)",
        "transfer-q": f"{other},lookahead={given.lookahead})",
        "transfer-q, look-ahead 0": f"{other},lookahead=0)",
    }
    begun = time.perf_counter()
    generator = load(given.model, drafter="none", threads=1)
    found: dict[str, dict[str, list[Written]]] = {name: {} for name in given.tasks}
    asked = {n: tasks(n, given.stories, given.count, given.words) for n in given.tasks}
    for number in range(given.first, min(map(len, asked.values()))):
        for task in given.tasks:
            if time.perf_counter() - begun > given.seconds:
                break
            own = answered(generator, asked[task][number], systems, given.max_new_tokens)
            for name, written in own.items():
                found[task].setdefault(name, []).append(written)
            print(task, {name: round(one.reward, 2) for name, one in own.items()}, flush=True)
    for task in given.tasks:
        shown(task, found[task])


def answered(
    generator: Generator, asked: Asked, systems: dict[str, str], most: int
) -> dict[str, Written]:
    """Return what each system writes, and the best of as many samples as fit."""

    def run(strategy: str, **more: float) -> SearchResult:
        message = [{"role": "user", "content": asked.prompt}]
        return generator.search(  # pyright: ignore[reportReturnType]
            strategy,
            message,  # pyright: ignore[reportArgumentType]
            scorer=asked.reward,
            max_new_tokens=most,
            seed=1,
            **more,  # pyright: ignore[reportArgumentType]
        )

    found = {
        name: measured(result, asked, result.tokens)
        for name, strategy in systems.items()
        for result in [run(strategy)]
    }
    rows = found["deal"].rows
    samples = max(int(rows / most), 1)
    result = run(f"best-of-n(samples={samples})", temperature=0.8)
    for name in ("deal", "transfer-q"):
        number = max(min(int(found[name].rows / most), samples), 1)
        kept = [one for one in result.candidates if int(str(one.about["sample"])) < number]
        best = max(kept, key=lambda one: one.score)
        own = sum(len(one.token_ids) for one in kept)
        found[f"best of n, rows of {name}"] = Written(
            asked.reward(best.text), (best.logprob or 0.0) / len(best.token_ids), own
        )
    return found


def measured(result: SearchResult, asked: Asked, rows: int) -> Written:
    """Return the measures of a result."""
    best = result.best
    return Written(
        asked.reward(best.text), (best.logprob or 0.0) / max(len(best.token_ids), 1), rows
    )


def shown(task: str, found: dict[str, list[Written]]) -> None:
    """Print the table."""
    count = len(found["greedy"])
    print(f"\n{task}: {count} prompts\n")
    print("| | reward | minus best of n, equal rows | log-prob. of a token | rows |")
    print("|---|---|---|--:|--:|")
    for name, own in found.items():
        budget = "transfer-q" if "transfer-q" in name else "deal"
        equal = found[f"best of n, rows of {budget}"]
        mean, low, high = bootstrap([one.reward for one in own])
        pairs = zip(own, equal, strict=True)
        more = bootstrap([one.reward - two.reward for one, two in pairs])
        logprob = sum(one.logprob for one in own) / count
        rows = sum(one.rows for one in own) / count
        print(
            f"| {name} | {mean:.3f} [{low:.3f}, {high:.3f}] "
            f"| {more[0]:+.3f} [{more[1]:+.3f}, {more[2]:+.3f}] | {logprob:.2f} | {rows:.0f} |"
        )
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
