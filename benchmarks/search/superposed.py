"""Several drafts from one row a token, beside samples and beams of one row each.

    python -m benchmarks.search.superposed smollm2 --texts stories.jsonl.zst --more books.jsonl.zst

The first texts are prompts (their beginnings), all others are the corpus in which n-grams are
counted; `--more` texts make a larger one. On the even prompts each pair of `--temperatures` and
`--alphas` writes `--drafts` texts with either corpus. Two settings are chosen: that of the lowest
loss, and that of the largest overlap. On the odd prompts these are judged beside all others.

The loss is the mean over all drafts of the negative log-probability of a token, by the model that
reads each draft alone afterwards. The overlap is the largest F1 of the words of a draft with those
of the true continuation of as many tokens. Intervals draw prompts; losses and overlaps are
differences from nucleus sampling of the same prompt, times are ratios of CPU seconds to it.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations, islice, pairwise, product
from pathlib import Path
from time import process_time

import numpy as np
import torch
from benchmarks.search.intervals import difference, shown
from benchmarks.search.votes.coherence import overlap
from rich.progress import track

from outrider import Generator, load
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
    overlap: list[float] = field(default_factory=list[float])
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
    figures: Figures,
    model: LanguageModel,
    cache: Cache,
    truth: str,
    write: Callable[[], SearchResult],
) -> None:
    """Run a system on a prompt whose true continuation is `truth`."""
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
    figures.overlap.append(max(overlap(one.text, truth, 1) for one in result.candidates))
    figures.shown += [one.text for one in result.candidates]


@dataclass(frozen=True, slots=True)
class Setting:
    """A temperature and an alpha, with the n-grams of a corpus of this name."""

    temperature: float
    alpha: float
    corpus: str

    def search(self, drafts: int, counts: dict[str, Interpolated], *, mixed: bool = True) -> Search:
        """Return the strategy; without n-grams if these have no weight."""
        return (Superposed if mixed else Unmixed)(
            drafts=drafts,
            temperature=self.temperature,
            alpha=self.alpha,
            counts=counts[self.corpus] if self.alpha else None,
        )

    def __str__(self) -> str:
        corpus = f", {self.corpus} corpus" if self.alpha else ""
        return f"temperature {self.temperature:g}, alpha {self.alpha:g}{corpus}"


@dataclass(frozen=True)
class Writer:
    """Writes all drafts for prompts."""

    generator: Generator
    texts: Sequence[Sequence[int]]
    length: int
    count: int
    seconds: float

    def run(self, arms: dict[str, Search | str], numbers: Sequence[int]) -> dict[str, Figures]:
        """Run systems on prompts in turn, in another order each time."""
        assert self.generator.tokenizer is not None
        model = self.generator.strategy_for(self.generator.params()).stage.model
        found = {name: Figures() for name in arms}
        begun = process_time()
        for turn, number in enumerate(track(numbers)):
            if process_time() - begun > self.seconds:
                break
            text = self.texts[number]
            prompt = Prompt(token_ids=tuple(text[: self.length]))
            truth = self.generator.tokenizer.decode(text[self.length : self.length + self.count])
            [cache] = model.start([prompt])
            names = [*arms][turn % len(arms) :] + [*arms][: turn % len(arms)]
            for name in names:
                write = partial(
                    self.generator.search,
                    arms[name],
                    prompt,
                    max_new_tokens=self.count,
                    ignore_eos=True,
                    seed=number,
                    **({"temperature": 1.0, "top_p": 0.9} if "nucleus" in name else {}),
                )
                note(found[name], model, cache, truth, write)
        return found


def chosen(found: dict[Setting, Figures]) -> tuple[Setting, Setting]:
    """Return the settings with the lowest loss and with the largest overlap; print the grid."""
    print("| setting | loss | overlap | places that differ |\n|---|--:|--:|--:|")
    for setting, own in found.items():
        print(
            f"| {setting} | {np.mean(own.loss):.2f} | {np.mean(own.overlap):.3f} "
            f"| {np.mean(own.differing):.2f} |"
        )
    print(f"{len(next(iter(found.values())).loss)} prompts for the choice\n")
    return (
        min(found, key=lambda one: np.mean(found[one].loss)),
        max(found, key=lambda one: np.mean(found[one].overlap)),
    )


def main() -> None:
    """Choose on one half of the prompts, judge on the other, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--drafts", type=int, default=3)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.06, 0.3, 1.0])
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.0, 0.2, 0.54, 0.8])
    parser.add_argument("--corpus", type=int, default=400, help="texts of the small corpus")
    parser.add_argument("--more", type=Path, help="texts of the larger corpus, beside the first")
    parser.add_argument("--more-texts", type=int, default=400)
    parser.add_argument("--choice", type=float, default=280, help="seconds of the choice")
    parser.add_argument("--seconds", type=float, default=280, help="seconds of the judgement")
    given = parser.parse_args()
    generator = load(given.model, threads=1)
    assert generator.tokenizer is not None
    read = list(islice(read_documents(given.texts), given.prompts + given.corpus))
    texts = [generator.tokenizer.encode(text) for text in read]
    own = texts[given.prompts :]
    more = islice(read_documents(given.more), given.more_texts) if given.more else ()
    counts = {"small": Interpolated(Corpus.build(own))}
    if given.more:
        larger = [*own, *(generator.tokenizer.encode(text) for text in more)]
        counts["larger"] = Interpolated(Corpus.build(larger))
    settings = [
        Setting(t, a, corpus)
        for corpus, t, a in product(counts, given.temperatures, given.alphas)
        if a or corpus == "small"  # without n-grams all corpora are the same
    ]
    writer = Writer(generator, texts, given.prompt_tokens, given.max_new_tokens, given.choice)
    grid = writer.run(
        {str(one): one.search(given.drafts, counts) for one in settings},
        range(0, given.prompts, 2),
    )
    sure, near = chosen({one: grid[str(one)] for one in settings})
    arms: dict[str, Search | str] = {
        BASE: f"best-of-n(samples={given.drafts})",
        "one nucleus sample": "best-of-n(samples=1)",
        "beam search": f"beam(num_beams={given.drafts})",
        "superposed, published values": Superposed(drafts=given.drafts, counts=counts["small"]),
        f"superposed, lowest loss: {sure}": sure.search(given.drafts, counts),
        f"superposed, largest overlap: {near}": near.search(given.drafts, counts),
        "the latter, no n-grams": replace(near, alpha=0.0).search(given.drafts, counts),
        "the latter, not mixed": near.search(given.drafts, counts, mixed=False),
        "first tokens, then greedy": FirstOnly(drafts=given.drafts),
    }
    if near.alpha and given.more:
        other = "small" if near.corpus == "larger" else "larger"
        arms[f"the latter, {other} corpus"] = replace(near, corpus=other).search(
            given.drafts, counts
        )
    found = replace(writer, seconds=given.seconds).run(arms, range(1, given.prompts, 2))
    show(found, {name: len(one.corpus) for name, one in counts.items()})


