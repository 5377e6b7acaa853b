"""The exact distribution of a model over a finite set of texts, and that of token masking."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from outrider import Generator
from outrider.constraints.token_texts import TokenTexts
from outrider.core.types import Prompt, as_ids
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.protocols import Segment

_LEAST = 1e-5
"""Beginnings whose probability is below this share of the largest one are left out."""


@dataclass(slots=True)
class Exact:
    """Distributions over the texts.

    Attributes:
        log_evidence: logarithm of the probability that the model writes one of the texts and ends.
        posterior: the model's distribution, given that it writes one of them. All ways of splitting
            a text into tokens count.
        masked: the distribution of token masking: at each place, the allowed tokens scaled to one.
        rows: texts that the model was asked to continue.
    """

    log_evidence: float
    posterior: dict[str, float]
    masked: dict[str, float]
    rows: int


@dataclass(slots=True)
class _Node:
    tokens: tuple[int, ...]
    text: bytes
    parent: int
    log_model: float
    log_masked: float
    row: np.ndarray = field(default_factory=lambda: np.empty(0))


def enumerate_texts(generator: Generator, prompt: Prompt, texts: Sequence[str]) -> Exact:
    """Compute both distributions by following all splits of all texts, one forward a level."""
    tokenizer, model = generator.tokenizer, generator.strategy.target
    assert isinstance(tokenizer, Tokenizer)
    pieces = _pieces(TokenTexts(tokenizer), model.info.vocab_size)
    whole = [text.encode() for text in texts]
    ends = sorted(generator.defaults.end_ids)
    [cache] = model.start([prompt])
    nodes = [_Node((), b"", -1, 0.0, 0.0)]
    found, masked = dict.fromkeys(texts, 0.0), dict.fromkeys(texts, 0.0)
    level = [0]
    while level:
        _read(model, cache, nodes, level)
        fresh: list[int] = []
        for place in level:
            node = nodes[place]
            after = _allowed(node.text, whole, pieces)
            allowed = list(after) + (ends if node.text in whole else [])
            mass = float(np.logaddexp.reduce(node.row[allowed]))
            if node.text in whole:
                end = float(np.logaddexp.reduce(node.row[ends]))
                text = node.text.decode()
                found[text] += float(np.exp(node.log_model + end))
                masked[text] += float(np.exp(node.log_masked + end - mass))
            for token, piece in after.items():
                log = float(node.row[token])
                child = _Node(
                    (*node.tokens, token),
                    node.text + piece,
                    place,
                    node.log_model + log,
                    node.log_masked + log - mass,
                )
                nodes.append(child)
                fresh.append(len(nodes) - 1)
            node.row = np.empty(0)
        best = max((nodes[i].log_model for i in fresh), default=0.0)
        likely = np.log(_LEAST)
        level = [
            i for i in fresh if nodes[i].log_model > best + likely or nodes[i].log_masked > likely
        ]
    total, all_masked = sum(found.values()), sum(masked.values())
    return Exact(
        float(np.log(total)),
        {text: p / total for text, p in found.items()},
        {text: p / all_masked for text, p in masked.items()},
        sum(1 for node in nodes),
    )


def _read(model, cache, nodes: list[_Node], level: list[int]) -> None:
    """Fill the rows of a level: the log-probabilities after each of its beginnings."""
    tokens: list[int] = []
    parents: list[int] = []
    ends: list[int] = []
    for place in level:  # each beginning as a chain of its own
        parent = -1
        for token in nodes[place].tokens:
            tokens.append(token)
            parents.append(parent)
            parent = len(tokens) - 1
        ends.append(parent)
    [rows] = model.forward([Segment(cache, as_ids(tokens), as_ids(parents))], [as_ids(ends)])
    cache.commit(())
    logs = torch.log_softmax(rows.logits.double(), -1).numpy()
    for place, row in zip(level, logs, strict=True):
        nodes[place].row = row


def _pieces(texts: TokenTexts, size: int) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for token in range(size):
        if piece := texts.plain_bytes(token):
            found.setdefault(piece, []).append(token)
    return found


def _allowed(
    text: bytes, whole: Sequence[bytes], pieces: dict[bytes, list[int]]
) -> dict[int, bytes]:
    """The tokens that may follow a beginning, with their bytes."""
    found: dict[int, bytes] = {}
    for one in whole:
        if one.startswith(text):
            for size in range(1, len(one) - len(text) + 1):
                piece = one[len(text) : len(text) + size]
                found.update(dict.fromkeys(pieces.get(piece, ()), piece))
    return found
