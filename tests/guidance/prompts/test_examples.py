"""Lame prompts (USCD, arXiv 2409.05923): prompts without their examples of input and output."""

import pytest

from outrider.core.types import Prompt
from outrider.guidance.prompts.examples import without_examples
from outrider.guidance.prompts.uscd import Uscd

pytestmark = pytest.mark.method("uscd")

DOCTESTS = '''from typing import List


def close(numbers: List[float], apart: float) -> bool:
    """ Check if two numbers are closer than apart.
    >>> close([1.0, 2.0], 0.5)
    False
    >>> close([1.0, 1.2],
    ...       0.3)
    True
    """
'''
DOCTESTS_GONE = '''from typing import List


def close(numbers: List[float], apart: float) -> bool:
    """ Check if two numbers are closer than apart.
    """
'''
HEADED = '''def f(x):
    """Add one.

    Examples:

    f(1) gives 2 because
    one and one are two

    Numbers may be negative.
    """
'''
CALLS = '''def f(x: int) -> int:
    """Add one.
    For example: f(1) is 2
    f(1) == 2
    f("a)") => 3
    f(4) ➞ 5
    f(5) -> 6
    f(6) should return 7
    Uses f(x) for numbers.
    """
    y = f(x) == 2
'''
MBPP = """You are an expert Python programmer, and here is your task: Write a function to add one.
Your code should pass these tests:

assert f(1) == 2
assert f(2) == 3
"""


def test_doctests_and_their_results_go() -> None:
    assert without_examples(DOCTESTS) == DOCTESTS_GONE


def test_quotes_that_end_a_description_stay() -> None:
    assert without_examples('def f():\n    """One.\n    >>> f()\n    1"""\n') == (
        'def f():\n    """One.\n    """\n'
    )
    assert without_examples("def f():\n    '''One.\n    assert f() == 1'''\n    x = 2\n") == (
        "def f():\n    '''One.\n    '''\n    x = 2\n"
    )


def test_what_follows_a_blank_line_after_a_doctest_stays() -> None:
    text = "Add.\n>>> f(1)\n2\n\nThe end.\n"
    assert without_examples(text) == "Add.\n\nThe end.\n"


def test_a_block_below_a_heading_goes_up_to_the_next_blank_line() -> None:
    assert without_examples(HEADED) == HEADED.replace("    Examples:\n", "").replace(
        "    f(1) gives 2 because\n    one and one are two\n", ""
    )


def test_lines_with_calls_and_results_go_and_code_stays() -> None:
    kept = ["def f(x: int) -> int:", '    """Add one.', "    Uses f(x) for numbers.", '    """']
    assert without_examples(CALLS) == "\n".join([*kept, "    y = f(x) == 2", ""])


def test_asserts_go_with_the_line_that_announces_them() -> None:
    assert without_examples(MBPP) == MBPP.splitlines(keepends=True)[0] + "\n"


def test_messages_lose_the_examples_of_all_their_texts() -> None:
    image = {"type": "image"}
    found = without_examples(
        [
            {"role": "system", "content": "Write Python."},
            {
                "role": "user",
                "content": [image, {"type": "text", "text": "Add.\nassert f(1) == 2"}],
            },
            {"role": "user", "content": "Add.\n>>> f(1)\n2\n"},
        ]
    )
    assert found == [
        {"role": "system", "content": "Write Python."},
        {"role": "user", "content": [image, {"type": "text", "text": "Add.\n"}]},
        {"role": "user", "content": "Add.\n"},
    ]


@pytest.mark.parametrize(
    "given",
    [
        "def f(x):\n    return x\n",
        "An exemplary text. For example, this one.\nI assert nothing.",
        [{"role": "user", "content": "Why?"}],
        ">>> f(2)\n4\n",
        "assert f(1) == 2",
        (1, 2, 3),
        Prompt(token_ids=(1, 2)),
    ],
)
def test_without_examples_there_is_no_other_prompt(given: object) -> None:
    assert without_examples(given) is None  # type: ignore[arg-type]


def test_the_method_reads_this_prompt() -> None:
    assert Uscd().contrast(MBPP) == without_examples(MBPP)