def show(found: dict[str, Figures], sizes: dict[str, int]) -> None:
    """Print the table."""
    print(
        "| | rows | CPU time over nucleus | loss of a token | minus nucleus | overlap | minus "
        "nucleus | places that differ | distinct bigrams |\n|---|--:|---|--:|---|--:|---|--:|--:|"
    )
    base = found[BASE]
    for name, own in found.items():
        ratio = Ratio.of([a / b for a, b in zip(own.seconds, base.seconds, strict=True)])
        assert ratio is not None
        gap, near = (
            shown(difference(getattr(own, key), getattr(base, key)), digits)
            for key, digits in (("loss", 2), ("overlap", 3))
        )
        print(
            f"| {name} | {np.mean(own.rows):.0f} | {ratio.mean:.2f} [{ratio.low:.2f}, "
            f"{ratio.high:.2f}] | {np.mean(own.loss):.2f} | {gap} | {np.mean(own.overlap):.3f} "
            f"| {near} | {np.mean(own.differing):.2f} | {np.mean(own.bigrams):.2f} |"
        )
    for name, own in found.items():
        print(name, *(repr(text) for text in own.shown[:6]), sep="\n    ")
    print(
        f"{len(base.loss)} prompts; tokens of the corpora: {sizes}; load average "
        f"{os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
