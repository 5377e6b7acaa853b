"""The asynchronous client, many requests at once, and the client's own retries."""

import asyncio
from typing import Any

import openai
import pytest

from outrider.engine.generator import Generator
from tests.engine.serving.setups import held, until
from tests.server.setups import CHAT, HELLO, QUICK, Running

BASE: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 12}


def test_texts_do_not_depend_on_other_requests(served: Running, generator: Generator) -> None:
    async def ask(client: openai.AsyncOpenAI, seed: int) -> str:
        if seed % 2:
            answer = await client.chat.completions.create(**BASE, seed=seed)
            return answer.choices[0].message.content or ""
        stream = await client.chat.completions.create(**BASE, seed=seed, stream=True)
        return "".join(
            [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        )

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=served.url, api_key="-") as client:
            return await asyncio.gather(*(ask(client, seed) for seed in range(12)))

    found = asyncio.run(run())
    for seed in range(12):
        expected = generator.generate(HELLO, seed=seed, max_new_tokens=12, temperature=1.0)
        assert found[seed] == expected.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_task_frees_the_engine(served: Running, stream: bool) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=served.url, api_key="-") as client:
            fields = BASE | {"max_tokens": 400, "extra_body": {"ignore_eos": True}}
            created: Any = client.chat.completions.create(**fields, stream=stream)

            async def read() -> None:
                answer = await created
                async for _ in answer:
                    pass

            task = asyncio.create_task(read())
            assert await asyncio.to_thread(until, lambda: served.context.client.open)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    assert served.idle()
    with held(served.engine, 4):
        asyncio.run(run())
        assert served.idle()


def test_the_client_tries_again_after_429(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from outrider.server.endpoints import common
    from outrider.server.errors import retry_later

    real, calls = common.check_queue, list[int]()

    def check(*given: Any) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise retry_later(429, "queue_full", "later", 0.0)
        real(*given)

    monkeypatch.setattr(common, "check_queue", check)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with openai.OpenAI(base_url=served.url, api_key="-", max_retries=2) as client:
        assert client.chat.completions.create(**BASE, seed=1).choices
    assert len(calls) == 3
    assert served.post(CHAT, QUICK).status == 200
