"""What a text answers."""

import pytest

from outrider.core.errors import OptionError
from outrider.search.samples.answers import ANSWERS, extract_of

pytestmark = [pytest.mark.method("majority"), pytest.mark.method("first-finish")]


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("number", "3 + 4 = 7", "7"),
        ("number", "She pays $1,234.50.", "1234.5"),
        ("number", "The answer is 18.00", "18"),
        ("number", "It is -5 degrees", "-5"),
        ("number", "7-5", "5"),
        ("number", "100", "100"),
        ("number", "x2 and v1", None),
        ("number", "-0.0", "0"),
        ("number", "none", None),
        ("line", "a\n b \n\n", "b"),
        ("line", " \n", None),
        ("boxed", r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("boxed", r"\boxed{ 3.0 }", "3"),
        ("boxed", r"\boxed{1", None),
        ("boxed", "1", None),
        ("text", " a b\n", "a b"),
        ("text", " ", None),
    ],
)
def test_the_answer_of_a_text(name: str, text: str, answer: str | None) -> None:
    assert ANSWERS[name](text) == answer
    assert extract_of(name)(text) == answer


def test_a_function_or_a_known_name() -> None:
    assert extract_of(str.upper)("a") == "A"
    with pytest.raises(OptionError, match="answer is 'letter'"):
        extract_of("letter")
