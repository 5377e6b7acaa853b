"""What all endpoints of one server share."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request

from outrider.constraints.token_texts import TokenTexts
from outrider.engine.generator import Generator
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.protocols.info import ModelInfo
from outrider.server.client import EngineClient
from outrider.server.constraints.admission import Admission
from outrider.server.keys import Key, Keys
from outrider.server.life import Life
from outrider.server.logs import Ignored
from outrider.server.media.fetching import Fetcher
from outrider.server.metrics import Metrics
from outrider.server.settings import ServerSettings
from outrider.server.telemetry.facts import Facts
from outrider.server.telemetry.spans import Telemetry

T = TypeVar("T")

_WORKERS = 2
"""Threads that tokenise, render templates and decode images."""


@dataclass(slots=True, kw_only=True)
class Context:
    """One server: its engine, settings, keys and counters.

    Attributes:
        generator: the models.
        info: the properties of the target.
        window: most tokens of a prompt and its answer, limited by the model and by the caches.
        tokenizer: the tokenizer of the target.
        settings: names and limits.
        client: the engine.
        keys: who may ask.
        life: whether new work is accepted.
        metrics: counters and histograms.
        fingerprint: changes when anything changes that can change texts.
        texts: texts of single tokens.
        admission: examines and compiles the grammars of requests.
        chunk_size: tokens of a chunk of a long input, if the models read a selection of these.
        ignored: fields of requests without effect that were logged.
        media: fetches images of requests; None: no host may be asked.
        telemetry: sends a span for each request; None: no spans are sent.
        pool: threads for work that takes long.
        started: seconds since 1970 when the server began.
    """

    generator: Generator
    info: ModelInfo
    window: int
    tokenizer: Tokenizer
    settings: ServerSettings
    client: EngineClient
    keys: Keys
    life: Life
    metrics: Metrics
    fingerprint: str
    texts: TokenTexts
    admission: Admission
    chunk_size: int | None = None
    ignored: Ignored = field(default_factory=Ignored)
    media: Fetcher | None = None
    telemetry: Telemetry | None = None
    pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_WORKERS, "outrider-prepare")
    )
    started: int = field(default_factory=lambda: int(time.time()))

    async def prepare(self, work: Callable[[], T]) -> T:
        """Run work that takes long in a thread, so that the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)


@dataclass(slots=True, kw_only=True)
class Asker:
    """Who sent a request.

    Attributes:
        request_id: the identifier of the request.
        key: the key that was given; None without keys.
        address: of the client.
        received: `perf_counter` of the arrival.
        facts: what its span tells.
    """

    request_id: str
    key: Key | None = None
    address: str = ""
    received: float = field(default_factory=time.perf_counter)
    facts: Facts = field(default_factory=Facts)

    def principal(self, user: str | None) -> str:
        """Return among whom the engine is shared: keys; without keys, addresses and their users.

        A user is named by the client, so within one key it would let a flood take more than its
        share.
        """
        if self.key is not None:
            return self.key.name
        return f"{self.address}/{user}" if user else self.address

    @property
    def best_class(self) -> int:
        """The lowest class that its requests may have."""
        return self.key.priority if self.key is not None else 0

    @property
    def salt(self) -> str:
        """Separates the reusable prefixes of keys."""
        return self.key.digest.hex() if self.key is not None else ""


def context_of(request: Request) -> Context:
    """Return the server of a request."""
    return request.app.state.context


def asker_of(request: Request) -> Asker:
    """Return who sent a request."""
    return request.scope["state"]["asker"]
