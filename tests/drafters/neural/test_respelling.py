"""A text that grows, in the tokens of a second vocabulary."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from outrider.drafters.neural.respelling import (
    following,
    respelled,
    whole_characters,
    written_since,
)
from outrider.models.checkpoints.tokenizer import Tokenizer
from tests.drafters.neural.foreign_rigs import CORPUS, byte_level, pairs, sentence_piece

KINDS = {
    "bytes": lambda: byte_level(260),
    "words": lambda: byte_level(420),
    "sentence-piece": sentence_piece,
}
PARTS = [
    *CORPUS,
    "    ",
    " a ",
    " ",
    "\n",
    "\n\n",
    "  ",
    "it's",
    "é",
    "日",
    "🙂",
    "Lily",
    " Lily",
    "x" * 40,
]


def texts() -> st.SearchStrategy[list[str]]:
    """Texts in pieces, cut anywhere between characters."""
    cut = st.tuples(st.sampled_from(PARTS), st.integers(0, 12), st.integers(1, 30))
    return st.lists(cut.map(lambda c: c[0][c[1] : c[1] + c[2]] or "a"), min_size=2, max_size=8)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(pieces=texts(), window=st.integers(1, 12))
@example(pieces=["Once upon a time there was ", " "], window=1)
@example(pieces=["a  ", "  b", " c"], window=2)
def test_a_text_in_pieces_is_spelled(kind: str, pieces: list[str], window: int) -> None:
    """However it is cut, and however little is encoded again."""
    tokenizer = KINDS[kind]()
    ids = list(tokenizer.encode("Lily" + pieces[0]))
    for end in range(2, len(pieces) + 1):
        start, new = respelled(tokenizer, ids, pieces[end - 1], window)
        assert start >= len(ids) - 4 * window
        ids[start:] = new
        assert tokenizer.decode_all(ids) == "Lily" + "".join(pieces[:end])


@pytest.mark.parametrize("kind", ["words", "sentence-piece"])
def test_words_get_the_tokens_that_the_whole_text_has(kind: str) -> None:
    """A word that arrives in parts is one token in the end."""
    tokenizer = KINDS[kind]()
    whole = list(tokenizer.encode(CORPUS[0]))
    for step in (1, 2, 3, 7):
        ids = list(tokenizer.encode(CORPUS[0][:5]))
        for at in range(5, len(CORPUS[0]), step):
            start, new = respelled(tokenizer, ids, CORPUS[0][at : at + step], 6)
            ids[start:] = new
        assert ids == whole


def test_a_seam_inside_a_token_is_encoded_again() -> None:
    """Letters without words between them: the window begins anywhere."""
    ids = list(pairs().encode_plain("aab"))
    start, new = respelled(pairs(), ids, "cde", 2)
    assert (start, pairs().decode(new)) == (1, "abcde")
    assert new == list(pairs().encode_plain("abcde"))
    begun = list(pairs().encode_plain("aaaaaaab"))
    start, new = respelled(pairs(), begun, "c", 1)  # a window of one token would lose its place
    assert begun[:start] + new == list(pairs().encode_plain("aaaaaaabc"))


def test_special_tokens_are_not_encoded_again() -> None:
    words = byte_level(420)
    mark = words.tokenizer.convert_tokens_to_ids("<mark>")
    start, new = respelled(words, [*words.encode("Lily"), mark], "One day", 10)
    assert (start, new) == (len(words.encode("Lily")) + 1, list(words.encode("One day")))


def test_text_written_since() -> None:
    target = byte_level(260)
    ids = list(target.encode("a é🙂b"))
    for end in range(1, len(ids) + 1):
        found = written_since(target, ids[:1], ids[1:end])
        known = target.decode(ids[:end])
        assert found == (None if known.endswith("\ufffd") else known[1:])
    assert written_since(target, [], []) == ""
    assert written_since(target, ids[:1], [target.eos_id or 0]) == ""


def test_text_that_ends_inside_a_character() -> None:
    assert whole_characters("caf\ufffd") == "caf"
    assert whole_characters("café") == "café"


def check_following(tokenizer: Tokenizer, before: str, text: str) -> None:
    whole, known = tokenizer.encode(before + text), tokenizer.encode(before)
    assert following(tokenizer, known, text, 10) == list(whole[len(known) :])


def test_a_draft_has_the_tokens_that_it_has_after_the_text() -> None:
    for kind in ("words", "sentence-piece"):
        check_following(KINDS[kind](), "Once upon", " a time")
        check_following(KINDS[kind](), "Once upon a", " little girl named")
    assert following(pairs(), pairs().encode("a"), "bcde", 10) == list(pairs().encode("bcde"))


def test_a_text_that_would_merge_with_the_last_token_is_encoded_alone() -> None:
    """The target has written `b`, and `bc` would be one token."""
    assert following(pairs(), pairs().encode("ab"), "cde", 10) == list(pairs().encode("cde"))
    found = following(sentence_piece(), sentence_piece().encode("Once up"), "on a time", 10)
    assert sentence_piece().decode_all([*sentence_piece().encode("x"), *found]) == "xon a time"
