"""Several drafts from one row a token, beside samples and beams of one row each.

    python -m benchmarks.search.superposed smollm2 --texts stories.jsonl.zst --prompts 20

The first texts are prompts (their beginnings), all others are the corpus in which n-grams are
counted. Each system writes `--drafts` texts after each prompt. The loss is the mean over all drafts
of the negative log-probability of a token, by the model that reads each draft alone afterwards. The
intervals draw prompts; losses are differences from nucleus sampling of the same prompt, times are
ratios of CPU seconds to it (other processes disturb them less than wall-clock time).
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice, pairwise
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.search.intervals import shown
from rich.progress import track

from outrider import load
from outrider.bench.statistics import Ratio
from outrider.core.types import Prompt
from outrider.inputs.documents.corpora import read_documents
from outrider.memories.corpus import Corpus
from outrider.memories.interpolated import Interpolated
from outrider.protocols import Cache, LanguageModel
from outrider.search import Candidate, Search, SearchResult, Task
from outrider.search.account import Account
from outrider.search.steps.superposed import Draft, Superposed
from outrider.search.tree import TokenTree

BASE = "nucleus samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmixed(Superposed):
    """The key idea switched off: the model reads the last token of the best draft only."""

    def weights(self, running: Sequence[Draft]) -> torch.Tensor:
        """Return 1 for the best draft."""
        return torch.eye(len(running), dtype=torch.float64)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstOnly(Search):
    """Drafts differ in the first token only, and each is continued greedily by a row of its own."""

    drafts: int = 3

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the drafts."""
        tree = task.tree()
        best = task.logprobs(tree.first()[None], [()])[0].topk(self.drafts).indices.tolist()
        roots = [task.root.cache.fork() for _ in best]
        for cache, token in zip(roots, best, strict=True):
            cache.commit([token])
        branches = [
            type(task.root)(cache, (token,)) for cache, token in zip(roots, best, strict=True)
        ]
        rest = task.passages.write(branches, range(self.drafts), most=task.most - 1, greedy=True)
        return [
            task.candidate((token, *one.tokens), one.logprob)
            for token, one in zip(best, rest, strict=True)
        ]


@dataclass(slots=True)
class Figures:
    """What one system has written: a figure for each prompt."""

    loss: list[float] = field(default_factory=list[float])
    best: list[float] = field(default_factory=list[float])
    seconds: list[float] = field(default_factory=list[float])
    rows: list[float] = field(default_factory=list[float])
    differing: list[float] = field(default_factory=list[float])
    bigrams: list[float] = field(default_factory=list[float])
    shown: list[str] = field(default_factory=list[str])


def loss_of(model: LanguageModel, cache: Cache, tokens: Sequence[int]) -> float:
    """Return the mean negative log-probability of tokens after a prompt that was read."""
    tree = TokenTree(model, cache.fork(), Account())
    rows = [tree.first()[None]]
    if len(tokens) > 1:
        rows.append(tree.read(tree.root, tokens[:-1]))
    logprobs = torch.log_softmax(torch.cat(rows).float(), -1)
    return -float(logprobs[torch.arange(len(tokens)), torch.tensor(tokens)].mean())


def differing(texts: Sequence[Sequence[int]]) -> float:
    """Return the mean share of places at which two drafts differ."""
    shares = [
        1 - sum(x == y for x, y in zip(a, b, strict=False)) / max(len(a), len(b))
        for a, b in combinations(texts, 2)
    ]
    return sum(shares) / len(shares) if shares else 0.0


def distinct_bigrams(texts: Sequence[Sequence[int]]) -> float:
    """Return the distinct bigrams of all drafts, by the number of bigrams."""
    found = [pair for text in texts for pair in pairwise(text)]
    return len(set(found)) / max(len(found), 1)


