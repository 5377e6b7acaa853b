"""How much a request lets drafting change its text."""

from collections.abc import Iterator
from typing import Any

import pytest

import outrider
from outrider.engine.generator import Generator
from tests.server.setups import CHAT, HELLO, QUICK, Running, running

BODY = QUICK | {"max_tokens": 40, "ignore_eos": True}


@pytest.fixture(scope="module")
def lossy() -> Iterator[Running]:
    """A server that may change every fifth token."""
    found = outrider.load(
        "tiny", threads=1, dtype="int8", mode="fuzzy", max_changed=0.2, threshold_target=0.9
    )
    with running(found) as served:
        yield served


def content(answer: Any) -> str:
    assert answer.status == 200, answer.error
    return answer.json["choices"][0]["message"]["content"]


def test_a_text_without_changes(lossy: Running, generator: Generator) -> None:
    sampling: Any = {"seed": 1, "max_new_tokens": 40, "temperature": 1.0, "ignore_eos": True}
    expected = generator.generate(HELLO, **sampling).text
    for asked in ({"mode": "exact"}, {"mode": "none"}, {"max_changed": 0}):
        assert content(lossy.post(CHAT, BODY | {"speculation": asked})) == expected
    changed = content(lossy.post(CHAT, BODY))
    for asked in ({"mode": "fuzzy"}, {"max_changed": 0.2}, {"mode": "fuzzy", "max_changed": 1}):
        assert content(lossy.post(CHAT, BODY | {"speculation": asked})) == changed
    assert changed != expected


def test_fewer_changes_than_the_server_makes_are_refused(lossy: Running) -> None:
    answer = lossy.post(CHAT, BODY | {"speculation": {"max_changed": 0.1}})
    assert answer.status == 400 and answer.error["code"] == "unsupported_field"
    assert answer.error["param"] == "speculation.max_changed" and "0.2" in answer.error["message"]


def test_a_server_that_changes_nothing_keeps_every_limit(served: Running) -> None:
    expected = content(served.post(CHAT, QUICK))
    for share in (0, 0.1, 1):
        asked = {"mode": "exact", "max_changed": share}
        assert content(served.post(CHAT, QUICK | {"speculation": asked})) == expected
    for asked, param in (
        ({"mode": "fuzzy"}, "speculation.mode"),
        ({"max_changed": 2}, "speculation.max_changed"),
    ):
        answer = served.post(CHAT, QUICK | {"speculation": asked})
        assert answer.status == 400 and answer.error["param"] == param
