"""Sends requests to a server and notes when text arrives: closed loop or open loop.

**Closed loop**: each of `clients` sends its next request when the answer to the last one is
complete. **Open loop**: requests arrive at a mean rate, at random (a Poisson process), whether the
server keeps up or not; so its queue shows.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from time import perf_counter
from typing import Any

from outrider.bench.serve.http import Address, Refused, events
from outrider.core.values import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is sent.

    Attributes:
        address: the server.
        bodies: the requests; they are sent in order, and again from the first.
        endpoint: the endpoint below the address.
        key: the API key.
        timeout: seconds after which an answer that is not complete counts as failed.
    """

    address: Address
    bodies: Sequence[Mapping[str, JsonValue]]
    endpoint: str = "/chat/completions"
    key: str | None = None
    timeout: float = 600.0


@dataclass(slots=True, kw_only=True)
class Answer:
    """What one request received. Times are seconds of `perf_counter`.

    Attributes:
        number: place of the request among all that were sent.
        sent: when it was sent.
        arrivals: when each event with text arrived.
        ended: when the answer was complete.
        tokens: tokens of the answer, as the server counts them, or else the events with text.
        prompt_tokens: tokens of the prompt, as the server counts them.
        text: the answer.
        error: why it failed; empty if it did not.
    """

    number: int
    sent: float
    arrivals: list[float] = field(default_factory=list)
    ended: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    text: str = ""
    error: str = ""

    @property
    def first(self) -> float | None:
        """Seconds until the first text."""
        return self.arrivals[0] - self.sent if self.arrivals else None

    @property
    def total(self) -> float:
        """Seconds until the end."""
        return self.ended - self.sent

    @property
    def per_token(self) -> float | None:
        """Seconds for each token after the first text; None with a single token."""
        if len(self.arrivals) < 2 or self.tokens < 2:
            return None
        return (self.arrivals[-1] - self.arrivals[0]) / (self.tokens - 1)


OnAnswer = Callable[[Answer], None]
"""Called with each answer when it is complete."""


async def closed_loop(job: Job, clients: int, requests: int, on_answer: OnAnswer) -> list[Answer]:
    """Send `requests` requests from `clients` clients; call `on_answer` with each answer."""
    numbers = iter(range(requests))
    answers: list[Answer] = []

    async def client() -> None:
        for number in numbers:
            answer = await _ask(job, number)
            answers.append(answer)
            on_answer(answer)

    await asyncio.gather(*(client() for _ in range(min(clients, requests))))
    return sorted(answers, key=lambda answer: answer.number)


async def open_loop(
    job: Job, rate: float, requests: int, on_answer: OnAnswer, seed: int = 0
) -> list[Answer]:
    """Send `requests` requests at `rate` per second on average, at times that `seed` decides."""
    tasks: list[asyncio.Task[Answer]] = []

    async def one(number: int) -> Answer:
        answer = await _ask(job, number)
        on_answer(answer)
        return answer

    begun = perf_counter()
    for number, due in enumerate(poisson(rate, requests, seed)):
        await asyncio.sleep(max(begun + due - perf_counter(), 0.0))
        tasks.append(asyncio.create_task(one(number)))
    return list(await asyncio.gather(*tasks))


def poisson(rate: float, requests: int, seed: int) -> list[float]:
    """Return the seconds at which the requests of an open loop are sent, from 0."""
    chance = random.Random(seed)
    return list(accumulate((chance.expovariate(rate) for _ in range(requests - 1)), initial=0.0))


async def _ask(job: Job, number: int) -> Answer:
    """Send one request and read its whole answer."""
    body = {**job.bodies[number % len(job.bodies)], "stream": True}
    body["stream_options"] = {"include_usage": True}
    answer = Answer(number=number, sent=perf_counter())
    limit = asyncio.timeout(job.timeout)
    try:
        async with limit:
            async for event in _read(job, body):
                _note(answer, event)
    except (Refused, OSError, ValueError, asyncio.IncompleteReadError) as error:
        late = f"the answer is not complete after {job.timeout:g} s" if limit.expired() else ""
        answer.error = answer.error or late or f"{type(error).__name__}: {error}"[:200]
    answer.ended = perf_counter()
    answer.tokens = answer.tokens or len(answer.arrivals)
    return answer


def _read(job: Job, body: Mapping[str, JsonValue]) -> AsyncIterator[dict[str, Any]]:
    return events(job.address, job.endpoint, body, job.key)


def _note(answer: Answer, event: Mapping[str, Any]) -> None:
    """Add an event to its answer. Raises `ConnectionError` if it has another form."""
    try:
        _add(answer, event)
    except (AttributeError, TypeError):
        raise ConnectionError(f"an event is {event!r:.80}") from None


def _add(answer: Answer, event: Mapping[str, Any]) -> None:
    if event.get("error") is not None:
        answer.error = str(event["error"])[:200]
    for choice in event.get("choices") or ():
        text = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
        if text:
            answer.arrivals.append(perf_counter())
            answer.text += text
    usage = event.get("usage") or {}
    answer.tokens = int(usage.get("completion_tokens") or answer.tokens)
    answer.prompt_tokens = int(usage.get("prompt_tokens") or answer.prompt_tokens)
