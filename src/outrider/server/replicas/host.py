"""`EngineHost`: the process around the engine of one replica."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter

from outrider.core.errors import OutriderError
from outrider.engine.serving.messages import Ended, Event, Submission
from outrider.sampling.constraint import Constraint
from outrider.server.client import EngineClient, ServingEngine
from outrider.server.life import Life
from outrider.server.replicas.states import Report, moved

_EARLY = 1024
"""Cancelled requests that are remembered because they may arrive after their cancellation."""


class EngineHost:
    """Runs one engine for requests from other processes. Its methods run in one event loop."""

    def __init__(
        self,
        make_engine: Callable[[EngineClient], ServingEngine],
        decode: Callable[[Sequence[int]], str] | None = None,
        compile_grammar: Callable[[Constraint], object] | None = None,
    ) -> None:
        """Start the engine.

        Args:
            make_engine: makes the engine that publishes to a client.
            decode: converts ids to text, for long inputs.
            compile_grammar: compiles and keeps a grammar, in a thread, before the engine needs it;
                the engine finds its errors again.
        """
        self._decode, self._compile = decode, compile_grammar
        self._client = EngineClient()
        self._life = Life(self._client)
        self._instance = secrets.token_hex(8)
        self._running: set[str] = set()
        self._early: OrderedDict[str, None] = OrderedDict()
        engine = make_engine(self._client)
        self._client.attach(engine)
        engine.start()

    async def stream(
        self, submission: Submission, sent: float
    ) -> AsyncGenerator[tuple[Event, ...], None]:
        """Run a request; yield nothing once it is accepted, then its events. Those that wait are
        merged.

        Args:
            submission: the request.
            sent: `perf_counter` of the sender, whose clock its times have.

        A request that cannot run ends at once with a failure.
        """
        self._listen()
        if (refused := self._refusal(submission)) is not None:
            yield ()
            yield refused
            return
        submission = self._with_decoder(moved(submission, perf_counter() - sent))
        constraint = submission.params.constraint
        if self._compile is not None and constraint is not None:
            with suppress(OutriderError):
                await asyncio.to_thread(self._compile, constraint)
        box = self._client.submit([submission])
        self._running.add(submission.id)
        try:
            yield ()
            while events := await box.take():
                yield tuple(events)
        finally:
            self._running.discard(submission.id)
            self._client.cancel(box)

    def _with_decoder(self, submission: Submission) -> Submission:
        """Give the prompt a decoder, which is not sent between processes."""
        prompt = submission.prompt
        if self._decode is None or prompt.context is None:
            return submission
        context = replace(prompt.context, decode=self._decode)
        return replace(submission, prompt=replace(prompt, context=context))

    def _refusal(self, submission: Submission) -> tuple[Ended, ...] | None:
        """Return the ends of a request that cannot run, or None."""
        failure, message = "", ""
        if dead := self._life.dead:
            failure, message = "engine_error", dead
        elif self._life.draining:
            failure, message = "draining", "the replica is shutting down"
        elif submission.id not in self._early:
            return None
        end = Ended(id=submission.id, index=0, result=None, failure=failure, message=message)
        return tuple(replace(end, index=index) for index in range(submission.n))

    async def cancel(self, id: str) -> None:
        """End a request, also one that has not arrived yet."""
        self._listen()
        if id in self._running:
            self._client.engine.cancel(id)
            return
        self._early[id] = None
        while len(self._early) > _EARLY:
            self._early.popitem(last=False)

    async def report(self) -> Report:
        """Return the state of this replica. Requests of a dead engine end with an error."""
        self._listen()
        if dead := self._life.dead:
            self._client.fail(dead)
        sick = self._life.sick()
        return Report(
            instance=self._instance,
            state=self._client.state,
            now=perf_counter(),
            sick="" if sick is None else sick.message,
            draining=self._life.draining,
        )

    def drain(self) -> None:
        """Take no further requests; those that run may end."""
        self._life.draining = True

    def stop(self) -> None:
        """End all requests and the engine."""
        self.drain()
        self._client.engine.stop("the replica is shutting down")

    def _listen(self) -> None:
        """Deliver events in the loop that calls."""
        self._client.attach(self._client.engine, asyncio.get_running_loop())
