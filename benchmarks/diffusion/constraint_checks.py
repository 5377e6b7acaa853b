"""Seconds of checks of partly filled answers, for schemas and instances of JSONSchemaBench.

    python -m benchmarks.diffusion.constraint_checks FOLDER --tokenizer PATH --out rows.jsonl

Answers are valid instances of at most `--tokens` tokens, all masked, that are filled in random
order or from left to right. At each position a wrong token is asked about first (from another
position of the answer, or any), then the right one, which must be allowed. In every `--every`th
position, the questions are also decided by items from the terminals upwards (`bottom_up.py`); the
answers must be equal. Times are those of the processor.
"""

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from benchmarks.diffusion.bottom_up import completable_bottom_up
from benchmarks.long_inputs.intervals import bootstrap

from outrider.bench.constraints.cases import read_cases
from outrider.constraints.cfg.emptiness import completable
from outrider.constraints.cfg.filling import GrammarFilling, grammar_of
from outrider.constraints.cfg.grammar import Grammar
from outrider.constraints.cfg.pattern import Pattern
from outrider.constraints.cfg.vocabulary import Vocabulary
from outrider.core.errors import OptionError
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling.constraint import Constraint

Row = dict[str, str | int | float | bool]


def fillings(
    folder: Path, splits: list[str], vocabulary: Vocabulary, tokenizer: Tokenizer, most: int
) -> Iterator[tuple[str, GrammarFilling, list[int]]]:
    """Yield schemas with an answer; what is left out is counted and printed."""
    counts, keywords = Counter[str](), Counter[str]()
    cases = read_cases(folder, splits)
    random.Random(0).shuffle(cases)
    try:
        for case in cases:
            counts["schemas"] += 1
            try:
                grammar = grammar_of(Constraint.json_schema(case.schema))
            except OptionError as error:
                counts["refused"] += 1
                keywords[error.problem[:40]] += 1
                continue
            texts = [json.loads(text) for text, valid in case.instances if valid]
            written = [json.dumps(value, ensure_ascii=False) for value in texts]
            fitting = [text for text in written if accepts(grammar, text)]
            counts["instances"] += len(written)
            counts["in the grammar"] += len(fitting)
            answers = [list(tokenizer.encode_plain(text)) for text in fitting]
            short = [answer for answer in answers if 8 <= len(answer) <= most]
            if short:
                counts["used"] += 1
                mask = vocabulary.size
                yield f"{case.split}/{case.id}", GrammarFilling(grammar, vocabulary, mask), short[0]
    finally:
        print(dict(counts), keywords.most_common(8))


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether a whole text is one of a grammar: its properties may stand in another order."""
    return completable(grammar, Pattern(text.encode()))


def filled(
    name: str,
    filling: GrammarFilling,
    answer: list[int],
    order: str,
    every: int,
    rng: random.Random,
) -> Iterator[Row]:
    """Fill one answer; yield a row for each question."""
    end = min(filling.vocabulary.ends)
    whole = [*answer, end]
    places = list(range(len(whole)))
    if order == "random":
        rng.shuffle(places)
    now = [filling.mask_id] * len(whole)
    for count, place in enumerate(places):
        wrong = rng.choice(whole) if rng.random() < 0.7 else rng.randrange(filling.vocabulary.size)
        for token in (wrong, whole[place]):
            asked = [*now]
            asked[place] = token
            begun = process_time()
            allowed = filling.allows(asked)
            seconds = process_time() - begun
            row: Row = {"name": name, "order": order, "length": len(whole), "filled": count}
            row |= {"right": token == whole[place], "allowed": allowed, "seconds": seconds}
            row["symbols"] = filling.grammar.size
            if token == whole[place] and not allowed:
                raise SystemExit(f"a right token was refused: {name}, {asked}")
            pattern = filling.pattern(asked)
            if count % every == 0 and pattern is not None:
                begun = process_time()
                other, items = completable_bottom_up(filling.grammar, pattern)
                row |= {"bottom_up": process_time() - begun, "items": items}
                if other != allowed:
                    raise SystemExit(f"the answers differ: {name}, {asked}")
            yield row
        now[place] = whole[place]


def report(rows: list[Row]) -> None:
    """Print percentiles of milliseconds, and the ratio to items from the terminals upwards."""
    groups = defaultdict(list)
    for row in rows:
        part = int(4 * int(row["filled"]) / int(row["length"]))
        groups[row["order"], "all", "both"].append(row)
        groups[row["order"], f"{part * 25} % filled", "both"].append(row)
        groups[row["order"], "all", "allowed" if row["allowed"] else "refused"].append(row)
    print("order, filled, answer: questions; ms at 50, 90, 99 %, most; mean")
    for key, own in sorted(groups.items()):
        times = np.array([row["seconds"] for row in own]) * 1e3
        at = [f"{np.percentile(times, p):.3f}" for p in (50, 90, 99, 100)]
        print(*key, len(own), *at, f"{times.mean():.3f}", sep=" | ")
    for order in sorted({str(row["order"]) for row in rows}):
        pairs = [row for row in rows if "bottom_up" in row and row["order"] == order]
        logs = [float(np.log(row["bottom_up"] / max(row["seconds"], 1e-6))) for row in pairs]
        if logs:
            middle, low, high = np.exp(bootstrap(logs, [str(row["name"]) for row in pairs]))
            print(f"{order}: bottom-up takes {middle:.1f} times as long ({low:.1f} to {high:.1f})")
            times = np.array([row["bottom_up"] for row in pairs]) * 1e3
            print(
                "  its ms at 50, 90, 99 %, most:", *np.percentile(times, (50, 90, 99, 100)).round(2)
            )


def main() -> None:
    """Run the command that the module describes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", nargs="*", default=["Glaiveai2K", "JME"])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--every", type=int, default=12)
    given = parser.parse_args()
    tokenizer, rng, begun = Tokenizer.load(given.tokenizer), random.Random(0), perf_counter()
    ends = [tokenizer.tokenizer.eos_token_id]
    vocabulary = Vocabulary.of(tokenizer, ends, tokenizer.vocab_size)
    rows = list[Row]()
    with given.out.open("w") as file:
        found = fillings(given.folder, given.splits, vocabulary, tokenizer, given.tokens)
        for name, filling, answer in found:
            for order in ("random", "left to right"):
                for row in filled(name, filling, answer, order, given.every, rng):
                    rows.append(row)
                    file.write(json.dumps(row) + "\n")
            if perf_counter() - begun > given.seconds:
                found.close()
                break
    print(f"{len({row['name'] for row in rows})} schemas, {len(rows)} questions")
    report(rows)


if __name__ == "__main__":
    main()
