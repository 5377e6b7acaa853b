"""Repetition, coherence and speed of momentum decoding, beside other ways to continue a text.

    python -m benchmarks.search.momentum smollm2 --texts val.jsonl.zst --prompts 40

Each text continues the first words of a passage of a book (`{"text"}` records) for a fixed number
of tokens. All systems continue a prompt in turn, in another order each time. `share of 4` is the
share of tokens inside 4-grams that occur more than once in a continuation; `diversity` is that of
the paper, the product of the shares of different 2-, 3- and 4-grams. How well a text fits its
prompt: `information` is the mean log-probability of its tokens after the prompt less that after the
end of another text (`<|endoftext|>`), `late` that of its second half; `words` and `pairs` are the
F1 of words and of pairs of words with the true continuation. The true continuation, and that of
another passage (which has as many tokens), are the bounds of these. Times are processor seconds of
the process, which runs in one thread. Intervals draw prompts. Ctrl-C prints the tables of what is
done.
"""

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from time import process_time

import numpy as np
from benchmarks.search.intervals import difference, shown
from benchmarks.search.votes.coherence import Fit, fit
from rich.progress import track

from outrider import Generator, load
from outrider.bench.statistics import Ratio, repeated_tokens
from outrider.training.core.corpus import read_records

GREEDY, COSTLY, OWN = "greedy, by `generate`", "contrastive, k 5", "momentum"
TRUE, OTHER = "true continuation", "that of another passage"
SAMPLED = "top-p sampling (0.95)"
SYSTEMS = {
    GREEDY: ("none", ""),
    SAMPLED: ("none", ""),
    OWN: ("none", "momentum"),
    "momentum, resistance `blocking`": ("none", "momentum(resistance=blocking)"),
    COSTLY: ("none", "contrastive(top_k=5)"),
}
CHECKS = {
    "momentum, alpha 0": ("none", "momentum(alpha=0.0)", GREEDY),
    "momentum, drafted": ("auto", "momentum", OWN),
}
"""Systems whose texts must be those of another one."""


@dataclass(frozen=True)
class Written:
    """A continuation.

    Attributes:
        tokens: its tokens.
        seconds: processor seconds; 0: it was not written.
        fits: how well it fits its prompt.
    """

    tokens: tuple[int, ...]
    seconds: float
    fits: Fit

    @property
    def repeated(self) -> float:
        """The share of tokens inside repeated 4-grams."""
        return repeated_tokens(self.tokens, 4) / len(self.tokens)

    @property
    def diversity(self) -> float:
        """The product of the shares of different n-grams."""
        return prod(_different(self.tokens, length) for length in (2, 3, 4))


def _different(tokens: Sequence[int], length: int) -> float:
    runs = [tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)]
    return len(set(runs)) / len(runs)


def written(
    generator: Generator, name: str, search: str, prompt: str, count: int, seed: int
) -> tuple[tuple[int, ...], float]:
    """Continue a prompt by a system; return the tokens and the processor seconds."""
    begun = process_time()
    if not search:
        warm = {"temperature": 1.0, "top_p": 0.95} if name == SAMPLED else {"temperature": 0.0}
        result = generator.generate(
            prompt, max_new_tokens=count, ignore_eos=True, seed=seed, **warm
        )
        return tuple(result.token_ids), process_time() - begun
    found = generator.search(search, prompt, max_new_tokens=count, ignore_eos=True, seed=seed).best
    return found.token_ids, process_time() - begun


