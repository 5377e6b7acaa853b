"""Among whom the engine is shared, in which class, and whose prompts a request may reuse."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from outrider.engine.generator import Generator
from outrider.server.context import Asker
from outrider.server.endpoints.common import _priority, _salt
from outrider.server.keys import Key, Keys
from outrider.server.schema.chat import ChatBody
from outrider.server.settings import ServerSettings
from tests.server.setups import CHAT, HELLO, running


def key(name: str, priority: int = 0) -> Key:
    return Key(name=name, digest=hashlib.sha256(name.encode()).digest(), priority=priority)


def asker(of: Key | None) -> Asker:
    return Asker(request_id="r", key=of, address="10.0.0.7")


def body(**fields: Any) -> ChatBody:
    return ChatBody.model_validate({"model": "m", "messages": HELLO} | fields)


ANN, LOW = key("ann"), key("low", priority=3)


@pytest.mark.parametrize(
    ("of", "user", "principal"),
    [
        (None, None, "10.0.0.7"),
        (None, "u", "10.0.0.7/u"),
        (ANN, None, "ann"),
        (ANN, "u", "ann"),  # a client names its users, and would have several shares
    ],
)
def test_the_engine_is_shared_among_keys_or_addresses_and_users(
    of: Key | None, user: str | None, principal: str
) -> None:
    assert asker(of).principal(user) == principal


@pytest.mark.parametrize(
    ("of", "fields", "priority"),
    [
        (None, {}, 0),
        (None, {"priority": 2}, 2),
        (None, {"priority": -2}, 0),
        (None, {"service_tier": "flex"}, 1),
        (None, {"service_tier": "priority"}, 0),
        (None, {"service_tier": "default"}, 0),
        (LOW, {}, 3),
        (LOW, {"priority": 5}, 5),
        (LOW, {"priority": 1}, 3),
        (LOW, {"service_tier": "flex"}, 4),
        (LOW, {"service_tier": "flex", "priority": 7}, 7),
        (key("best", priority=-2), {"priority": -1}, -1),
        (key("best", priority=-2), {}, -2),
    ],
)
def test_the_class_is_at_best_that_of_the_key(
    of: Key | None, fields: dict[str, Any], priority: int
) -> None:
    assert _priority(asker(of), body(**fields)) == priority


def salt(of: Key | None, shared: bool = False, **fields: Any) -> str:
    context: Any = SimpleNamespace(settings=ServerSettings(prefixes_across_keys=shared))
    return _salt(asker(of), body(**fields), context)


def test_prompts_are_found_under_the_same_key_and_salt_only() -> None:
    named = [salt(of, cache_salt=own) for of in (None, ANN, LOW) for own in (None, "x", "y")]
    assert len(set(named)) == len(named)
    assert salt(None) == ""
    assert salt(ANN) == salt(replace(ANN, name="renamed"))
    assert "ann" not in salt(ANN)
    assert salt(ANN, shared=True) == salt(LOW, shared=True) == salt(None)
    assert salt(ANN, shared=True, cache_salt="x") == salt(LOW, shared=True, cache_salt="x") != ""


@pytest.mark.parametrize("shared", [False, True])
def test_a_key_reuses_prompts_of_another_one_only_if_that_is_allowed(
    generator: Generator, shared: bool
) -> None:
    settings = ServerSettings(model_names=("tiny",), prefixes_across_keys=shared)
    message = {"role": "user", "content": "What did the dog see in the garden last night?"}
    asked = {"model": "tiny", "messages": [message], "max_tokens": 1, "seed": 1}

    with running(generator, settings, Keys((key("one"), key("two")))) as served:

        def cached(name: str, **fields: Any) -> int:
            answer = served.post(CHAT, asked | fields, authorization=f"Bearer {name}")
            return answer.json["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert cached("one") == 0
        assert (cached("two") > 0) is shared
        assert cached("one") > 0
        assert cached("one", cache_salt="x") == 0
        assert cached("one", cache_salt="x") > 0
        assert cached("one", safety_identifier="u") > 0
