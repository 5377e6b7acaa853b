"""Methods as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.core.expression import Expression, split_list

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,6}", fullmatch=True).filter(
    lambda name: name not in ("true", "false", "none")
)
VALUES = st.one_of(
    st.integers(-99, 99),
    st.booleans(),
    st.none(),
    NAMES,
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
    def value(one: object) -> str:
        if isinstance(one, tuple):
            return f"({','.join(map(str, one))})"
        return str(one).lower() if one is None or isinstance(one, bool) else str(one)

    parts = [written(inner) for inner in expression.inner]
    parts += [f"{name}={value(one)}" for name, one in expression.options.items()]
    return f"{expression.name}({', '.join(parts)})" if parts else expression.name


@given(EXPRESSIONS)
def test_what_is_written_is_read(expression: Expression) -> None:
    assert Expression.parse(written(expression)) == expression


@given(st.text(alphabet="ab(),=1. ", max_size=12))
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
    ],
)
def test_lists_are_split_outside_parentheses(text: str, parts: list[str]) -> None:
    assert split_list(text) == parts
