"""What a walk answers depends on the text only, whatever it was asked before."""

import json
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.constraints.grammars import Grammars
from outrider.engine.generator import Generator
from outrider.engine.load import load
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling.constraint import Constraint
from outrider.sampling.walk import Walk
from tests.constraints.automaton import BRANCHING, SPELLED, VOCAB, AutomatonMatcher

TEXTS = st.lists(st.integers(0, 6), max_size=9)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "ok": {"enum": [1, "x"]},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
CONSTRAINTS = {
    "json": Constraint.json_schema(SCHEMA),
    "any": Constraint.json_schema({"type": "object"}),
    "regex": Constraint.regex(r"(ab|c)+[0-9]{2,4}\."),
    "choice": Constraint.choice(["yes", "no", "not now", 'a "b"']),
    "gbnf": Constraint(kind="gbnf", source='root ::= "x" [a-c]* "y"'),
}


@cache
def generator() -> Generator:
    return load("tiny", mode="none")


@cache
def grammars() -> Grammars:
    return generator().grammars


@given(st.lists(TEXTS, max_size=12))
def test_a_moved_walk_answers_as_a_new_one(texts: list[list[int]]) -> None:
    walk = Walk(BRANCHING.begin())
    for text in texts:
        ours, new = walk.after(text), Walk(BRANCHING.begin()).after(text)
        assert (ours is None) == (new is None)
        if ours is not None and new is not None:
            assert ours.tokens.tolist() == new.tokens.tolist()
            assert (ours.accepting, ours.single, ours.count) == (
                new.accepting,
                new.single,
                new.count,
            )
        assert walk.forced(text) == Walk(BRANCHING.begin()).forced(text)
        assert walk.admits(text, [1, 5, 6]) == Walk(BRANCHING.begin()).admits(text, [1, 5, 6])


class Counting(AutomatonMatcher):
    """A matcher that counts how often it looks for forced tokens."""

    asked = 0

    def forced(self) -> list[int]:
        self.asked += 1
        return super().forced()


@given(st.lists(TEXTS, max_size=12))
def test_forced_tokens_are_looked_for_once_at_a_place(texts: list[list[int]]) -> None:
    """What was found at another place is not taken for this one, in a fork neither."""
    matcher = Counting(SPELLED)
    walk = Walk(matcher)
    for text in texts:
        before, wanted = matcher.asked, Walk(SPELLED.begin()).forced(text)
        for token in range(1, VOCAB):
            fresh = Walk(SPELLED.begin())
            assert walk.allows(text, token) == fresh.allows(text, token), (text, token)
        found = walk.forced(text)
        assert found == wanted == walk.fork().forced(text)
        found.append(0)
        assert walk.forced(text) == wanted
        assert matcher.asked <= before + 1


@pytest.mark.parametrize("name", CONSTRAINTS)
@given(data=st.data())
def test_matchers_of_the_engine_move_back_and_forth(name: str, data: st.DataObject) -> None:
    """Random walks over allowed tokens: after each step, the mask is that of a new matcher."""
    grammar = grammars().of(CONSTRAINTS[name])
    walk, text = Walk(grammar.begin()), list[int]()
    for _ in range(data.draw(st.integers(1, 8))):
        if text and data.draw(st.booleans()):
            del text[data.draw(st.integers(0, len(text) - 1)) :]
        options = walk.after(text)
        assert options is not None
        new = grammar.begin()
        assert new.advance(text) == len(text)
        assert options.tokens.tolist() == new.allowed().tolist()
        assert options.accepting == new.accepting
        if not options.count:
            assert options.accepting
            continue
        allowed = options.tokens.nonzero()[0].tolist()
        text.append(data.draw(st.sampled_from(allowed)))
        fresh = Walk(grammar.begin())
        for token in {*data.draw(st.lists(st.integers(0, 4095), max_size=6)), text[-1]}:
            if token not in generator().defaults.end_ids:
                assert fresh.allows(text[:-1], token) == bool(options.tokens[token])


def test_end_tokens_stay_outside() -> None:
    grammar = grammars().of(CONSTRAINTS["json"])
    matcher, tokenizer = grammar.begin(), generator().tokenizer
    assert isinstance(tokenizer, Tokenizer)
    ids = tokenizer.encode_plain('{"name": "a", "age": 3}')
    assert matcher.advance(ids) == len(ids) and matcher.accepting
    for end in generator().defaults.end_ids:
        assert not matcher.allowed()[end] and matcher.admits([end]) == 0
    before = matcher.allowed().tolist()
    matcher.retreat(2)
    assert not matcher.accepting
    assert matcher.advance(ids[-2:]) == 2 and matcher.allowed().tolist() == before


def test_tokens_that_do_not_exist_are_not_admitted() -> None:
    matcher = grammars().of(CONSTRAINTS["any"]).begin()
    assert matcher.admits([-1]) == matcher.admits([1 << 20]) == 0


def test_grammars_are_compiled_once() -> None:
    again = Constraint.json_schema(json.dumps(SCHEMA))
    assert grammars().of(again) is grammars().of(CONSTRAINTS["json"])
