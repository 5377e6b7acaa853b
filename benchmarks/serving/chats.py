"""Clients that hold conversations with a server, and leave some answers in the middle."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from outrider.bench.serve.http import Address, Refused, events

LONGEST = 1200
"""Tokens of a conversation after which the next one begins."""


@dataclass(slots=True)
class Counts:
    """What the clients have done.

    Attributes:
        answers: answers that were read to their end.
        left: answers that the client left in the middle.
        conversations: conversations that were ended.
        failed: requests that were refused, or whose connection broke.
        errors: some of their errors.
    """

    answers: int = 0
    left: int = 0
    conversations: int = 0
    failed: int = 0
    errors: set[str] = field(default_factory=set[str])

    def fail(self, error: BaseException) -> None:
        """Note an error."""
        self.failed += 1
        if len(self.errors) < 10:
            self.errors.add(f"{type(error).__name__}: {error}"[:200])


@dataclass(slots=True)
class Client:
    """One client: one conversation after the other, until a time.

    Each turn sends the whole conversation. An answer that the client has left is part of it, as far
    as it was received.

    Attributes:
        address: of the server.
        model: the name of the model.
        key: the key.
        questions: texts of the user.
        until: `monotonic` when it ends.
        counts: what all clients have done.
        leaving: share of answers that it leaves.
        number: of the client; seeds its choices.
    """

    address: Address
    model: str
    key: str | None
    questions: Sequence[str]
    until: float
    counts: Counts
    leaving: float = 0.2
    number: int = 0
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.number)

    async def run(self) -> None:
        """Hold conversations until the time is over."""
        while monotonic() < self.until:
            await self._converse()
            self.counts.conversations += 1

    async def _converse(self) -> None:
        messages: list[dict[str, str]] = []
        for turn in range(self._chance.randint(2, 8)):
            question = f"({self._chance.randrange(10_000)}) {self._chance.choice(self.questions)}"
            messages.append({"role": "user", "content": question})
            try:
                answer, tokens = await self._ask(messages, turn)
            except (Refused, OSError, ValueError, asyncio.IncompleteReadError) as error:
                self.counts.fail(error)
                await asyncio.sleep(1.0)
                return
            messages.append({"role": "assistant", "content": answer})
            if tokens > LONGEST or monotonic() > self.until:
                return
            await asyncio.sleep(self._chance.expovariate(2.0))

    async def _ask(self, messages: Sequence[dict[str, str]], turn: int) -> tuple[str, int]:
        """Send one turn; return the answer, and the tokens of the conversation with it."""
        chance = self._chance
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": chance.randint(8, 96),
            "temperature": chance.choice((0.0, 0.7, 1.0)),
            "seed": chance.randrange(1 << 30),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if chance.random() < 0.5:
            body["ignore_eos"] = True
        if chance.random() < 0.1:
            body |= {"logprobs": True, "top_logprobs": 3}
        if turn and chance.random() < 0.1:
            body["prediction"] = {"type": "content", "content": messages[-2]["content"]}
        patience = chance.randint(1, 6) if chance.random() < self.leaving else None
        text, tokens, seen = "", 0, 0
        async with aclosing(events(self.address, "/chat/completions", body, self.key)) as stream:
            async for event in stream:
                text += _text(event)
                tokens = (event.get("usage") or {}).get("total_tokens", tokens)
                seen += 1
                if seen == patience:
                    self.counts.left += 1
                    return text, tokens
        self.counts.answers += 1
        return text, tokens


def _text(event: dict[str, Any]) -> str:
    if "error" in event:
        raise ValueError(str(event["error"]))
    deltas = (choice["delta"] for choice in event["choices"])
    return "".join(delta.get("content") or "" for delta in deltas)
