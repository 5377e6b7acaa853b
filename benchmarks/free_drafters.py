"""What drafters without a model cost: microseconds a round, by the length of the context.

    python benchmarks/free_drafters.py
    python benchmarks/free_drafters.py lookup sam --sizes 1000 64000 --out runs/free_drafters.json

Every drafter reads a prompt of each size and then drafts for the same text, which repeats itself
as summaries, edits and talks do: passages said before, passages with a change, and new words. A
round proposes, has its draft judged by the text that really follows (as far as a path agrees),
observes made-up rows and commits. No model runs, so what is timed is the drafter alone; making the
rows and judging are not timed. Prints the median and the 90th percentile, and how much of the text
was drafted; with --out writes all of it as JSON.
"""

import argparse
import gc
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from outrider.bench.environment import environment
from outrider.core.types import NO_IDS, Budget, Draft, Prompt, Rows, Verdict, Verified, as_ids
from outrider.drafters.copying.copyspec import CopySpec
from outrider.drafters.copying.iad import Aggressive
from outrider.drafters.copying.lookup import Lookup
from outrider.drafters.copying.rest import Rest
from outrider.drafters.copying.sam import Sam
from outrider.drafters.copying.suffix import Suffix
from outrider.drafters.statistics.aded import Aded
from outrider.drafters.statistics.lookahead import Lookahead
from outrider.drafters.statistics.recycling import TokenRecycling
from outrider.drafters.statistics.stand import Stand
from outrider.memories.corpus import Corpus
from outrider.memories.frozen import FrozenAutomaton
from outrider.protocols import Drafter, Request
from outrider.sampling import Sampler, SamplingParams

CORPUS_TOKENS = 200_000