def passages(path: Path, number: int, words: int, most: int) -> list[tuple[str, str]]:
    """Return the first words of passages and what follows, at equal distances in the file."""
    texts = [record["text"].split() for record in read_records(path)]
    texts = [text for text in texts if len(text) >= words + most]
    chosen = [texts[i * len(texts) // number] for i in range(number)]
    return [(" ".join(text[:words]), " " + " ".join(text[words : words + most])) for text in chosen]


def repetition(found: dict[str, list[Written]]) -> None:
    """Print the table of repetition and speed."""
    print(
        "| | share of 4 | diversity | share of 4, less greedy | speed over greedy |"
        " speed over contrastive, k 5 |\n|---|--:|--:|---|---|---|"
    )
    base = [one.repeated for one in found[GREEDY]]
    for name, own in found.items():
        repeated = [one.repeated for one in own]
        cells = [f"{np.mean(repeated):.2f}", f"{np.mean([one.diversity for one in own]):.2f}"]
        cells.append(shown(difference(repeated, base), 2))
        for other in (GREEDY, COSTLY):
            pairs = zip(own, found[other], strict=True)
            ratio = Ratio.of([b.seconds / a.seconds for a, b in pairs if a.seconds])
            cells.append(f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else "")
        print(f"| {name} | {' | '.join(cells)} |")


def coherence(found: dict[str, list[Written]]) -> None:
    """Print the tables of how well texts fit."""
    keys = ("logprob", "information", "late", "words", "pairs")
    digits = (2, 3, 3, 3, 4)
    cells = {n: [[getattr(w.fits, key) for w in ws] for key in keys] for n, ws in found.items()}
    print("| | log p | information | late | words | pairs |\n|---|--:|--:|--:|--:|--:|")
    for name, own in cells.items():
        means = [f"{np.mean(one):.{n}f}" for one, n in zip(own, digits, strict=True)]
        print(f"| {name} | {' | '.join(means)} |")
    print("| momentum, less this | log p | information | late | words | pairs |")
    print("|---|---|---|---|---|---|")
    for name, own in cells.items():
        if name == OWN or name in CHECKS:
            continue
        gaps = [shown(difference(a, b), n) for a, b, n in zip(cells[OWN], own, digits, strict=True)]
        print(f"| {name} | {' | '.join(gaps)} |")


def main() -> None:
    """Continue all prompts and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=560.0, help="no prompt begins later")
    parser.add_argument("--checks", action="store_true", help="also with alpha 0, and with drafts")
    parser.add_argument("--rows", type=Path, help="file for the texts, a line for each prompt")
    given = parser.parse_args()
    systems = SYSTEMS | ({n: one[:2] for n, one in CHECKS.items()} if given.checks else {})
    generators = {
        drafter: load(given.model, drafter=drafter, threads=1)
        for drafter in {drafter for drafter, _ in systems.values()}
    }
    plain = generators["none"]
    assert plain.tokenizer is not None
    encode, decode = plain.tokenizer.encode, plain.tokenizer.decode
    model = plain.strategy_for(plain.params()).stage.model
    [end] = encode("<|endoftext|>")
    chosen = passages(given.texts, given.prompts, given.words, 2 * given.tokens)
    truths = [tuple(encode(follow)[: given.tokens]) for _, follow in chosen]
    found: dict[str, list[Written]] = {}
    names = list(systems)
    for name, (drafter, search) in systems.items():
        written(generators[drafter], name, search, "Once", 8, 1)
    begun = process_time()
    with suppress(KeyboardInterrupt):
        for number, (prompt, _) in enumerate(track(chosen)):
            if process_time() - begun > given.seconds:
                break
            turn = number % len(names)
            own: dict[str, tuple[tuple[int, ...], float]] = {}
            for name in names[turn:] + names[:turn]:
                drafter, search = systems[name]
                own[name] = written(generators[drafter], name, search, prompt, given.tokens, number)
            own[TRUE] = (truths[number], 0.0)
            own[OTHER] = (truths[(number + len(chosen) // 2) % len(chosen)], 0.0)
            truth = decode(truths[number])
            texts = {
                name: Written(
                    tokens,
                    spent,
                    fit(model, encode(prompt), [end], tokens, (decode(tokens), truth)),
                )
                for name, (tokens, spent) in own.items()
            }
            for name in (*systems, TRUE, OTHER):
                found.setdefault(name, []).append(texts[name])
            if given.rows:
                with given.rows.open("a", encoding="utf-8") as file:
                    line = {name: asdict(text) for name, text in texts.items()}
                    file.write(json.dumps({"number": number, "prompt": prompt} | line) + "\n")
    repetition(found)
    coherence(found)
    for name, (_, _, other) in CHECKS.items() if given.checks else ():
        same = [a.tokens == b.tokens for a, b in zip(found[name], found[other], strict=True)]
        print(f"{name}: {sum(same)} of {len(same)} texts are those of {other}")
    print(
        f"{len(found[GREEDY])} prompts of {given.words} words, {given.tokens} tokens; load average "
        f"{os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
