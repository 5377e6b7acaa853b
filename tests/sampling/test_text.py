"""Ids to text: whole characters, stop strings held back, and nothing that is taken back."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling.text import Marks, TextStream
from tests.models.setups.make_checkpoints import EOS_ID, write_tokenizer

BROKEN = "\ufffd"


def decode(ids: Sequence[int]) -> str:
    """The simplest byte-level tokenizer: each id is a byte."""
    return bytes(ids).decode("utf-8", errors="replace")


def feed(stream: TextStream, ids: Sequence[int]) -> list[str]:
    """The piece that each token releases, then what `close` does."""
    pieces = []
    for token in ids:
        stopped = stream.push(token)
        pieces.append(stream.take())
        if stopped:
            break
    stream.close()
    return [*pieces, stream.take()]


def pieces(text: str | bytes, *stop: str) -> list[str]:
    ids = text.encode() if isinstance(text, str) else text
    return feed(TextStream(decode, stop), list(ids))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    return Tokenizer.load(path)


# -- characters --------------------------------------------------------------------------------


def test_a_character_comes_with_its_last_token() -> None:
    assert pieces("aé😀z") == ["a", "", "é", "", "", "", "😀", "z", ""]


def test_an_emoji_through_a_real_tokenizer(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a😀b")
    assert len(ids) == 6
    assert feed(TextStream(tokenizer.decode), ids) == ["a", "", "", "", "😀", "b", ""]


def test_close_releases_what_is_left_of_a_character() -> None:
    *before, last = pieces("ok😀".encode()[:-1])
    assert "".join(before) == "ok" and last == BROKEN


def test_a_broken_character_is_released_once_another_follows() -> None:
    assert pieces(b"\xf0\x9fa") == ["", "", BROKEN + "a", ""]


def test_a_replacement_character_that_the_model_wrote_is_kept() -> None:
    assert "".join(pieces(f"a{BROKEN}b")) == f"a{BROKEN}b"
    assert "".join(pieces(f"a{BROKEN}")) == f"a{BROKEN}"


def test_tokens_without_text_change_nothing(tokenizer: Tokenizer) -> None:
    first, second = "é".encode()
    ids = [EOS_ID, first, EOS_ID, 280, second, EOS_ID, 97]
    assert feed(TextStream(tokenizer.decode), ids) == ["", "", "", "", "é", "", "a", ""]


def test_spaces_that_depend_on_the_neighbour() -> None:
    """Decoders in the manner of SentencePiece drop the space before the first token."""
    words = ["▁one", "▁two", "s", "▁three"]

    def drop_first_space(ids: Sequence[int]) -> str:
        return "".join(words[i] for i in ids).replace("▁", " ").removeprefix(" ")

    got = feed(TextStream(drop_first_space), [0, 1, 2, 3, 1])
    assert got == ["one", " two", "s", " three", " two", ""]


def test_each_token_is_decoded_with_few_others() -> None:
    """A text of n tokens must not cost n squared."""
    longest = 0

    def spy(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode(ids)

    text = "ab😀c" * 50
    assert "".join(feed(TextStream(spy), list(text.encode()))) == text
    assert longest <= 24


# -- stop strings ------------------------------------------------------------------------------


def test_a_stop_string_is_held_back_and_cut() -> None:
    assert pieces("one END two", "END") == ["o", "n", "e", " ", "", "", "", ""]
    stream = TextStream(decode, ["END"])
    assert [stream.push(t) for t in b"xEND"] == [False, False, False, True]
    assert (stream.text, stream.stopped) == ("x", True)


def test_what_only_looked_like_a_stop_string_is_released() -> None:
    assert pieces("ENDING", "ENDED") == ["", "", "", "ENDI", "N", "G", ""]
    assert pieces("EN", "END") == ["", "", "EN"]


def test_a_false_start_inside_a_false_start() -> None:
    assert pieces("aab", "ab") == ["", "a", "", ""]
    assert "".join(pieces("aaab!", "aab")) == "a"
    assert "".join(pieces("ababac", "abac")) == "ab"


def test_several_stop_strings_and_the_first_one_wins() -> None:
    assert "".join(pieces("one, two. three", ".", ",")) == "one"
    assert "".join(pieces("abcd", "cx", "bc", "abcx")) == "a"


def test_of_overlapping_ones_the_first_to_be_whole_wins() -> None:
    assert "".join(pieces("xabcd", "abcd", "bc")) == "xa"
    assert "".join(pieces("xabcd", "abc", "b")) == "xa"
    assert "".join(pieces("xabcd", "ab", "abcd")) == "x"


def test_a_stop_string_within_one_token_cuts_at_the_earliest() -> None:
    words = ["one STOP two HALT", "HA", "LT!"]
    stream = TextStream(lambda ids: "".join(words[i] for i in ids), ["HALT", "STOP"])
    assert stream.push(0) and stream.text == "one "
    stream = TextStream(lambda ids: "".join(words[i] for i in ids), ["HALT"])
    assert not stream.push(1)
    assert stream.push(2) and stream.text == ""


def test_a_stop_string_of_long_characters() -> None:
    assert "".join(pieces("a😀é!", "😀é")) == "a"
    assert pieces("a😀b", "😀é") == ["a", "", "", "", "", "😀b", ""]


def test_nothing_is_read_after_a_stop() -> None:
    stream = TextStream(decode, ["."])
    for token in b"a.bc":
        stream.push(token)
    stream.close()
    assert stream.text == "a" and stream.take() == "a" and stream.take() == ""


# -- any bytes ---------------------------------------------------------------------------------

ALPHABET = [b"a", b"b", b" ", "é".encode(), "€".encode(), "😀".encode(), BROKEN.encode()]
BYTES = st.lists(
    st.one_of(st.sampled_from(ALPHABET), st.binary(min_size=1, max_size=1)), max_size=12
).map(b"".join)
STOPS = st.lists(st.text("ab é€😀", min_size=1, max_size=3), max_size=3)


@given(text=BYTES)
def test_pieces_make_up_the_text_and_the_text_is_all_ids_decoded(text: bytes) -> None:
    stream = TextStream(decode)
    got = "".join(feed(stream, list(text)))
    assert got == stream.text == decode(text)


@given(text=BYTES, every=st.integers(1, 5))
def test_it_does_not_matter_when_text_is_taken(text: bytes, every: int) -> None:
    stream, got = TextStream(decode, ["ab"]), ""
    for i, token in enumerate(text):
        if stream.push(token):
            break
        if i % every == 0:
            got += stream.take()
    stream.close()
    assert got + stream.take() == "".join(pieces(text, "ab"))


def expected(ids: Sequence[int], stop: Sequence[str]) -> str:
    """By the definition: the first token after which a stop string stands in the text."""
    for n in range(1, len(ids) + 1):
        text = decode(ids[:n])
        hits = [text.index(s) for s in stop if s in text]
        if hits and not text.endswith(BROKEN):
            return text[: min(hits)]
    return decode(ids)


@given(text=BYTES, stop=STOPS)
def test_stop_strings_by_their_definition(text: bytes, stop: list[str]) -> None:
    stream = TextStream(decode, stop)
    released = feed(stream, list(text))
    assert "".join(released) == stream.text == expected(text, stop)


@given(text=BYTES, stop=STOPS)
def test_nothing_is_held_without_a_reason(text: bytes, stop: list[str]) -> None:
    """What is kept back begins a stop string, or is not yet a character."""
    stream, got = TextStream(decode, stop), ""
    for n, token in enumerate(text, start=1):
        if stream.push(token):
            break
        got += stream.take()
        held = stream.text[len(got) :]
        assert not held or any(s.startswith(held) and s != held for s in stop)
        whole = decode(text[:n])
        assert stream.text == whole or whole.endswith(BROKEN)


@given(
    tokens=st.lists(st.binary(min_size=1, max_size=5), max_size=8),
    stop=STOPS,
)
def test_tokens_of_several_bytes(tokens: list[bytes], stop: list[str]) -> None:
    def join(ids: Sequence[int]) -> str:
        return decode(b"".join(tokens[i] for i in ids))

    stream = TextStream(join)
    assert "".join(feed(stream, range(len(tokens)))) == decode(b"".join(tokens))
    cut = TextStream(join, stop)
    assert decode(b"".join(tokens)).startswith("".join(feed(cut, range(len(tokens)))))


# -- stop strings with special tokens ----------------------------------------------------------

MARKS = {256: "<end>", 257: "<turn>"}


def decode_all(ids: Sequence[int]) -> str:
    parts = [MARKS[i].encode() if i in MARKS else bytes([i]) for i in ids]
    return b"".join(parts).decode("utf-8", errors="replace")


def plain(ids: Sequence[int]) -> str:
    return decode([i for i in ids if i not in MARKS])


def marked(stop: Sequence[str]) -> TextStream:
    return TextStream(plain, stop, marks=Marks(decode_all, frozenset(MARKS)))


def ids_of(text: str) -> list[int]:
    for number, mark in MARKS.items():
        text = text.replace(mark, chr(0xE000 + number))
    return [i for c in text for i in ([ord(c) - 0xE000] if ord(c) >= 0xE100 else list(c.encode()))]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("hello<end>more", "<end>", "hello"),
        ("one\n<turn>user", "\n<turn>user", "one"),
        ("one\ntwo\n<turn>us er\n<turn>user", "\n<turn>user", "one\ntwo\nus er"),
        ("a<turn>b<end>c", "b<end>", "a"),
        ("<end>", "<end>", ""),
        ("no stop<turn> here", "<end>", "no stop here"),
        ("\u00e9<end>x", "<end>x", "\u00e9"),
    ],
)
def test_a_stop_string_with_a_special_token(text: str, stop: str, expected: str) -> None:
    pieces = feed(marked([stop]), ids_of(text))
    assert "".join(pieces) == expected


@given(
    st.lists(st.sampled_from(["a", "b", "\n", "\u00e9", "<end>", "<turn>"]), max_size=12),
    st.sampled_from([["<end>"], ["a<end>"], ["\n<turn>a", "<end>b"], ["<turn><end>"]]),
)
def test_marked_stops_cut_where_a_search_cuts(parts: list[str], stop: list[str]) -> None:
    whole = "".join(parts)
    hits = [whole.find(one) for one in stop if one in whole]
    # The first token that completes a stop string decides; what begins first in it is cut.
    ends = [whole.find(one) + len(one) for one in stop if one in whole]
    if hits:
        first = min(ends)
        whole = whole[: min(whole.find(one) for one in stop if one in whole[:first])]
    expected = whole.replace("<end>", "").replace("<turn>", "")
    ids = ids_of("".join(parts))
    stream = marked(stop)
    assert "".join(feed(stream, ids)) == expected and stream.text == expected
    assert stream.stopped == bool(hits)
    branch = marked(stop)
    for token in ids[:3]:
        if branch.push(token):
            break
    else:
        other = branch.branch()
        assert "".join(feed(other, ids[3:])) == expected
