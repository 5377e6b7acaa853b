"""Grammars as text."""

import pytest

from outrider.constraints.cfg.emptiness import completable
from outrider.constraints.cfg.pattern import Pattern
from outrider.constraints.cfg.text_form import read_grammar
from outrider.core.errors import OptionError


@pytest.mark.parametrize(
    ("text", "words", "others"),
    [
        ('start: "a" | "b"', ["a", "b"], ["", "ab"]),
        ('start: "a"\n  | "b" // note\n  | ""', ["a", "b", ""], ["c"]),
        ('start: ("a" | "b") "c"', ["ac", "bc"], ["a", "c"]),
        ('start: "a"? "b"* "c"+', ["c", "abbcc"], ["ab", "aac"]),
        ('start: ["a"] "b" ["c" | "d"]', ["b", "abd", "bc"], ["a", "bcd"]),
        ('start: X\nX: Y+ Z?\nY: /[0-9]/\nZ: "."', ["1", "12."], [".", ""]),
        ('start: X\nX: ("a" | "b" ["c"])*', ["", "abca"], ["c"]),
        ('start: X\nX: /[a-z]+/ & /..?/ & ~"if"', ["a", "ab"], ["if", "abc", ""]),
        ('start: X\nX: /a*/ & ~("a" | "aaa")', ["", "aa", "aaaa"], ["a", "aaa"]),
        ('start: "\\n\\"\\u00e9" /\\//', ['\n"é/'], ["n"]),
        ('start: x2 y_\nx2: A1\ny_: "b"?\nA1: "a"', ["a", "ab"], ["b"]),
        ('start: (("a" "b")+ "c")*', ["", "ababcabc"], ["ab", "abcab"]),
    ],
)
def test_words_of_texts(text: str, words: list[str], others: list[str]) -> None:
    grammar = read_grammar(text)
    for word in words:
        assert completable(grammar, Pattern(word.encode())), word
    for word in others:
        assert not completable(grammar, Pattern(word.encode())), word


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "begin with a name"),
        ('"a"', "begin with a name"),
        ('x: "a"', "no rule start"),
        ("start: x", "x is not defined"),
        ("start: X", "does not define X"),
        ('start: "a"\nstart: "b"', "twice"),
        ('start: "a"\n%ignore " "', "refused at '%ignore"),
        ('start: X\nX: X "a"', "uses itself"),
        ('start: X\nX: ~"a"', "behind &"),
        ('start: X\nX: x\nx: "a"', "unexpected 'x'"),
        ('start: "a" )', "unexpected"),
        ('start: ("a"', "too early"),
        ('start: ["a")', "missing"),
        ('start: "\\x"', "not valid"),
        ('Start: "a"', "small and capital"),
        ("start: *", "unexpected"),
        ("start: /(?=a)/", "groups"),
    ],
)
def test_what_is_not_read_is_refused(text: str, why: str) -> None:
    with pytest.raises(OptionError, match=why):
        read_grammar(text)
