"""Texts with gaps against all words of small grammars."""

import random

from outrider.constraints.cfg.completion import shortest_fill
from outrider.constraints.cfg.emptiness import completable
from outrider.constraints.cfg.pattern import Pattern
from tests.constraints.cfg.brute import LENGTH, Small, random_grammar, random_runs

GRAMMARS, PATTERNS = 100, 30


def check(small: Small, runs: list[str]) -> bool:
    """Compare one text with gaps; return whether it can be completed."""
    pattern = Pattern.of(run.encode() for run in runs)
    found, fills = completable(small.grammar, pattern), shortest_fill(small.grammar, pattern)
    assert found == (fills is not None), (small.text, runs)
    matching = small.matching(runs)
    if fills is None:
        assert not matching, (small.text, runs, matching)
        return False
    word = pattern.filled(fills).decode()
    if matching:
        assert word in matching, (small.text, runs, word)
        assert len(word) == min(map(len, matching)), (small.text, runs, word)
    else:
        assert len(word) > LENGTH, (small.text, runs, word)
        assert completable(small.grammar, Pattern(word.encode()))
    return True


def test_three_thousand_random_patterns() -> None:
    rng = random.Random(5)
    answers = {True: 0, False: 0}
    for _ in range(GRAMMARS):
        small = random_grammar(rng)
        for _ in range(PATTERNS):
            answers[check(small, random_runs(rng, small))] += 1
    assert sum(answers.values()) == 3000
    assert min(answers.values()) > 500, answers
