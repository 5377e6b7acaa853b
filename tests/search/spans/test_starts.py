"""Beginnings in the order of their tokens, beside a tree of all of them."""

from collections.abc import Iterable
from random import Random

import pytest

from outrider.search.spans.starts import Start, Starts

pytestmark = pytest.mark.method("cfic")


def letters(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


def random_texts(seed: int, number: int) -> list[str]:
    """Texts of few letters, so that many share a beginning, are equal, or begin another one."""
    random = Random(seed)
    return ["".join(random.choices("ab ", k=random.randint(0, 7))) for _ in range(number)]


def beginnings(texts: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """The whole tree: which sentences have each beginning."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, tokens in enumerate(texts):
        for length in range(1, len(tokens) + 1):
            found.setdefault(tokens[:length], []).append(number)
    return found


def walked(start: Start, prefix: tuple[int, ...]) -> dict[tuple[int, ...], list[int]]:
    """Beginnings that are reached through open ones."""
    found = {prefix: start.sentences}
    if start.open:
        for token in start.next():
            found |= walked(start.longer(token), (*prefix, token))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_beginnings_are_those_of_the_tree(seed: int) -> None:
    texts = random_texts(seed, 40)
    tree = beginnings(letters(text) for text in texts)
    starts = Starts(texts, letters)
    assert set(starts.firsts) == {one[0] for one in tree if len(one) == 1}
    for token in starts.firsts:
        found = walked(starts.at(token), (token,))
        for prefix, sentences in found.items():
            assert sentences == tree[prefix]
            ended = any(len(texts[i]) == len(prefix) for i in sentences)
            longer = {one[-1] for one in tree if one[:-1] == prefix}
            assert ({one[-1] for one in found if one[:-1] == prefix}) == (
                longer if len(sentences) > 1 and not ended else set()
            )


def test_next_tokens_ascend() -> None:
    start = Starts(["ac", "ab", "ad", "ab"], letters).at(ord("a"))
    assert start.next() == [ord(letter) for letter in "bcd"]


def test_texts_are_encoded_wholly_only_where_their_first_token_is_asked_for() -> None:
    encoded: list[str] = []

    def encode(text: str) -> tuple[int, ...]:
        encoded.append(text)
        return letters(text)

    texts = ["a" + "x" * 30 + "yz more of it " * 20, "b" + "y" * 50 + " more", "ab more"]
    starts = Starts(texts, encode)
    assert encoded == ["a" + "x" * 30 + "yz", "b" + "y" * 50, "ab more"]
    assert starts.firsts == {ord("a"): [0, 2], ord("b"): [1]}
    encoded.clear()
    assert starts.at(ord("a")).next() == [ord("b"), ord("x")]
    assert encoded == [texts[0], texts[2]]


def test_a_first_token_of_the_head_stays() -> None:
    """Where the rest of a text changes its first token, sentences are still told apart."""

    def encode(text: str) -> tuple[int, ...]:
        return (9, *letters(text[1:])) if len(text) > 40 else letters(text)

    texts = ["ab" + letter * 38 + " cd" for letter in "xyx"]
    start = Starts(texts, encode).at(ord("a"))
    assert [number for _, number in start.rows] == [0, 2, 1]
    assert {tokens[0] for tokens, _ in start.rows} == {ord("a")}


def test_a_beginning_takes_few_steps_among_many_sentences() -> None:
    """Tokens that are looked at grow with the logarithm of the sentences."""
    looked = 0

    class Counted(tuple[int, ...]):
        def __getitem__(self, place: int) -> int:  # type: ignore[override]
            nonlocal looked
            looked += 1
            return super().__getitem__(place)

    rows = [(Counted((1, number % 5, number)), number) for number in range(10_000)]
    rows.sort(key=tuple)
    start = Start(rows, 0, len(rows), 1)
    assert start.next() == [0, 1, 2, 3, 4]
    assert len(start.longer(3).sentences) == 2000
    assert looked < 150
