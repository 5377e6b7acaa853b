"""Diverse beam search beside beam search with the same number of texts: answers to questions.

    python -m benchmarks.search.diverse_beam smollm2 --paragraphs paragraphs.jsonl.zst

The shortest paragraphs are asked about, one question each. All searches write `--beams` texts in as
many rows a step. F1 is that of words with the reference answer: of the first text, and of the best
one of all texts (oracle). Distinct-n is the share of different n-grams of tokens in all texts of a
question. Strength 0 switches the idea off: all groups are then equal. Intervals draw questions.
After `--seconds` of the clock no other question is begun.
"""

import argparse
import os
import re
from collections import Counter
from pathlib import Path
from time import perf_counter

from benchmarks.long_inputs.intervals import bootstrap

from outrider import load
from outrider.search import SearchResult
from outrider.training.core.corpus import read_records

MEASURES = ("first F1", "oracle F1", "distinct-1", "distinct-2", "different texts", "rows")
_ASK = "Answer the question with a few words from the text.\n\nText: {}\n\nQuestion: {}"


def words(text: str) -> list[str]:
    """Return the words of an answer, without articles."""
    return [word for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an", "the")]


def f1(text: str, reference: str) -> float:
    """Return F1 of words, as in SQuAD."""
    own, right = words(text), words(reference)
    common = sum((Counter(own) & Counter(right)).values())
    return 2 * common / (len(own) + len(right)) if common else 0.0


def distinct(found: SearchResult, size: int) -> float:
    """Return the share of different n-grams among those of all texts."""
    grams = [
        one.token_ids[i : i + size]
        for one in found.candidates
        for i in range(len(one.token_ids) - size + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def measured(found: SearchResult, reference: str) -> list[float]:
    """Return the measures of one search."""
    scores = [f1(one.text, reference) for one in found.candidates]
    different = len({one.token_ids for one in found.candidates}) / len(scores)
    return [
        scores[0],
        max(scores),
        distinct(found, 1),
        distinct(found, 2),
        different,
        float(found.tokens),
    ]


def main() -> None:
    """Ask all questions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--paragraphs", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--beams", type=int, default=10)
    parser.add_argument("--groups", type=int, default=5)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=480.0)
    given = parser.parse_args()
    begun = perf_counter()
    model = load(given.model, threads=1)
    shape = f"num_beams={given.beams},num_groups={given.groups}"
    systems = {"beam": f"beam(num_beams={given.beams})"} | {
        f"diverse-beam, strength {strength:g}": f"diverse-beam({shape},strength={strength:g})"
        for strength in given.strengths
    }
    records = sorted(read_records(given.paragraphs), key=lambda one: len(one["context"]))
    found: dict[str, list[list[float]]] = {name: [] for name in systems}
    for number, record in enumerate(records[: given.questions]):
        if perf_counter() - begun > given.seconds:
            break
        asked = record["qa"][number % len(record["qa"])]
        text = _ASK.format(record["context"], asked["q"])
        for name, search in systems.items():
            result = model.search(
                search,
                [{"role": "user", "content": text}],
                max_new_tokens=given.max_new_tokens,
                temperature=0.0,
            )
            found[name].append(measured(result, asked["a"]))
        told = {name: [round(value, 2) for value in own[-1]] for name, own in found.items()}
        print(number, told, flush=True)
    count = len(found["beam"])
    print(f"| {count} questions | {' | '.join(MEASURES)} |\n|---|{'--:|' * len(MEASURES)}")
    for name, rows in found.items():
        means = [sum(column) / len(column) for column in zip(*rows, strict=True)]
        print(f"| {name} | {' | '.join(f'{value:.3g}' for value in means)} |")
    for name, rows in list(found.items())[1:]:
        pairs = zip(zip(*rows, strict=True), zip(*found["beam"], strict=True), strict=True)
        spans = [bootstrap([a - b for a, b in zip(x, y, strict=True)]) for x, y in pairs]
        cells = [f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in spans[:-1]]
        print(f"| {name} over beam | {' | '.join(cells)} | |")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
