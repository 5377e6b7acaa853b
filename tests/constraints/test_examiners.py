"""Grammars of strangers are examined in processes, which are replaced if one does not answer."""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from outrider.constraints.examiner import _valid, _within
from outrider.constraints.examiners import BrokenError, Examiners, TooSlowError
from outrider.constraints.grammars import KEPT, Grammars
from outrider.core.errors import OptionError, OutriderError
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling.constraint import Constraint, Gate
from tests.constraints.test_walk import generator
from tests.server.constraints.cases import HOSTILE

CHOICE = Constraint.choice(["a", "b"])
SLOW = Constraint.json_schema({"type": "integer", "multipleOf": 100_000_007})
BREAKING = Constraint(kind="lark", source=HOSTILE["rules that end the process"]["guided_grammar"])


def new_grammars(kept: int = KEPT) -> Grammars:
    made, codec = generator(), generator().tokenizer
    assert isinstance(codec, Tokenizer)
    size = made.strategy.target.info.vocab_size
    return Grammars(codec, made.defaults.end_ids, size, kept=kept)


@pytest.fixture(scope="module")
def examiners() -> Iterator[Examiners]:
    made = Examiners(new_grammars().vocabulary, seconds=1, most=1)
    yield made
    made.close()
    assert made.running == []
    with pytest.raises(OutriderError, match="shutting down"):
        made.check(CHOICE)


def test_a_process_serves_many_grammars(examiners: Examiners) -> None:
    examiners.check(CHOICE)
    [first] = examiners.running
    assert first != os.getpid()
    with pytest.raises(OptionError, match="look-around"):
        examiners.check(Constraint.regex("(?=a)b"))
    with pytest.raises(OptionError, match="no text fits the json constraint"):
        examiners.check(Constraint.json_schema({"$ref": "#"}))
    with pytest.raises(OptionError, match="Too many items"):
        examiners.check(Constraint(kind="lark", source='start: ("a"~1000)~1000\n'))
    schema = json.dumps({"type": "integer"})
    assert examiners.valid(schema, "1") is True
    assert examiners.valid(schema, '"1"') is examiners.valid(schema, "{") is False
    assert examiners.running == [first]


@pytest.mark.parametrize(("constraint", "error"), [(SLOW, TooSlowError), (BREAKING, BrokenError)])
def test_a_process_that_fails_is_replaced(
    examiners: Examiners, constraint: Constraint, error: type[OptionError]
) -> None:
    examiners.check(CHOICE)
    before = examiners.running
    with pytest.raises(error):
        examiners.check(constraint)
    assert examiners.running == []
    examiners.check(CHOICE)
    assert len(examiners.running) == 1 and examiners.running != before


def test_a_grammar_is_compiled_once_for_threads_that_ask_together() -> None:
    grammars, together = new_grammars(), Barrier(4)
    constraint = Constraint.regex("[a-z]{2,9}")

    def ask() -> object:
        together.wait()
        return grammars.of(constraint)

    with ThreadPoolExecutor(4) as pool:
        found = [one.result() for one in [pool.submit(ask) for _ in range(4)]]
    assert all(one is found[0] for one in found) and grammars.knows(constraint)


def test_the_oldest_grammars_are_dropped() -> None:
    grammars = new_grammars(kept=3 << 18)
    asked = [Constraint.choice([text]) for text in "abcd"]
    for constraint in asked[:2]:
        grammars.of(constraint)
    kept = grammars.of(asked[0])
    grammars.of(asked[2])
    assert [grammars.knows(one) for one in asked] == [True, False, True, False]
    assert grammars.of(asked[0]) is kept
    gated = asked[3].within(Gate(open="x" * 128))  # it may have a mask for each byte of that
    grammars.of(gated)
    assert [grammars.knows(one) for one in (*asked[:3], gated)] == [False, False, False, True]
    for _ in range(2):  # what was refused is not left behind
        with pytest.raises(OptionError, match="the regex constraint is refused"):
            grammars.of(Constraint.regex("("))
        assert not grammars.knows(Constraint.regex("("))


def test_hard_limits_of_the_system_are_kept() -> None:
    assert [_within(5, -1), _within(5, 3), _within(5, 9)] == [5, 3, 5]


def test_without_a_validator_texts_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _valid('{"type": "null"}', "null") is True
    assert _valid('{"type": "null"}', "nul") is False
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    assert _valid('{"type": "null", "title": "not seen before"}', "null") is None
