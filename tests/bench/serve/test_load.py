"""The generator of a load: what it reads from the wire, and the figures made of it."""

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.bench.serve.figures import Objective, figures
from outrider.bench.serve.http import Address
from outrider.bench.serve.load import Answer, Job, closed_loop, open_loop, poisson
from outrider.bench.serve.run import summary
from outrider.cli.commands.benches.serve import _shown
from outrider.core.errors import OptionError

EVENTS = [
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "Grüße "}}]},
    {"choices": [{"delta": {"content": "🦊"}}]},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}},
]


def wire(events: Sequence[Any]) -> bytes:
    lines = [f"data: {json.dumps(e, ensure_ascii=False)}\n\n" for e in events]
    return ("".join([*lines, ": ping\n\n", "data: [DONE]\n\n"])).encode()


async def body_of(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return json.loads(await reader.readexactly(length))


def answer_to(job_of: Any, content: bytes, cuts: Sequence[int], status: str = "200 OK") -> Any:
    """Serve one fixed answer, cut into chunks at any bytes, and send requests to it."""
    seen: list[dict[str, Any]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await body_of(reader))
        writer.write(f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        places = sorted({0, *(cut % len(content) for cut in cuts), len(content)})
        for start, end in pairwise(places):
            writer.write(f"{end - start:x}\r\n".encode() + content[start:end] + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        writer.close()

    async def run() -> list[Answer]:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            return await job_of(Address.of(f"http://127.0.0.1:{port}/v1"))

    return asyncio.run(run()), seen


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_an_answer_is_read_however_it_is_cut(cuts: list[int]) -> None:
    def job(address: Address) -> Any:
        bodies = [{"messages": [], "model": "m"}]
        return closed_loop(Job(address=address, bodies=bodies), 2, 3, lambda _: None)

    answers, seen = answer_to(job, wire(EVENTS), cuts)
    assert [a.text for a in answers] == ["Grüße 🦊"] * 3
    assert [(a.tokens, a.prompt_tokens, a.error) for a in answers] == [(5, 7, "")] * 3
    assert all(body["stream"] and body["stream_options"]["include_usage"] for body in seen)


def test_a_refusal_and_an_error_in_the_stream_are_failures() -> None:
    def job(address: Address) -> Any:
        return open_loop(Job(address=address, bodies=[{}]), 1e6, 1, lambda _: None)

    [refused], _ = answer_to(job, b'{"error": {}}', [], "429 Too Many Requests")
    [broken], _ = answer_to(job, wire([{"error": {"message": "stalled"}}]), [])
    assert "429" in refused.error
    assert "stalled" in broken.error
    assert figures([refused, broken])["failed"] == 2


END = b"data: [DONE]"
"""What `transformers serve` does not send."""
PLAIN = b"HTTP/1.1 200 OK\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", "closed"),
        (b"HTTP/1.1\r\n\r\n", "status line"),
        (b"SSH-2.0-OpenSSH\r\n", "status line"),
        (CHUNKED + b"x\r\n", "ValueError"),
        (CHUNKED + b"40\r\ndata", "IncompleteRead"),
        (PLAIN + wire(EVENTS[:3]).partition(END)[0], "without [DONE]"),
        (PLAIN + b"data: 7\n\n", "not an object"),
        (PLAIN + b'data: {"choices": 7}\n\n', "an event is"),
        (PLAIN + b'data: {"choices": [{"delta": [7]}]}\n\n', "an event is"),
        (PLAIN + b'data: {"usage": 7}\n\n', "an event is"),
    ],
)
def test_what_is_no_complete_answer_fails_alone(sent: bytes, error: str) -> None:
    """The other requests of the run count. A reason for the end is enough; see `END`."""
    replies = iter([sent, PLAIN + wire(EVENTS).partition(END)[0]])

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await body_of(reader)
        writer.write(next(replies))
        writer.close()

    async def run() -> list[Answer]:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        address = Address.of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with server:
            return await closed_loop(Job(address=address, bodies=[{}]), 1, 2, lambda _: None)

    broken, good = asyncio.run(run())
    assert error in broken.error
    assert (good.error, good.text) == ("", "Grüße 🦊")


def test_an_answer_that_does_not_end_in_time_is_a_failure() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN)
        await reader.read()
        writer.close()

    async def run() -> list[Answer]:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        address = Address.of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with server:
            job = Job(address=address, bodies=[{}], timeout=0.05)
            return await closed_loop(job, 1, 1, lambda _: None)

    [late] = asyncio.run(run())
    assert late.error == "the answer is not complete after 0.05 s"


def test_the_seed_decides_when_requests_of_an_open_loop_are_sent() -> None:
    times = poisson(2.0, 400, seed=1)
    assert times == poisson(2.0, 400, seed=1) != poisson(2.0, 400, seed=2)
    assert len(times) == 400
    assert times[0] == 0.0
    assert times[-1] == pytest.approx(200.0, rel=0.2)


def answer(number: int, sent: float, arrivals: Sequence[float], tokens: int) -> Answer:
    return Answer(
        number=number, sent=sent, arrivals=list(arrivals), ended=arrivals[-1] + 0.1, tokens=tokens
    )


def test_figures_of_a_known_load() -> None:
    answers = [answer(0, 0.0, [0.5, 0.7, 1.3], 5), answer(1, 1.0, [1.2, 1.4], 3)]
    found = figures(answers, Objective(first=0.3))
    assert found["seconds"] == pytest.approx(1.5)
    assert found["tokens_per_second"] == pytest.approx(8 / 1.5)
    assert found["ttft"]["p50"] == pytest.approx(350.0)
    assert found["tpot"]["p50"] == pytest.approx(1000 * (0.8 / 4 + 0.2 / 2) / 2)
    assert found["itl"]["p50"] == pytest.approx(200.0)
    assert found["goodput"] == pytest.approx(1 / 1.5)
    assert found["met"] == 0.5


def test_a_row_without_a_ratio_is_shown() -> None:
    """The server that failed has no throughput, so there is nothing to compare."""
    broken = Answer(number=0, sent=0.0, ended=1.0, error="ConnectionError: refused")
    good = answer(0, 0.0, [0.5, 0.7], 3)
    records: list[dict[str, Any]] = [
        {"server": server, "load": "1 client", **figures([one], Objective(first=1.0))}
        for server, one in (("a", good), ("b", broken))
    ]
    first, second = map(_shown, summary(records))
    assert first["ratio"] == "1.00 [1.00, 1.00]"
    assert first["ttft, ms (p95)"] == "500 (500)"
    assert first["goodput/s"].endswith("(100%)")
    assert "failed" not in first
    assert (second["ratio"], second["tokens/s"], second["failed"]) == ("", "0.0", "1")
    assert second["ttft, ms (p95)"] == second["e2e, ms (p95)"] == ""


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a/b", "http://", "http://a:x/v1"])
def test_an_address_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match="Give http"):
        Address.of(url)


def test_an_open_loop_does_not_wait_for_answers() -> None:
    """All requests are on their way before the first answer."""
    waiting, most = 0, 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(0.2)
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        address = Address.of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with server:
            await open_loop(Job(address=address, bodies=[{}]), 1000.0, 8, lambda _: None)

    asyncio.run(run())
    assert most == 8
