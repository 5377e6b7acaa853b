"""Methods as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.core.expression import Expression, quoted, split_list
from outrider.protocols.method import text_of

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,6}", fullmatch=True).filter(
    lambda name: name not in ("true", "false", "none")
)
VALUES = st.one_of(
    st.integers(-99, 99),
    st.booleans(),
    st.none(),
    NAMES,
    st.text(alphabet="ab1 ,()='\"\\\n", max_size=6),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
EXPRESSIONS = st.recursive(
    st.builds(Expression, NAMES, st.just(()), st.dictionaries(NAMES, VALUES, max_size=2)),
    lambda inner: st.builds(
        Expression,
        NAMES,
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(NAMES, VALUES, max_size=2),
    ),
    max_leaves=6,
)


def written(expression: Expression) -> str:
    parts = [written(inner) for inner in expression.inner]
    parts += [f"{name}={text_of(one)}" for name, one in expression.options.items()]
    return f"{expression.name}({', '.join(parts)})" if parts else expression.name


@given(EXPRESSIONS)
def test_what_is_written_is_read(expression: Expression) -> None:
    assert Expression.parse(written(expression)) == expression


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"my models/small"', "my models/small"),
        ("'say \"hi\", (now)=1'", 'say "hi", (now)=1'),
        (r"'it\'s'", "it's"),
        (r'"a \"b\" \\"', 'a "b" \\'),
        (r'"C:\new\"s"', 'C:\\new"s'),
        ('"true"', "true"),
        ('"7"', "7"),
        ('""', ""),
        ("./small", "./small"),
    ],
)
def test_texts_in_quotes(text: str, value: str) -> None:
    assert Expression.parse(f"m(x={text}, y=2)").options == {"x": value, "y": 2}


@pytest.mark.parametrize(
    "text", ["true", "none", "7", "-1.5", "1e3", "inf", "", "a b", 'a"', "a:b"]
)
def test_what_would_read_as_another_value_is_quoted(text: str) -> None:
    assert quoted(text).startswith('"')
    assert Expression.parse(f"m(x={quoted(text)})").options == {"x": text}


def test_names_and_paths_stay_as_they_are() -> None:
    assert [quoted(text) for text in ("sam", "./a-b/c_1.txt", "80%")] == [
        "sam",
        "./a-b/c_1.txt",
        "80%",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('m(x="a)', 'a text has no end: " is missing'),
        ("'m'", "is not a name"),
        ("m('x'=1)", "is not the name of an option"),
        ("m(x=(1,'2'))", "whole numbers are expected"),
        ("m(x='a' 'b')", "')' is missing"),
    ],
)
def test_misplaced_texts_are_refused(text: str, problem: str) -> None:
    with pytest.raises(OptionError) as refused:
        Expression.parse(text)
    assert problem in str(refused.value)


@given(st.text(alphabet="ab(),=1.\"'\\ ", max_size=12))
def test_anything_else_is_refused_with_one_line(text: str) -> None:
    try:
        Expression.parse(text, "rule")
    except OptionError as error:
        assert str(error).startswith(f"rule {text!r}: ") and "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("switch(a,b,n=1), c:k=4 ,", ["switch(a,b,n=1)", "c:k=4"]),
        ("", []),
        ("a),b", ["a)", "b"]),
        ("m(x=')'),\"b,c\",it's,d", ["m(x=')')", '"b,c"', "it's", "d"]),
    ],
)
def test_lists_are_split_outside_parentheses(text: str, parts: list[str]) -> None:
    assert split_list(text) == parts
