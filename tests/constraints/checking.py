"""Checkers over the letters of `testing/rigs.py`, and languages that are known by hand."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from outrider.models.tabular import TabularModel
from outrider.sampling import Sampler
from outrider.sampling.checker import Checker
from tests.constraints.automaton import BRANCHING

END = 0
"""The end token of these tests, letter `a`."""


def tokens_of(text: bytes) -> list[int]:
    return [letter - ord("a") for letter in text]


def branching(**options: int) -> Checker:
    """The texts of `BRANCHING`, as a predicate."""

    def ok(text: bytes) -> bool:
        return BRANCHING.begin().admits(tokens_of(text)) == len(text)

    def complete(text: bytes) -> bool:
        matcher = BRANCHING.begin()
        return matcher.advance(tokens_of(text)) == len(text) and matcher.accepting

    return Checker(ok, complete, "branching", **options)


def language(texts: Sequence[Sequence[int]]) -> Checker:
    """A finite language."""
    known = {bytes(ord("a") + token for token in text) for text in texts}
    return Checker(
        lambda text: any(one.startswith(text) for one in known),
        lambda text: text in known,
        "language",
    )


def probability(model: TabularModel, prompt: Sequence[int], text: Sequence[int]) -> float:
    """The probability that a model writes `text` and then the end token, at temperature 1."""
    total = 0.0
    for place, token in enumerate([*text, END]):
        row = torch.log_softmax(model.logits_after([*prompt, *text[:place]]), -1)
        total += float(row[token])
    return float(np.exp(total))


def texts_up_to(length: int, vocab: int, keep: Callable[[tuple[int, ...]], bool]):
    """All texts of letters above the end token, of at most `length`, that are kept."""
    for size in range(length + 1):
        yield from filter(keep, itertools.product(range(1, vocab), repeat=size))


def locally_masked(
    sampler: Sampler, model: TabularModel, prompt: Sequence[int], texts: Sequence[Sequence[int]]
) -> dict[tuple[int, ...], float]:
    """The distribution of token masking over a finite language: at each place, the probabilities of
    the allowed tokens, scaled to one."""
    known = {tuple(text) for text in texts}
    found = {}
    for text in known:
        total = 1.0
        for place, token in enumerate([*text, END]):
            row = sampler.probs(model.logits_after([*prompt, *text[:place]]), list(text[:place]))
            after = {
                t
                for t in range(len(row))
                if (text[:place] in known if t == END else _begins(known, (*text[:place], t)))
            }
            total *= float(row[token] / row[sorted(after)].sum())
        found[text] = total
    return found


def _begins(known: set[tuple[int, ...]], prefix: tuple[int, ...]) -> bool:
    return any(text[: len(prefix)] == prefix for text in known)
