"""Texts of the letters `a` to `e`, and an encoder that reads them."""

from typing import Any

import numpy as np

from outrider.core.types import LongContext, Passage


class Words:
    """An encoder of the words `a` to `e`; it counts what it is asked."""

    name = "words"

    def __init__(self) -> None:
        self.asked = 0

    def encode(self, passages: Any) -> np.ndarray:
        self.asked += len(passages)
        found = [[float(letter in p.text.split()) for letter in "abcde"] for p in passages]
        return np.array(found)


def passages(*texts: str) -> tuple[Passage, ...]:
    return tuple(Passage(text, tuple(map(ord, text))) for text in texts)


def context(*texts: str, asked: str = "a") -> LongContext:
    return LongContext(
        start=0,
        chunks=passages(*texts),
        query=Passage(asked, tuple(map(ord, asked))),
        decode=lambda ids: "".join(map(chr, ids)),
    )
