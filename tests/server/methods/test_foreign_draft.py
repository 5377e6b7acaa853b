"""A server whose draft model has another tokenizer: its drafts change no text."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import outrider
from outrider.engine.generator import Generator
from tests.models.setups.foreign import foreign_checkpoint
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.server.setups import COMPLETE, Running, running

pytestmark = pytest.mark.method("universal")
PROMPTS = ("abc", "Straße 🙂", "a", "ab ab ab ab")
ASK: dict[str, Any] = {"model": "tiny", "max_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    folder = make_checkpoint(tmp_path_factory.mktemp("plain") / "target", tokenizer=True, std=0.3)
    return outrider.load(folder, drafter="none", draft="none", dtype="float32", threads=1)


@pytest.fixture(scope="module")
def served_foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("foreign")
    target = make_checkpoint(root / "target", tokenizer=True, std=0.3)
    generator = outrider.load(
        target,
        draft=foreign_checkpoint(root / "draft"),
        num_speculative_tokens=3,
        dtype="float32",
        threads=1,
    )
    with running(generator) as found:
        yield found


def choice(served: Running, **body: Any) -> Any:
    answer = served.post(COMPLETE, ASK | body)
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_texts_of_requests_at_once_are_those_of_the_target(
    served_foreign: Running, plain: Generator, temperature: float
) -> None:
    ends = list(plain.defaults.end_ids)
    wanted = [
        plain.generate(
            p, max_new_tokens=24, temperature=temperature, seed=3, banned_tokens=ends
        ).text
        for p in PROMPTS
    ]
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        found = pool.map(
            lambda p: choice(
                served_foreign,
                prompt=p,
                temperature=temperature,
                seed=3,
                logit_bias={str(end): -100 for end in ends},
            )["text"],
            PROMPTS,
        )
        assert list(found) == wanted


def test_streams_stop_strings_and_repeated_prompts(
    served_foreign: Running, plain: Generator
) -> None:
    whole = plain.generate("abc", max_new_tokens=24, temperature=0.0).text
    for _ in range(2):  # the second time, the prompt is in the cache
        assert (
            choice(served_foreign, prompt="abc", temperature=0, ignore_eos=False)["text"] == whole
        )
    stop = whole[9:11]
    own = plain.generate("abc", max_new_tokens=24, temperature=0.0, stop=[stop])
    cut = choice(served_foreign, prompt="abc", temperature=0, stop=[stop], ignore_eos=False)
    assert (cut["text"], cut["finish_reason"]) == (own.text, "stop")
    answer = served_foreign.post(
        COMPLETE, ASK | {"prompt": "abc", "temperature": 0, "stream": True, "ignore_eos": False}
    )
    assert "".join(one["choices"][0]["text"] for one in answer.chunks if one["choices"]) == whole


def test_its_drafts_are_verified(served_foreign: Running) -> None:
    choice(served_foreign, prompt="abc", temperature=0)
    told = served_foreign.get("/metrics").body.decode()
    drafted = re.search(r"spec_decode_num_draft_tokens_total\{[^}]*\} (\S+)", told)
    assert drafted is not None and float(drafted[1]) > 5