def note(
    figures: Figures, model: LanguageModel, cache: Cache, write: Callable[[], SearchResult]
) -> None:
    """Run a system on a prompt."""
    begun = process_time()
    result = write()
    figures.seconds.append(process_time() - begun)
    texts = [one.token_ids for one in result.candidates]
    losses = [loss_of(model, cache, text) for text in texts]
    figures.loss.append(sum(losses) / len(losses))
    figures.best.append(losses[0])
    figures.rows.append(result.tokens)
    figures.differing.append(differing(texts))
    figures.bigrams.append(distinct_bigrams(texts))
    figures.shown += [one.text for one in result.candidates]


def interval(values: Sequence[float]) -> str:
    """Return a mean with its bootstrap interval."""
    return shown(bootstrap(values), 2)


def systems(drafts: int, counts: Interpolated, temperature: float) -> dict[str, Search | str]:
    """Return the systems by name."""
    more = {"drafts": drafts, "temperature": temperature}
    return {
        BASE: f"best-of-n(samples={drafts})",
        "one nucleus sample": "best-of-n(samples=1)",
        "beam search": f"beam(num_beams={drafts})",
        "superposed": Superposed(**more, counts=counts),
        "superposed, alpha 0.3": Superposed(**more, counts=counts, alpha=0.3),
        "superposed, no n-grams": Superposed(**more),
        "superposed, not mixed": Unmixed(**more, counts=counts),
        "first tokens, then greedy": FirstOnly(drafts=drafts),
    }


def main() -> None:
    """Write all drafts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=20)
    parser.add_argument("--drafts", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=0.06)
    parser.add_argument(
        "--corpus", type=int, default=400, help="texts in which n-grams are counted"
    )
    parser.add_argument("--seconds", type=float, default=540, help="no prompt begins later")
    given = parser.parse_args()
    generator = load(given.model, threads=1)
    assert generator.tokenizer is not None
    begun = perf_counter()
    read = islice(read_documents(given.texts), given.prompts + given.corpus)
    texts = [generator.tokenizer.encode(text) for text in read]
    counts = Interpolated(Corpus.build(texts[given.prompts :]))
    model = generator.strategy_for(generator.params()).stage.model
    arms = systems(given.drafts, counts, given.temperature)
    found = {name: Figures() for name in arms}
    for number, text in enumerate(track(texts[: given.prompts])):
        if perf_counter() - begun > given.seconds:
            break
        prompt = Prompt(token_ids=tuple(text[: given.prompt_tokens]))
        [cache] = model.start([prompt])
        names = [*arms][number % len(arms) :] + [*arms][: number % len(arms)]
        for name in names:
            sampling: dict[str, Any] = (
                {"temperature": 1.0, "top_p": 0.9} if "nucleus" in name else {}
            )

            def write(name: str = name, more: dict[str, Any] = sampling) -> SearchResult:
                return generator.search(
                    arms[name],
                    prompt,  # noqa: B023
                    max_new_tokens=given.max_new_tokens,
                    ignore_eos=True,
                    seed=number,  # noqa: B023
                    **more,
                )

            note(found[name], model, cache, write)
    show(found, len(counts.corpus))


def show(found: dict[str, Figures], size: int) -> None:
    """Print the table."""
    print(
        "| | rows | CPU time over nucleus | loss of a token | minus nucleus | loss of the first "
        "draft | places that differ | distinct bigrams |\n|---|--:|---|--:|---|--:|--:|--:|"
    )
    base = found[BASE]
    for name, own in found.items():
        ratio = Ratio.of([a / b for a, b in zip(own.seconds, base.seconds, strict=True)])
        assert ratio is not None
        gap = interval([a - b for a, b in zip(own.loss, base.loss, strict=True)])
        print(
            f"| {name} | {np.mean(own.rows):.0f} | {ratio.mean:.2f} [{ratio.low:.2f}, "
            f"{ratio.high:.2f}] | {np.mean(own.loss):.2f} | {gap} | {np.mean(own.best):.2f} | "
            f"{np.mean(own.differing):.2f} | {np.mean(own.bigrams):.2f} |"
        )
    for name, own in found.items():
        print(name, *(repr(text) for text in own.shown[:6]), sep="\n    ")
    print(
        f"{len(base.loss)} prompts; n-grams of {size} tokens; load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
