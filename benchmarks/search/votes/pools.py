"""What the first text that ends, and what votes answer, as means over draws from a pool of samples.

A pool is a number of independent samples for a question. A row about fewer samples than the pool
has is the mean over draws of so many of them, which has less noise than a single draw.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 200


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample.

    Attributes:
        tokens: its length.
        answer: what it answers; None: nothing.
        ended: whether it ended within the limit; if not, it has no vote and is not right.
        right: whether the answer is right.
    """

    tokens: int
    answer: str | None
    ended: bool
    right: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """The mean of a rule over draws: share of right answers, computed rows, and forwards."""

    right: float
    tokens: float
    forwards: float


def mean(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the mean of outcomes."""
    rows = [(one.right, one.tokens, one.forwards) for one in outcomes]
    return Outcome(*(float(one) for one in np.mean(rows, axis=0)))


def by_length(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples that ended, the shortest first; equally long ones stay in their order."""
    return sorted((one for one in samples if one.ended), key=lambda one: one.tokens)


def vote(samples: Sequence[Sample], *, earliest: bool) -> float:
    """Return whether the most frequent answer is right.

    Args:
        samples: those that ended vote.
        earliest: of equally frequent answers that of the shortest text is taken, as `Majority`
            does; otherwise each of them with equal probability, so that no length is preferred.
    """
    ended = by_length(samples)
    counts = Counter(one.answer for one in ended if one.answer is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    best = {one.answer: float(one.right) for one in ended if counts[one.answer] == most}
    found = list(best.values())
    return found[0] if earliest else sum(found) / len(found)


def first_of(samples: Sequence[Sample], finish: int = 1) -> Outcome:
    """Return what the first `finish` texts that end answer; all rows until then count."""
    ended = by_length(samples)[:finish]
    # Too few texts end: all are written to the limit.
    whole = len(ended) < finish
    last = max(one.tokens for one in (samples if whole else ended))
    right = float(ended[0].right) if ended and finish == 1 else vote(ended, earliest=True)
    return Outcome(right, sum(min(one.tokens, last) for one in samples), last)


def longest_of(samples: Sequence[Sample]) -> Outcome:
    """Return what the longest text that ends answers: First Finish Search turned around."""
    ended = by_length(samples)
    rows = [one.tokens for one in samples]
    return Outcome(float(ended[-1].right) if ended else 0.0, sum(rows), max(rows))


def vote_of(samples: Sequence[Sample], *, earliest: bool = True) -> Outcome:
    """Return what a vote of all answers."""
    rows = [one.tokens for one in samples]
    return Outcome(vote(samples, earliest=earliest), sum(rows), max(rows))


def vote_within(samples: Sequence[Sample], tokens: float) -> Outcome:
    """Return what a vote of as many samples as these tokens pay for answers, at least one.

    The samples are taken in their order. The last one is paid for in part: it takes part with the
    probability at which the mean of the computed tokens is equal to the limit.
    """
    spent, number = samples[0].tokens, 1
    while number < len(samples) and spent + samples[number].tokens <= tokens:
        spent += samples[number].tokens
        number += 1
    fewer = vote_of(samples[:number], earliest=False)
    if number == len(samples) or spent >= tokens:
        return fewer
    more = vote_of(samples[: number + 1], earliest=False)
    part = (tokens - spent) / samples[number].tokens
    return Outcome(
        *(
            (1 - part) * a + part * b
            for a, b in (
                (fewer.right, more.right),
                (fewer.tokens, more.tokens),
                (fewer.forwards, more.forwards),
            )
        )
    )


def rules(pool: Sequence[Sample], number: int, finish: int, seed: int) -> dict[str, Outcome]:
    """Return the mean outcomes of all rules with so many samples, by name."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[Outcome]] = {}
    for _ in range(DRAWS):
        drawn = [pool[i] for i in rng.permutation(len(pool))[:number]]
        other = [pool[i] for i in rng.permutation(len(pool))]
        first = first_of(drawn)
        several = first_of(drawn, finish)
        one = pool[int(rng.integers(len(pool)))]
        for name, outcome in (
            (f"first of {number}", first),
            (f"first {finish} of {number} vote", several),
            (f"vote of {number}, ties to the shortest", vote_of(drawn)),
            (f"vote of {number}, ties drawn", vote_of(drawn, earliest=False)),
            (f"vote, tokens of the first of {number}", vote_within(other, first.tokens)),
            (f"vote, tokens of the first {finish} of {number}", vote_within(other, several.tokens)),
            ("one sample", vote_of([one])),
            (f"longest of {number} (ablation)", longest_of(drawn)),
        ):
            found.setdefault(name, []).append(outcome)
    return {name: mean(outcomes) for name, outcomes in found.items()}
