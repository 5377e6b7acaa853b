"""Random small grammars, and their words found by trying all texts."""

import itertools
import random
import re
from dataclasses import dataclass
from functools import cached_property

from outrider.constraints.cfg.grammar import Grammar
from outrider.constraints.cfg.text_form import read_grammar

LETTERS = "ab"
LENGTH = 7
"""Letters of the longest word that is listed."""
TERMINALS = ("a", "b", "ab", "a+", "ab?", "b|aa", "(ab)+", "a*b", "[ab]a", "(aba)?")


@dataclass
class Small:
    """A grammar as rules over regular expressions.

    Attributes:
        rules: of each name, its right sides; `/x/` is a terminal.
    """

    rules: dict[str, list[tuple[str, ...]]]

    @property
    def text(self) -> str:
        lines = []
        for name, sides in self.rules.items():
            lines.append(f"{name}: " + " | ".join(" ".join(side) or '""' for side in sides))
        return "\n".join(lines)

    @cached_property
    def grammar(self) -> Grammar:
        return read_grammar(self.text)

    @cached_property
    def words(self) -> set[str]:
        """All words of at most `LENGTH` letters."""
        every = [
            "".join(text)
            for size in range(LENGTH + 1)
            for text in itertools.product(LETTERS, repeat=size)
        ]
        known: dict[str, set[str]] = {name: set() for name in self.rules}
        symbols = {symbol for sides in self.rules.values() for side in sides for symbol in side}
        for symbol in symbols - known.keys():
            known[symbol] = {text for text in every if re.fullmatch(symbol[1:-1], text)}
        changed = True
        while changed:
            changed = False
            for name, sides in self.rules.items():
                for side in sides:
                    found = {""}
                    for symbol in side:
                        found = {
                            left + right
                            for left in found
                            for right in known[symbol]
                            if len(left) + len(right) <= LENGTH
                        }
                    if not found <= known[name]:
                        known[name] |= found
                        changed = True
        return known["start"]

    def matching(self, runs: list[str]) -> list[str]:
        """The listed words that a text with gaps can become."""
        pattern = re.compile(".*".join(map(re.escape, runs)))
        return [word for word in self.words if pattern.fullmatch(word)]


def random_grammar(rng: random.Random) -> Small:
    """A grammar of two to four rules that may be recursive on both sides, and ambiguous."""
    names = ["start", "x", "y", "z"][: rng.randint(2, 4)]
    terminals = [f"/{one}/" for one in rng.sample(TERMINALS, rng.randint(1, 3))]
    rules = {}
    for name in names:
        sides = []
        for _ in range(rng.randint(1, 3)):
            size = rng.choice((0, 1, 1, 2, 2, 2, 3))
            sides.append(tuple(rng.choice([*names, *terminals, *terminals]) for _ in range(size)))
        rules[name] = sides
    rules["start"].append((rng.choice(terminals),))
    return Small(rules)


def random_runs(rng: random.Random, small: Small) -> list[str]:
    """A text with gaps: parts of a word, of a changed one, or random letters."""
    words = sorted(small.words)
    if words and rng.random() < 0.7:
        text = list(rng.choice(words))
        if text and rng.random() < 0.4:
            text[rng.randrange(len(text))] = rng.choice(LETTERS)
    else:
        text = [rng.choice(LETTERS) for _ in range(rng.randint(0, LENGTH - 1))]
    runs, gap = [""], False
    for letter in text:
        if rng.random() < 0.45:
            if not gap:
                runs.append("")
            gap = True
        else:
            runs[-1] += letter
            gap = False
    if rng.random() < 0.2 and not gap:
        runs.append("")
    return runs
