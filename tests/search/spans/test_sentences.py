"""Sentences of plain text."""

import pytest

from outrider.search.spans.sentences import sentences_of

pytestmark = pytest.mark.method("cfic")


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rained.", "We stayed."],
        ["What?", "No!", "Yes..."],
        ["Mr. Smith met Dr. J. Watson at St. Paul.", "He left."],
        ["It costs 3.5 dollars.", "That is much."],
        ["He said: “Go!”", "She went."],
        ["“No!” he said.", "(It was late.)", "Then he left."],
        ["It is e.g. an apple vs. a pear.", "Both grow."],
        ["So did I.", "You did not."],
        ["The U.S. Army came.", "It left."],
        ["A list without an end mark"],
        ["你好。", "再见!"],
        ["He waited… and waited.", "Nothing."],
    ],
)
@pytest.mark.parametrize("space", [" ", "\n", "  \n "])
def test_sentences(sentences: list[str], space: str) -> None:
    text = f" {space.join(sentences)}\n"
    assert [text[a:b] for a, b in sentences_of(text)] == sentences


def test_a_blank_line_ends_a_sentence() -> None:
    text = "A heading\n\nthe text of\nit goes on. \n \nIt ends"
    parts = ["A heading", "the text of\nit goes on.", "It ends"]
    assert [text[a:b] for a, b in sentences_of(text)] == parts


def test_nothing_is_no_sentence() -> None:
    assert sentences_of(" \n\n ") == []
