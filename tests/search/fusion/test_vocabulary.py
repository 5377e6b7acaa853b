"""Tokens as bytes: which begin with given bytes, and how bytes become tokens."""

import random
from collections.abc import Sequence

import pytest

from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.sources.families import family
from outrider.search.fusion.model import ByteModel
from outrider.search.fusion.vocabulary import ByteVocabulary
from outrider.testing.rigs import tabular_family

RANDOM = random.Random(1)
LETTERS = (0, 97, 98, 254, 255)


def some_bytes(most: int) -> bytes:
    return bytes(RANDOM.choices(LETTERS, k=RANDOM.randint(0, most)))


@pytest.mark.parametrize("count", [0, 1, 40])
def test_longer_tokens_are_found(count: int) -> None:
    tokens = [some_bytes(5) for _ in range(count)]
    own = ByteVocabulary(tokens)
    for _ in range(300):
        start = some_bytes(4)
        expected = [
            token
            for token, text in enumerate(tokens)
            if text and text.startswith(start) and len(text) > len(start)
        ]
        assert sorted(own.longer(start).tolist()) == expected


def test_the_lowest_token_of_bytes() -> None:
    own = ByteVocabulary([b"", b"b", b"a", b"b", b"ba"])
    assert (own.token_of(b"b"), own.token_of(b"ba"), own.token_of(b"c")) == (1, 4, None)
    assert own.token_of(b"") is None
    assert own.bytes_of(4) == b"ba" and own.bytes_of(9) == own.bytes_of(-1) == b""
    assert len(own) == 5 and own.longest == 2


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(family("tiny")["target"])


TEXTS = ["Once upon a time.", "  two\n\nlines\t", "naïve — 東京 😀", "a", "<think> <|end|>"]


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokens_of_a_tokenizer_have_the_bytes_of_the_text(
    tokenizer: Tokenizer, text: str
) -> None:
    own = ByteVocabulary.of(tokenizer, tokenizer.vocab_size)
    whole = text.encode()
    for end in range(len(whole) + 1):  # some ends lie inside a character
        tokens, rest = own.encode(whole[:end])
        assert own.text(tokens) + rest == whole[:end]
        assert not rest
    if "<|" not in text:  # special tokens have no bytes
        assert own.encode(whole)[0] == tokenizer.encode_plain(text)
        assert own.text(tokens).decode() == tokenizer.decode(tokens) == text


def test_bytes_outside_characters_become_single_tokens(tokenizer: Tokenizer) -> None:
    own = ByteVocabulary.of(tokenizer, tokenizer.vocab_size)
    text = b"one " + b"\xe6\x9d" + b" two"
    tokens, rest = own.encode(text)
    assert own.text(tokens) == text and not rest
    parts = [own.bytes_of(token) for token in tokens]
    at = parts.index(b"\xe6")
    assert parts[at + 1] == b"\x9d"
    assert own.encode(b"one ")[0] == tokens[:at]


def test_ids_that_the_model_does_not_write_are_left_out(tokenizer: Tokenizer) -> None:
    own = ByteVocabulary.of(tokenizer, 300)
    assert len(own) == 300
    text = "Once upon a time"
    tokens, rest = own.encode(text.encode())
    assert max(tokens) < 300 and own.text(tokens) + rest == text.encode()
    assert len(tokens) > len(tokenizer.encode_plain(text))


def test_special_tokens_are_part_of_no_text(tokenizer: Tokenizer) -> None:
    own = ByteVocabulary.of(tokenizer, tokenizer.vocab_size)
    assert tokenizer.special_texts
    for token, text in tokenizer.special_texts.items():
        tokens, rest = own.encode(text.encode())
        assert own.bytes_of(token) == b"" and token not in tokens
        assert own.text(tokens) + rest == text.encode()


def test_what_a_model_reads_before_every_text(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tabular_family().target
    assert ByteModel.of(model, tokenizer).opening == (tokenizer.bos_id or tokenizer.eos_id,)
    monkeypatch.setattr(Tokenizer, "opening_ids", (5, 6))
    assert ByteModel.of(model, tokenizer).opening == (5, 6)


@pytest.mark.parametrize(
    ("text", "tokens", "rest"),
    [
        (b"abz", [2], b"z"),
        (b"az\xe6b", [0], b"z\xe6b"),
        (b"a\xe6b", [0], b"\xe6b"),
        (b"ab\xe9", [2, 4], b""),
        (b"ab\xe9z", [2, 4], b"z"),
        (b"zab", [], b"zab"),
        (b"\xe6", [], b"\xe6"),
        (b"", [], b""),
    ],
)
def test_bytes_without_tokens_stay(text: bytes, tokens: Sequence[int], rest: bytes) -> None:
    own = ByteVocabulary([b"a", b"b", b"ab", b"", b"\xe9"])
    assert own.encode(text) == (tuple(tokens), rest)


def test_where_the_tokenizer_changes_a_text_the_longest_tokens_are_taken() -> None:
    tokens = [b"a", b"b", b"ab", b" a", b"aba"]
    asked: list[str] = []

    def with_space(text: str) -> list[int]:
        asked.append(text)
        return [3, 1]

    own = ByteVocabulary(tokens, with_space)
    assert own.encode(b"abab") == ((4, 1), b"") and asked == ["abab"]
    assert own.encode(b" ab") == ((3, 1), b"")
