"""Words of terminals in texts with gaps, in every way."""

import pytest

from outrider.constraints.cfg.completion import shortest_fill, words_from
from outrider.constraints.cfg.emptiness import CheckLimits, completable
from outrider.constraints.cfg.grammar import Grammar, Rules
from outrider.constraints.cfg.pattern import Lexing, Pattern
from outrider.constraints.cfg.regex import parse_regex
from outrider.constraints.cfg.text_form import read_grammar
from outrider.core.errors import GrammarError


def ends(regex: str, place: int, *runs: bytes) -> set[int]:
    """Where a word of a terminal may end; both ways of finding it agree."""
    rules = Rules()
    symbol = rules.terminal(parse_regex(regex), "t")
    [terminal] = rules.build(symbol).terminals
    pattern = Pattern.of(runs)
    found = Lexing(pattern, (terminal,)).ends(place, 0)
    words = words_from(pattern, place, terminal)
    assert len(found) == len(set(found))
    assert {word.end for word in words} == set(found)
    for word in words:
        fills = dict(word.fills)
        inside = Pattern(
            pattern.text[place : word.end],
            tuple(gap - place for gap in pattern.gaps if place <= gap <= word.end),
        )
        whole = inside.filled({gap - place: data for gap, data in fills.items()})
        assert terminal.automaton.accepts(whole)
        assert word.cost == sum(map(len, fills.values()))
    return set(found)


@pytest.mark.parametrize(
    ("regex", "place", "runs", "expected"),
    [
        ("a+", 0, [b"aaab"], {1, 2, 3}),  # every length
        ("a+", 1, [b"aaab"], {2, 3}),
        ("ab", 0, [b"a"], set()),
        ("ab", 0, [b"a", b""], {1}),  # the rest lies in the gap
        ("ab", 0, [b"a", b"b"], {1, 2}),  # or behind it
        ("ab", 0, [b"a", b"c"], {1}),
        ("ab", 0, [b"", b"b"], {0, 1}),  # begins in the gap
        ("ab", 0, [b"", b"ab"], {0, 2}),
        ("ab", 0, [b"", b"xb"], {0}),
        ("axb", 0, [b"a", b"x", b"b"], {1, 2, 3}),  # over a whole run
        ("axb", 0, [b"a", b"y", b"b"], {1}),
        ("a[xy]*b", 0, [b"a", b"x", b"y", b"xb"], {1, 2, 3, 5}),
        ("abc", 0, [b"a", b"ab"], {1}),
        ("a", 1, [b"aa", b""], {2}),
        ("a", 2, [b"aa"], set()),
        ("a", 2, [b"aa", b""], {2}),
        ("aa", 1, [b"aa", b"a"], {2, 3}),
    ],
)
def test_words_of_a_terminal(regex: str, place: int, runs: list[bytes], expected: set[int]) -> None:
    assert ends(regex, place, *runs) == expected


def test_runs_are_joined_without_a_gap_between_them() -> None:
    assert Pattern.of([b"a", b"", b"b"]) == Pattern(b"ab", (1,))
    assert Pattern.of([b"", b"ab", b""]) == Pattern(b"ab", (0, 2))
    assert Pattern.of([b"a", b"b"]).filled({1: b"xy"}) == b"axyb"
    assert Pattern(b"ab", (0, 2)).filled({0: b"<", 2: b">"}) == b"<ab>"


def possible(grammar: Grammar, *runs: bytes) -> bool:
    pattern = Pattern.of(runs)
    found = shortest_fill(grammar, pattern)
    answer = completable(grammar, pattern)
    assert answer == (found is not None)
    if found is not None:
        assert completable(grammar, Pattern(pattern.filled(found)))
    return answer


def test_ambiguous_words_are_read_in_every_way() -> None:
    shift = read_grammar('start: "<" "<" "!" | "<<" "?"')
    assert possible(shift, b"<<!") and possible(shift, b"<<?")
    assert possible(shift, b"<", b"?") and possible(shift, b"<", b"!")
    assert not possible(shift, b"<?") and not possible(shift, b"<<", b"<")
    longest = read_grammar('start: A A "c"\nA: /a+/')
    assert possible(longest, b"aac") and not possible(longest, b"ac")


def test_keywords_in_identifiers() -> None:
    grammar = read_grammar(
        """
        start: NAME "=" NAME | KEYWORD " " NAME
        KEYWORD: "if" | "in"
        NAME: /[a-z]+/ & ~KEYWORD
        """
    )
    assert possible(grammar, b"x=iff") and possible(grammar, b"if x")
    assert not possible(grammar, b"if=x") and not possible(grammar, b"x=in")
    assert not possible(grammar, b"in in")
    assert possible(grammar, b"i", b"f=x")  # such as iif
    assert possible(grammar, b"if", b"=x") and possible(grammar, b"x=i", b"n")


def test_a_grammar_without_words_allows_nothing() -> None:
    for text in ('start: "a" start', "start: x\nx: x", 'start: A\nA: "a" & ~"a"'):
        grammar = read_grammar(text)
        assert grammar.start is None
        assert not possible(grammar, b"", b"") and not possible(grammar, b"")


def test_left_and_right_recursion_and_empty_rules() -> None:
    for text in (
        'start: start "a" | ',
        'start: "a" start | ',
        'start: start start | "a" | ',
        'start: x start | \nx: y\ny: x | "a" | ',
        'start: "a"*',
        "start: /a*/",
    ):
        grammar = read_grammar(text)
        assert possible(grammar, b"") and possible(grammar, b"aaa"), text
        assert possible(grammar, b"a", b"a", b"") and not possible(grammar, b"a", b"b"), text


def test_limits_of_a_check() -> None:
    grammar = read_grammar('start: "(" start ")" | start start | "x"')
    pattern = Pattern.of([b"("] * 40 + [b"y"])
    assert not completable(grammar, pattern)
    for limits in (CheckLimits(steps=1000), CheckLimits(seconds=0.0)):
        with pytest.raises(GrammarError, match="not decided"):
            completable(grammar, pattern, limits)
        with pytest.raises(GrammarError, match="not decided"):
            shortest_fill(grammar, pattern, limits)


@pytest.mark.parametrize(
    ("regex", "runs", "expected"),
    [
        ("xapc|yyaqc", [b"", b"a", b"c"], b"xapc"),  # two ways to the state before c
        ("yyapc|xaqc", [b"", b"a", b"c"], b"xaqc"),
        ("xappp|yyaq", [b"", b"a", b""], b"yyaq"),  # two ends in the last gap
        ("xxab|yab|zzzab", [b"", b"ab"], b"yab"),  # two ways to the state behind a
        ("aaxb|b{3}y?", [b"", b"b"], b"bbb"),
    ],
)
def test_completions_have_the_fewest_bytes(regex: str, runs: list[bytes], expected: bytes) -> None:
    pattern = Pattern.of(runs)
    fills = shortest_fill(read_grammar(f"start: /{regex}/"), pattern)
    assert fills is not None and pattern.filled(fills) == expected
    assert sum(map(len, fills.values())) == len(expected) - len(pattern.text)
