"""Where texts are written from left to right, the same tokens are allowed as by llguidance."""

import json
import random
from functools import cache
from typing import Any

import pytest

from outrider.constraints.cfg.emptiness import completable
from outrider.constraints.cfg.filling import GrammarFilling, grammar_of
from outrider.constraints.cfg.pattern import Pattern
from outrider.constraints.cfg.vocabulary import Vocabulary
from outrider.constraints.grammars import Grammars
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.sources.families import families_folder
from outrider.sampling.constraint import Constraint

SCHEMAS: dict[str, Any] = {
    "any": True,
    "object": {"type": "object"},
    "closed": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
            "sub": {
                "type": "object",
                "properties": {"x": {"type": "number"}},
                "required": ["x"],
                "additionalProperties": False,
            },
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "open": {
        "type": "object",
        "properties": {"a": {"type": ["string", "null"]}, "b": {"type": "boolean"}},
        "additionalProperties": {"type": "number"},
    },
    "array": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 4},
    "any of": {
        "anyOf": [
            {"type": "integer"},
            {"const": {"k": [1, "é"]}},
            {
                "type": "object",
                "properties": {"a": {"$ref": "#"}},
                "required": ["a", "z"],
                "additionalProperties": False,
            },
        ]
    },
}
TOKENS = 40
"""Tokens that are compared after each text."""


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(families_folder() / "tiny" / "target")


@cache
def grammars() -> Grammars:
    return Grammars(tokenizer(), [0], tokenizer().vocab_size)


def vocabulary() -> Vocabulary:
    return Vocabulary.of(tokenizer(), [0], tokenizer().vocab_size)


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("whitespace", [None, "compact", "flexible"])
def test_the_same_tokens_may_follow(name: str, whitespace: str | None) -> None:
    """All but the byte 0x7f, which JSON allows in strings, and llguidance does not."""
    constraint = Constraint.json_schema(SCHEMAS[name], whitespace=whitespace)
    theirs, ours = grammars().of(constraint), grammar_of(constraint)
    words, rng = vocabulary(), random.Random(f"{name} {whitespace}")
    answers = {True: 0, False: 0}
    for _ in range(4):
        matcher, text = theirs.begin(), b""
        for _ in range(rng.randint(0, 12)):
            found = matcher.allowed().nonzero()[0].tolist()
            short = [token for token in found if len(words.bytes_of(token) or b"") <= 2]
            if not found:
                break
            token = rng.choice(short if short and rng.random() < 0.6 else found)
            assert matcher.advance([token]) == 1
            text += words.bytes_of(token) or b""
        assert completable(ours, Pattern(text)) == matcher.accepting, text
        allowed = matcher.allowed().nonzero()[0].tolist()
        asked = rng.sample(range(words.size), TOKENS) + rng.sample(
            allowed, min(len(allowed), TOKENS)
        )
        for token in asked:
            data = words.bytes_of(token)
            if data and b"\x7f" not in data:
                one = completable(ours, Pattern(text + data, (len(text + data),)))
                assert one == (matcher.admits([token]) == 1), (text, data)
                answers[one] += 1
    assert min(answers.values()) > 3, answers


def test_an_answer_of_a_real_tokenizer() -> None:
    grammar = grammar_of(Constraint.json_schema(SCHEMAS["closed"]))
    mask = vocabulary().size
    filling = GrammarFilling(grammar, vocabulary(), mask)
    part = list(tokenizer().encode_plain('"age": 31'))
    answer = [mask] * 12 + part + [mask] * 12
    assert filling.allows(answer)
    found = filling.complete(answer)
    assert found is not None and found[-1] == 0 and len(found) < len(answer)
    text = tokenizer().decode_all([token for token in found.tolist() if token])
    assert json.loads(text) == {"name": "", "age": 31}
    assert not filling.allows([*answer[:-1], part[0]])
