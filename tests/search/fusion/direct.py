"""Probabilities of bytes straight from their definitions, on a model whose table is known."""

import math
from collections.abc import Sequence

import torch

from outrider.models.tabular import TabularModel
from outrider.search.fusion.marginal import Warp
from outrider.search.fusion.model import ByteModel
from outrider.search.fusion.vocabulary import ByteVocabulary

TOKENS = (b"", b"a", b"b", b"ab", b"ba", b"aab", b"abba", b"bb", b"a")
"""Of a toy vocabulary; two tokens have the same bytes."""
OPENING = (0,)


def toy(seed: int = 0, tokens: Sequence[bytes] = TOKENS) -> ByteModel:
    """A model over a toy vocabulary, read by the longest tokens."""
    table = TabularModel.random(vocab_size=len(tokens), seed=seed)
    return ByteModel(table, ByteVocabulary(tokens), OPENING)


def probabilities(model: ByteModel, before: Sequence[int], warp: Warp) -> list[float]:
    """The next token after an opening and tokens."""
    assert isinstance(model.model, TabularModel)
    text = [*model.opening, *before]
    row = model.model.logits_after(text) / warp.temperature
    for token in set(text[-warp.window :]) if warp.window else ():
        own = float(row[token])
        row[token] = own / warp.penalty if own > 0 else own * warp.penalty
    return torch.softmax(row, -1).tolist()


def exact(model: ByteModel, text: bytes, before: tuple[int, ...] = ()) -> float:
    """The chance that a text of tokens begins with these bytes, by all ways to cut them."""
    if not text:
        return 1.0
    total = 0.0
    for token, chance in enumerate(probabilities(model, before, Warp())):
        own = model.vocabulary.bytes_of(token)
        if own and own.startswith(text):
            total += chance
        elif own and text.startswith(own):
            total += chance * exact(model, text[len(own) :], (*before, token))
    return total


def standard(model: ByteModel, text: bytes) -> float:
    """The chance of the tokens of the tokenizer alone."""
    tokens, rest = model.vocabulary.encode(text)
    assert not rest
    return math.prod(
        probabilities(model, tokens[:i], Warp())[token] for i, token in enumerate(tokens)
    )


def formula(model: ByteModel, text: bytes, warp: Warp | None = None) -> tuple[float, int]:
    """The chance that GFD gives to bytes, and the tokens of its largest part."""
    warp = warp or Warp()
    tokens, rest = model.vocabulary.encode(text)
    if not text:
        return 1.0, 0
    parts: list[tuple[float, int]] = []
    chance = 1.0
    for i in range(len(tokens) + 1):
        row = probabilities(model, tokens[:i], warp)
        tail = b"".join(model.vocabulary.bytes_of(token) for token in tokens[i:]) + rest
        longer = [
            row[token]
            for token in range(len(row))
            if len(model.vocabulary.bytes_of(token)) > len(tail)
            and model.vocabulary.bytes_of(token).startswith(tail)
        ]
        if tail and longer:
            parts.append((chance * sum(longer), i + 1))
        if i < len(tokens):
            chance *= row[tokens[i]]
    if not rest:
        parts.append((chance, len(tokens)))
    return sum(part for part, _ in parts), max(parts)[1]
