"""A model under a policy of its caches behind a server: the texts are those of `generate`."""

from collections.abc import Iterator
from typing import Any

import pytest

import outrider
from outrider.engine.generator import Generator
from outrider.engine.serving.settings import ServingSettings
from outrider.models.caches.eviction.policy import UNBOUNDED
from tests.server.setups import CHAT, COMPLETE, Running, running

ASK: dict[str, Any] = {"model": "tiny", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
OWN: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.0, "ignore_eos": True}
STORY = "Once upon a time there was a dog. The dog had a ball. One day the dog lost the ball. "
POLICIES = {
    "in parts": "streaming(budget=32,chunk=8,every=8)",
    "whole": "snapkv(budget=16,window=4)",
}


def served_by(policy: str) -> Generator:
    return outrider.load(
        "tiny", threads=1, dtype="int8", drafter="lookup", policy="fixed", kv_policy=policy
    )


@pytest.fixture(scope="module", params=POLICIES)
def served_kept(request: pytest.FixtureRequest) -> Iterator[tuple[str, Running]]:
    with running(served_by(POLICIES[request.param])) as found:
        yield request.param, found


def text(served: Running, path: str, **body: Any) -> str:
    answer = served.post(path, ASK | body)
    assert answer.status == 200, answer.body
    choice = answer.json["choices"][0]
    return choice["text"] if path == COMPLETE else choice["message"]["content"]


def test_two_turns_are_those_of_generate(served_kept: tuple[str, Running]) -> None:
    how, served = served_kept
    own = served_by(POLICIES[how])
    messages: list[dict[str, str]] = []
    for said in (STORY * 2, "And then?"):
        messages.append({"role": "user", "content": said})
        answer = text(served, CHAT, messages=messages)
        own.reset()
        assert answer == own.generate([*messages], **OWN).text
        messages.append({"role": "assistant", "content": answer})


def test_a_text_is_continued_only_if_the_policy_allows_it(
    served_kept: tuple[str, Running],
) -> None:
    how, served = served_kept
    hits = served.engine.state.counters["prefix_hits"]
    first = text(served, COMPLETE, prompt=STORY * 3)
    again = text(served, COMPLETE, prompt=STORY * 3 + first)
    own = served_by(POLICIES[how])
    assert again == own.generate(STORY * 3 + first, **OWN).text
    assert (served.engine.state.counters["prefix_hits"] > hits) == (how == "in parts")


def test_the_model_tells_its_policy(served_kept: tuple[str, Running], served: Running) -> None:
    how, kept = served_kept
    found = kept.get("/v1/models").json["data"][0]
    assert found["kv_policy"] == POLICIES[how] and found["exactness"] == "lossy"
    assert "kv_policy" not in served.get("/v1/models").json["data"][0]
    assert f'kv_policy="{POLICIES[how]}"' in kept.get("/metrics").body.decode()
    assert "kv_policy" not in served.get("/metrics").body.decode()
    body = ASK | {"prompt": "x"}
    prints = [one.post(COMPLETE, body).json["system_fingerprint"] for one in (kept, served)]
    assert prints[0] != prints[1]


def test_nothing_is_sized_by_a_window_without_end(served_kept: tuple[str, Running]) -> None:
    how, served = served_kept
    target = served.context.generator.strategy.target.info
    assert (target.context_length == UNBOUNDED) == (how == "in parts")
    limits = ServingSettings(memory_share=1e-6).limits(served.context.generator)
    assert limits.slots <= 8192
    answer = served.post(COMPLETE, {"model": "tiny", "prompt": "Hello", "max_tokens": 4})
    assert answer.status == 200