def corpus(vocab_size: int) -> list[list[int]]:
    """Documents of the kind that is drafted for."""
    return [text(20_000, vocab_size, seed) for seed in range(1, 1 + CORPUS_TOKENS // 20_000)]


FACTORIES: dict[str, Callable[[int], Drafter]] = {
    "lookup": lambda vocab: Lookup(),
    "copyspec": lambda vocab: CopySpec(),
    "iad": lambda vocab: Aggressive(),
    "sam": lambda vocab: Sam(),
    "sam-static": lambda vocab: Sam(static=FrozenAutomaton.build(corpus(vocab))),
    "suffix": lambda vocab: Suffix(),
    "suffix-chain": lambda vocab: Suffix(shape="chain"),
    "rest": lambda vocab: Rest(corpus=Corpus.build(corpus(vocab))),
    "recycling": lambda vocab: TokenRecycling(),
    "aded": lambda vocab: Aded(),
    "stand": lambda vocab: Stand(),
    "lookahead": lambda vocab: Lookahead(),
    "lookahead-pool": lambda vocab: Lookahead(window=0),
}
"""By name, from the size of the vocabulary. A drafter more is one line more."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one drafter took at one length of context.

    Attributes:
        drafter: its name.
        context: tokens of the prompt.
        begin_seconds: reading the prompt.
        propose: median microseconds.
        observe: median microseconds.
        commit: median microseconds.
        total: median microseconds of the three together, a round.
        total_p90: the 90th percentile of that.
        drafted: mean nodes of a draft.
        accepted: mean accepted nodes a round.
        megabytes: what its memories say they hold.
    """

    drafter: str
    context: int
    begin_seconds: float
    propose: float
    observe: float
    commit: float
    total: float
    total_p90: float
    drafted: float
    accepted: float
    megabytes: float


def text(size: int, vocab_size: int, seed: int) -> list[int]:
    """Words by a long-tailed distribution, of which half are passages that were said before."""
    rng = random.Random(seed)
    words: list[int] = []
    while len(words) < size:
        if len(words) > 200 and rng.random() < 0.5:
            begin = rng.randrange(len(words) - 40)
            passage = words[begin : begin + rng.randint(8, 40)]
            if rng.random() < 0.5:
                passage[rng.randrange(len(passage))] = rng.randrange(vocab_size)
            words += passage
        else:
            count = rng.randint(5, 30)
            words += [int(vocab_size ** rng.random()) - 1 for _ in range(count)]
    return words[:size]


def judged(draft: Draft, following: Sequence[int]) -> Verdict:
    """The path that agrees with the text, and the token after it."""
    node, path = -1, []
    for token in following[:-1]:
        children = [c for c in draft.children(node) if int(draft.tokens[c]) == token]
        if not children:
            break
        node = children[0]
        path.append(node)
    kept = tuple(following[: len(path)])
    emitted = len(path) + 1
    return Verdict(
        path=tuple(path),
        tokens=kept,
        next_token=following[len(path)],
        changed=(False,) * emitted,
        sources=("text",) * emitted,
        distributions=(None,) * emitted,
    )


def held(*owners: Any) -> int:
    """Bytes that the memories of a drafter and its state say they hold."""
    fields = [getattr(owner, name) for owner in owners for name in type(owner).__slots__]
    return sum(memory.nbytes for memory in fields if hasattr(memory, "nbytes"))


def measure(
    name: str, drafter: Drafter, context: int, rounds: int, budget: Budget, vocab_size: int
) -> Cost:
    """Run the rounds of one drafter on one text."""
    words = text(context + rounds * (budget.depth + 1) + 1, vocab_size, 0)
    logits = torch.randn(budget.nodes * 4 + 2, vocab_size, generator=torch.manual_seed(0))
    prompt = tuple(words[:context])
    request = Request(Prompt(token_ids=prompt), Sampler(SamplingParams(), prompt_ids=prompt))
    begun = perf_counter()
    [state] = drafter.begin([request])
    reading = perf_counter() - begun
    place, times, drafted, accepted = context, [], 0, 0
    gc.collect()
    for _ in range(rounds):
        a = perf_counter()
        [draft] = drafter.propose([state], [NO_IDS], [budget])
        b = perf_counter()
        verdict = judged(draft, words[place : place + budget.depth + 1])
        rows = logits[: len(draft) + 1].clone()
        for node, token in zip((-1, *verdict.path), verdict.emitted, strict=True):
            rows[node + 1, token] = 20.0
        seen = [Verified("target", NO_IDS, draft, Rows(rows), verdict)]
        emitted = as_ids(verdict.emitted)
        request.output.extend(verdict.emitted)
        c = perf_counter()
        drafter.observe([state], seen)
        d = perf_counter()
        drafter.commit([state], [emitted])
        e = perf_counter()
        times.append((b - a, d - c, e - d))
        drafted += len(draft)
        accepted += len(verdict.path)
        place += len(emitted)
    totals = sorted(map(sum, times))
    return Cost(
        drafter=name,
        context=context,
        begin_seconds=reading,
        propose=1e6 * median(t[0] for t in times),
        observe=1e6 * median(t[1] for t in times),
        commit=1e6 * median(t[2] for t in times),
        total=1e6 * median(totals),
        total_p90=1e6 * totals[len(totals) * 9 // 10],
        drafted=drafted / rounds,
        accepted=accepted / rounds,
        megabytes=held(drafter, state) / 1e6,
    )


def line(values: Sequence[Any]) -> str:
    """One line of the table."""
    cells = [f"{v:.1f}" if isinstance(v, float) and v >= 1 else f"{v:.3g}" for v in values[1:]]
    return f"{values[0]:14}" + "".join(f"{cell:>11}" for cell in cells)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("drafters", nargs="*", help=f"of {', '.join(FACTORIES)}; default: all")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 8_000, 64_000])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    options = parser.parse_args()
    if unknown := set(options.drafters) - set(FACTORIES):
        parser.error(f"unknown drafters {sorted(unknown)}; known: {', '.join(FACTORIES)}")
    budget = Budget(depth=options.depth, nodes=options.nodes)
    headings = list(Cost.__dataclass_fields__)
    print(f"{headings[0]:14}" + "".join(f"{h.replace('_seconds', '_s'):>11}" for h in headings[1:]))
    costs = []
    for name in options.drafters or FACTORIES:
        for size in options.sizes:
            drafter = FACTORIES[name](options.vocab)
            cost = measure(name, drafter, size, options.rounds, budget, options.vocab)
            costs.append(asdict(cost))
            print(line(list(asdict(cost).values())), flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {k: v for k, v in vars(options).items() if k != "out"}
        record = {"settings": settings, "environment": environment(), "costs": costs}
        options.out.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
