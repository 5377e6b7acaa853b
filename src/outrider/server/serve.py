"""`serve`: runs the server in this process, until a signal or the end of the engine."""

import asyncio
import contextlib
import errno
import faulthandler
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from outrider.core.errors import OptionError, OutriderError
from outrider.engine.serving.searches import SearchingEngine
from outrider.server.context import Context
from outrider.server.http.protocol import protocol
from outrider.server.logs import log as request_log

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger("outrider.server")

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

_LOOK = 0.5
"""Seconds between looks at the engine."""

_BACKLOG = 2048
"""Connections that may wait to be accepted."""

_CLOSE = 5
"""Seconds in which connections may end after the last answer."""


class EngineEndedError(OutriderError):
    """The engine ended while requests were served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the server listens.

    Attributes:
        host: a name or an address.
        port: 0 takes a free one.
        insecure: other machines may be let in although there are no keys.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    insecure: bool = False

    def check(self, keys: bool) -> None:
        """Raise `OptionError` if every machine of the network could use the server, or if
        `insecure` has no effect."""
        if self.insecure and (keys or self.host in _LOOPBACK):
            reason = "there are keys" if keys else f"{self.host} is this machine only"
            raise OptionError(f"--insecure has no effect: {reason}", hint="Leave it out")
        if self.host not in _LOOPBACK and not keys and not self.insecure:
            raise OptionError(
                f"the server would listen at {self.host} without keys",
                hint="Give --api-keys FILE, or --insecure to let everybody in",
            )

    def bind(self) -> socket.socket:
        """Take the port, before models are loaded; no connection is accepted yet.

        Raises:
            OptionError: the port is in use, or the host does not exist.
        """
        try:
            family, kind, number, _, place = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except OSError as error:
            raise self._refused(error) from None
        found = socket.socket(family, kind, number)
        try:
            _bind(found, place)
        except OSError as error:
            found.close()
            raise self._refused(error) from None
        return found

    def _refused(self, error: OSError) -> OptionError:
        if error.errno == errno.EADDRINUSE:
            return _in_use(self.port)
        return OptionError(
            f"the server cannot listen at {self.host}:{self.port}: {error.strerror or error}",
            hint="Give another --host or --port",
        )


def _bind(found: socket.socket, place: tuple[object, ...]) -> None:
    """Bind a socket. Without the option to reuse an address, no second server can bind it too."""
    try:
        found.bind(place)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Ended connections of an earlier server may hold the port. Another server may do so too:
        # then `bind` fails again, or `listen` of one of them.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)


def _in_use(port: int) -> OptionError:
    return OptionError(f"port {port} is already in use", hint="Choose another with --port")


def listen(bound: socket.socket) -> None:
    """Accept connections, which wait until the server reads them.

    Raises:
        OptionError: another server listens at the port.
    """
    # Connections inherit the option. Once they have ended, they must not keep the next server away.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.listen(_BACKLOG)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise _in_use(bound.getsockname()[1]) from None


def serve(app: "FastAPI", listening: socket.socket) -> None:
    """Serve until the first SIGTERM or Ctrl-C, and then until running requests have ended.

    The second signal ends the process at once.

    Args:
        app: from `create_app`.
        listening: a bound socket.

    Raises:
        OptionError: another server listens at the port.
        EngineEndedError: the engine ended.
    """
    listen(listening)
    context: Context = app.state.context
    config = uvicorn.Config(
        app,
        http=protocol(context.settings.send_timeout),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_CLOSE,
    )
    server = _Server(config)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_run(server, context, listening))
    if server.dead:
        raise EngineEndedError(f"the engine ended: {server.dead}", hint="Start the server again")


class _Server(uvicorn.Server):
    """A server that leaves signals to `_run`."""

    dead = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets and self.started:
            host, port = sockets[0].getsockname()[:2]
            place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            print(f"serving at http://{place}/v1", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(server: _Server, context: Context, listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def received(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        log.info("draining: running requests may end; a second signal ends at once")
        context.life.draining = True
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, received, number)
    watching = asyncio.create_task(_watch(server, context, stopping))
    try:
        await server.serve(sockets=[listening])
    finally:
        watching.cancel()


async def _watch(server: _Server, context: Context, stopping: asyncio.Event) -> None:
    """Stop the server after a signal, or when the engine is dead."""
    stalled = False
    while not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _LOOK)
        if dead := context.life.dead:
            server.dead = dead
            context.client.fail(dead)
            server.should_exit = True
            return
        if context.life.stalled and not stalled:
            log.error("the engine makes no steps; the stacks of all threads follow")
            faulthandler.dump_traceback(sys.stderr)
        stalled = context.life.stalled
    await drain(context)
    server.should_exit = True


async def drain(context: Context) -> None:
    """Wait until all requests have ended; end those that take too long with an error."""
    deadline = asyncio.get_running_loop().time() + context.settings.shutdown_timeout
    while _working(context) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
    if left := _working(context):
        log.warning("%d samples did not end in time", left)
        await asyncio.to_thread(context.client.engine.stop, "the server is shutting down")


def _working(context: Context) -> int:
    """Return how many samples and searches have not ended."""
    engine = context.client.engine
    return context.client.open + (engine.searches if isinstance(engine, SearchingEngine) else 0)


def log_requests() -> None:
    """Write the log of the server to standard error: one line of JSON for each request."""
    top = logging.getLogger("outrider")
    if not top.handlers:
        top.addHandler(logging.StreamHandler())
    for one in (request_log, log, logging.getLogger("outrider.serving")):
        one.setLevel(logging.INFO)
