"""Expressions and automata against `re`."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.constraints.cfg import automata
from outrider.constraints.cfg.automata import Automaton, automaton_of, without_empty
from outrider.constraints.cfg.expressions import (
    MOST,
    Both,
    Choice,
    Repeat,
    Sequence,
    Without,
    code_points,
    complement,
    literal,
)
from outrider.constraints.cfg.regex import parse_regex
from outrider.constraints.cfg.terminal import Terminal
from outrider.core.errors import OptionError

PATTERNS = (
    "",
    "a|b",
    "(ab|a)*b?",
    "a{2,3}b{2}c{1,}",
    "[a-c]+[^a-cé]",
    r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?",
    r'"([^"\\]|\\["\\/bfnrt])*"',
    r"\w+\s\W",
    "é+|€|😀.",
    r"[\]\-x]\.\x41\u00e9",
    "(a|b)*a(a|b)(a|b)",
    "(|a)b",
    r"[\n\t ]{0,3},",
    "[😀-😃]|[ࠀ-\uffff]b",
    "[^x]",
)
TEXTS = st.text(st.sampled_from('abcAxé€😀😁,-.01e+"\\n \n\t]\u0800\uffff~'), max_size=7)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=TEXTS)
def test_the_automaton_accepts_what_re_matches(pattern: str, text: str) -> None:
    assert automaton_of(parse_regex(pattern)).accepts(text.encode()) == bool(
        re.fullmatch(pattern, text, re.ASCII)
    )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_that_match_are_accepted(pattern: str) -> None:
    words = {
        "": "",
        "a|b": "b",
        "(ab|a)*b?": "aabab",
        "a{2,3}b{2}c{1,}": "aaabbcc",
        "[a-c]+[^a-cé]": "ab€",
        PATTERNS[5]: "-10.5E+7",
        PATTERNS[6]: '"a\\n\\"é"',
        r"\w+\s\W": "a_1\t€",
        "é+|€|😀.": "😀😃",
        PATTERNS[9]: "-.Aé",
        PATTERNS[10]: "bbaab",
        "(|a)b": "b",
        PATTERNS[12]: "\n ,",
        PATTERNS[13]: "ࠀb",
        "[^x]": "\U0010ffff",
    }
    automaton = automaton_of(parse_regex(pattern))
    assert automaton.accepts(words[pattern].encode())
    for byte in (b"\xff", b"\xc3", b"\xed\xa0\x80"):  # no UTF-8, also surrogates
        assert not automaton.accepts(words[pattern].encode() + byte)
        assert not automaton.accepts(byte)


@given(st.integers(0, MOST), st.integers(0, MOST), st.integers(0, MOST))
def test_ranges_of_code_points(one: int, other: int, point: int) -> None:
    low, high = min(one, other), max(one, other)
    if 0xD800 <= point <= 0xDFFF:
        return
    data = chr(point).encode()
    assert automaton_of(code_points([(low, high)])).accepts(data) == (low <= point <= high)
    outside = complement([(low, high)])
    assert automaton_of(code_points(outside)).accepts(data) == (not low <= point <= high)


LETTERS = st.text("ab", max_size=6)


@given(LETTERS)
def test_intersections_and_differences(text: str) -> None:
    left, right = parse_regex("a*(ab)*"), parse_regex("(aa|b)*")
    data, first = text.encode(), bool(re.fullmatch("a*(ab)*", text))
    second = bool(re.fullmatch("(aa|b)*", text))
    assert automaton_of(Both(left, right)).accepts(data) == (first and second)
    assert automaton_of(Without(left, right)).accepts(data) == (first and not second)
    inner = Sequence((literal("x"), Without(left, right), literal("y")))
    assert automaton_of(inner).accepts(b"x" + data + b"y") == (first and not second)


@pytest.mark.parametrize("pattern", ["(ab)*", "a?b?", "a*", ""])
@given(text=LETTERS)
def test_the_empty_text_is_taken_out(pattern: str, text: str) -> None:
    made = without_empty(automaton_of(parse_regex(pattern)))
    assert made.accepts(text.encode()) == (bool(text) and bool(re.fullmatch(pattern, text)))


def test_automata_are_least_and_have_no_dead_states() -> None:
    assert len(automaton_of(parse_regex("(a|b)*a(a|b)")).rows) == 4
    assert len(automaton_of(parse_regex("ax|bx")).rows) == 3
    assert len(automaton_of(parse_regex("(a|aa|aaa)*")).rows) == 1
    assert automaton_of(Choice(())).rows == ()
    assert automaton_of(Sequence((literal("a"), Choice(())))).rows == ()
    assert automaton_of(Without(literal("a"), literal("a"))).rows == ()


def test_too_many_states_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automata, "MOST_STATES", 100)
    with pytest.raises(OptionError, match="too many states"):
        automaton_of(parse_regex("(a|b)*a(a|b){8}"))
    with pytest.raises(OptionError, match="too many states"):
        automaton_of(Repeat(literal("a"), 900, 900))


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a{3,2}", "repeat"),
        ("a{x}", "repeat"),
        ("a*?", "lazy"),
        ("(?=a)", "groups"),
        ("^a", "not read"),
        ("a$", "not read"),
        (r"\b", "escape"),
        (r"\1", "escape"),
        ("(a", "ends here"),
        ("a)", "unexpected"),
        ("[b-a]", "range"),
        ("[a", "ends here"),
        (r"\x4", "digits"),
        ("*a", "not read"),
        ("[[:alpha:]]", "inside a class"),
    ],
)
def test_what_is_not_read_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(OptionError, match=why):
        parse_regex(pattern)


def terminal(pattern: str) -> Terminal:
    return Terminal(pattern, without_empty(automaton_of(parse_regex(pattern))))


def test_words_in_a_run() -> None:
    one = terminal("ab|abc|abcde")
    begin = frozenset((0,))
    ends, states = one.read(begin, b"abcd")
    assert ends == (2, 3)
    assert one.read(states, b"e") == ((1,), one.read(states, b"e")[1])
    assert one.read(begin, b"xab") == ((), frozenset())
    assert one.read(begin, b"abx")[1] == frozenset()
    assert one.read(begin, b"ab") is one.read(begin, b"ab")


@given(st.binary(max_size=5))
def test_runs_from_several_states(run: bytes) -> None:
    one = terminal("(a|bb)*c")
    every = one.reached(frozenset((0,)))
    ends, states = one.read(every, run)
    single = [one.read(frozenset((state,)), run) for state in every]
    assert set(ends) == {end for found, _ in single for end in found}
    assert states == frozenset().union(*(after for _, after in single))


def test_shortest_texts_between_states() -> None:
    one = terminal("ab(cd|e)|x{4}")
    assert one.shortest == b"abe"
    assert one.first == 1 << ord("a") | 1 << ord("x")
    automaton: Automaton = one.automaton
    for state, word in one.words(0).items():
        at = 0
        for byte in word:
            at = automaton.step(at, byte)
        assert at == state
        assert automaton.accepts(word + one.ending(state))
    assert one.reached(frozenset((0,))) == frozenset(range(len(automaton.rows)))
