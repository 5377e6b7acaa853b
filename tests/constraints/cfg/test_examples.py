"""The example grammars."""

import random

import pytest

from outrider.constraints.cfg.completion import shortest_fill
from outrider.constraints.cfg.emptiness import completable
from outrider.constraints.cfg.examples import SMILES, STATEMENTS
from outrider.constraints.cfg.grammar import Grammar
from outrider.constraints.cfg.pattern import Pattern
from outrider.constraints.cfg.text_form import read_grammar

PROGRAMS = (
    "",
    "x = 1;",
    "if (a < b) { return -f(x, (2 + y) * 3.5); } else { iffy=!z; }\n",
    "while(n){n=n-1;} return whiles;",
)
NO_PROGRAMS = ("if = 1;", "return;", "x = ;", "if (a) b = 1;", "x = (1;", "1x = 2;", "x = if;")
MOLECULES = ("CC(=O)Oc1ccccc1C(=O)O", "C[C@@H](N)C(=O)O", "[13CH4]", "[Na+]", "C%12CC%12")
NO_MOLECULES = ("", "C(", "C)", "C(=O", "[C", "CX", "C()", "=C", "[+]")


@pytest.mark.parametrize(
    ("text", "words", "others"),
    [(STATEMENTS, PROGRAMS, NO_PROGRAMS), (SMILES, MOLECULES, NO_MOLECULES)],
)
def test_examples(text: str, words: tuple[str, ...], others: tuple[str, ...]) -> None:
    grammar: Grammar = read_grammar(text)
    for word in words:
        assert completable(grammar, Pattern(word.encode())), word
    for word in others:
        assert not completable(grammar, Pattern(word.encode())), word
    rng = random.Random(2)
    for word in words:
        data = word.encode()
        for _ in range(12):
            begin = rng.randint(0, len(data))
            end = rng.randint(begin, len(data))
            pattern = Pattern.of([data[:begin], data[end:]])
            fills = shortest_fill(grammar, pattern)
            assert fills is not None, pattern
            assert completable(grammar, Pattern(pattern.filled(fills))), pattern


def test_keywords_and_names_around_gaps() -> None:
    grammar = read_grammar(STATEMENTS)
    for runs, possible in (
        ([b"if", b"= 1;"], True),  # iffy = 1;
        ([b"if ", b"= 1;"], True),  # if (a) {} b = 1;
        ([b"if (a) {", b"= 1;"], True),  # if (a) {} b = 1;
        ([b"if (a) { b", b"= 1;", b"c"], False),  # where c is the last letter
        ([b"if = ", b";"], False),
        ([b"else", b""], True),  # elsewhere = 1;
        ([b"else ", b""], False),
        ([b"return ", b"}"], True),  # return x; if (a) {}
        ([b"return }", b""], False),
        ([b"{ ", b""], False),
        ([b"x = ", b"} y", b""], True),  # x = 1; if (a) {} y = 1;
        ([b"x = ", b"; }"], True),
        ([b"x =; ", b""], False),
        ([b"", b"} y", b""], True),
    ):
        assert completable(grammar, Pattern.of(runs)) == possible, runs
