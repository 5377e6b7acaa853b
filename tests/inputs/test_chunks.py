"""Chunks: lossless, near their size, cut where the text pauses."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.types import Passage
from outrider.inputs.documents.borders import LINE, SENTENCE, SPACE, borders
from outrider.inputs.documents.chunks import SLACK, Source, cut, cut_sources, windows


def tokenised(text: str, piece: int = 4) -> tuple[list[int], list[int]]:
    """Tokens of up to `piece` characters; a character beyond ASCII is two tokens, as bytes are."""
    ids: list[int] = []
    ends: list[int] = []
    at = 0
    while at < len(text):
        wide = not text[at].isascii()
        at = at + 1 if wide else min(at + piece, len(text))
        for _ in range(2 if wide else 1):
            ids.append(len(ids))
            ends.append(at)
    return ids, ends


def spelt(chunks: tuple[Passage, ...]) -> tuple[str, list[int]]:
    return "".join(c.text for c in chunks), [i for c in chunks for i in c.token_ids]


texts = st.text(st.sampled_from("ab .!?\n\"。é🙂'"), max_size=300)


@given(texts, st.integers(1, 40), st.integers(1, 5))
def test_nothing_is_lost_and_no_chunk_is_large_or_tiny(text: str, size: int, piece: int) -> None:
    ids, ends = tokenised(text, piece)
    chunks = cut(text, ids, ends, size)
    assert spelt(chunks) == (text, ids)
    assert cut(text, ids, ends, size) == chunks
    sizes = [len(chunk) for chunk in chunks]
    # A character of two tokens may stand across the border.
    assert all(1 <= n <= max(size * (1 + SLACK), 1) + 1 for n in sizes)
    if len(sizes) > 1:
        assert min(sizes) >= int(0.4 * size) - 1


@given(st.text(st.sampled_from("é🙂a"), min_size=30, max_size=200), st.integers(2, 20))
def test_no_character_is_torn(text: str, size: int) -> None:
    ids, ends = tokenised(text)
    stops = list(accumulate(len(chunk) for chunk in cut(text, ids, ends, size)))
    assert all(ends[stop - 1] < ends[stop] for stop in stops[:-1])


@given(st.lists(st.integers(0, 9), max_size=200), st.integers(1, 50))
def test_ids_without_a_text_are_cut_into_equal_parts(ids: list[int], size: int) -> None:
    chunks = cut("", ids, (), size)
    assert spelt(chunks) == ("", ids)
    sizes = [len(chunk) for chunk in chunks]
    assert not sizes or max(sizes) - min(sizes) <= 1
    if len(ids) % size == 0:
        assert sizes == [size] * (len(ids) // size)


@given(texts, st.integers(1, 60), st.integers(0, 120))
def test_windows_lose_nothing_either(text: str, size: int, tokens: int) -> None:
    passage = Passage(text, tuple(range(tokens)))
    assert spelt(windows(passage, size)) == (text, list(range(tokens)))


def test_windows_end_where_sentences_do() -> None:
    sentence = "The quick brown fox jumps over dogs. "
    found = windows(Passage(sentence * 12, tuple(range(120))), 20)
    assert len(found) > 4
    assert all(window.text.startswith(("The", " The")) for window in found)


def marked(text: str, worth: int = SENTENCE) -> str:
    """The text with a bar at the first place of each border of this worth."""
    marks = borders(text)
    return "".join(
        ("|" if marks[i] == worth and (i == 0 or marks[i - 1] != worth) else "") + text[i]
        for i in range(len(text))
    )


@pytest.mark.parametrize(
    "expected",
    [
        "He came.| She left!| Why?| Who…| Nobody knows.",
        'He asked "Why?"| She said (no.)| Then they left.',
        "Mr. Smith met Dr. J. R. Jones.| They spoke of fruit, e.g. Apples.| It cost 3.14 pounds.",
        '"Why?" he asked.| "so it is!" she said.',
        "A title|\n\nA paragraph|\n \t\nAnother",
        "我来了。|你呢？|他说：「走！」|好",
        "no border here",
        "",
    ],
)
def test_sentence_ends(expected: str) -> None:
    assert marked(expected.replace("|", "")) == expected


def test_lines_and_spaces_come_after_sentences() -> None:
    text = "one two\nthree. Four"
    marks = borders(text)
    assert [marks[text.index(c)] for c in (" ", "\n", ".")] == [SPACE, LINE, 0]
    assert marks[text.index(" Four")] == SENTENCE
    # The only space near the middle is better than any other place; a line break is better still.
    for text in ("a" * 47 + " " + "b" * 52, "aa " * 15 + "\n" + "bb " * 15):
        first = cut(text, list(range(len(text))), range(1, len(text) + 1), 50)[0]
        assert first.text.rstrip(" \n") == text[: len(first.text)].rstrip(" \n")
        assert "\n" in text[len(first.text) - 1 : len(first.text) + 1] or text[47] == " "


@pytest.mark.parametrize("line", ["x" * 100_000, " " * 100_000, ". " * 50_000, "é" * 50_000])
def test_one_long_line(line: str) -> None:
    ids, ends = tokenised(line)
    chunks = cut(line, ids, ends, 256)
    assert spelt(chunks) == (line, ids)
    assert max(map(len, chunks)) <= 256 * (1 + SLACK) + 1


def test_what_has_no_token_has_no_chunk() -> None:
    assert cut("", (), (), 8) == ()
    assert cut(" ", (), (), 8) == ()


def test_one_character_of_many_tokens_stays_whole() -> None:
    assert [len(c) for c in cut("🙂a", range(9), [1] * 8 + [2], 2)] == [8, 1]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        cut("a", [1], [1], 0)
    with pytest.raises(ValueError, match="2 tokens, but 1 ends"):
        cut("ab", [1, 2], [2], 4)


def test_no_chunk_has_two_sources() -> None:
    sources = [
        Source(name=name, text=text, token_ids=tokenised(text)[0], ends=tokenised(text)[1])
        for name, text in (("a.txt", "Short."), ("empty.txt", ""), ("b.txt", "Long text. " * 30))
    ]
    chunks, names = cut_sources(sources, 16)
    assert names[0] == "a.txt" and set(names[1:]) == {"b.txt"} and len(names) == len(chunks) > 3
    for source in sources:
        own = tuple(c for c, name in zip(chunks, names, strict=True) if name == source.name)
        assert spelt(own)[0] == source.text


def test_cuts_by_the_tokenizer_of_the_family_decode_to_their_text() -> None:
    from pathlib import Path

    import outrider
    from outrider.models.checkpoints.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(Path(outrider.__file__).parent / "families" / "tiny" / "target")
    text = "Mr. Fox said: 日本語 is 🙂. Then he left!\n\nA new day. " * 40
    found = tokenizer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    chunks = cut(text, found["input_ids"], [end for _, end in found["offset_mapping"]], 64)
    assert len(chunks) > 5
    assert all(tokenizer.decode(chunk.token_ids) == chunk.text for chunk in chunks)
    assert all(chunk.text.rstrip().endswith((".", "!")) for chunk in chunks)
