"""Engines as deployments on Ray Serve. The only module that imports Ray.

Each engine is an application of its own with one replica, so that the front chooses among them, and
Ray Serve restarts those that are lost. No proxies run: the front is the process of `outrider
serve`, where all limits on connections hold.
"""

import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

import ray  # pyright: ignore[reportMissingImports]
from ray import serve  # pyright: ignore[reportMissingImports]

from outrider.core.errors import OutriderError
from outrider.engine.generator import Generator
from outrider.engine.serving.engine import Engine
from outrider.engine.serving.messages import Event, Submission
from outrider.engine.serving.settings import ServingSettings
from outrider.server.replicas.host import EngineHost
from outrider.server.replicas.replica import Replica, ReplicaLostError
from outrider.server.replicas.states import Report

log = logging.getLogger("outrider.server")

_ONGOING = 100_000
"""Calls that Ray Serve passes on to a replica at once: its engine has a queue of its own."""

_STORE = 128 << 20
"""Bytes of Ray's store of objects. Messages are small, and are not put there."""

_HEALTH = 5.0
"""Seconds between two looks of Ray Serve at a replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What runs where.

    Attributes:
        replicas: number of engines.
        threads: CPU threads of each.
        gpus: GPUs of each; several may share one.
        load: loads the models, in the process of a replica; it is pickled.
        settings: of each engine.
        shutdown_timeout: seconds in which the requests of a replica may end when it is removed.
    """

    replicas: int
    threads: int
    gpus: float = 0.0
    load: Callable[[], Generator]
    settings: ServingSettings
    shutdown_timeout: float = 30.0


class ReplicasError(OutriderError):
    """Ray could not start the replicas."""


class EngineDeployment:
    """One engine in a process of Ray Serve."""

    def __init__(self, load: Callable[[], Generator], settings: ServingSettings, home: str) -> None:
        """Load the models, and start the engine.

        Args:
            load: loads the models.
            settings: of the engine.
            home: the folder to which relative paths refer.
        """
        os.chdir(home)
        generator = load()
        codec = generator.tokenizer
        self._host = EngineHost(
            lambda client: Engine(generator, settings, publish=client.publish),
            None if codec is None else codec.decode,
            lambda constraint: generator.grammars.of(constraint),
        )

    async def stream(
        self, submission: Submission, sent: float
    ) -> AsyncGenerator[tuple[Event, ...], None]:
        """Run a request (`EngineHost.stream`)."""
        async for events in self._host.stream(submission, sent):
            yield events

    async def cancel(self, id: str) -> None:
        """End a request."""
        await self._host.cancel(id)

    async def report(self) -> Report:
        """Return the state of the engine."""
        return await self._host.report()

    async def check_health(self) -> None:
        """Raise if Ray Serve should restart this process."""
        if sick := (await self._host.report()).sick:
            raise RuntimeError(sick)

    def __del__(self) -> None:
        """End the engine; Ray Serve calls this when the requests have ended."""
        if host := getattr(self, "_host", None):
            host.stop()


class RayReplica:
    """The way to one deployment."""

    def __init__(self, name: str, handle: Any) -> None:
        """Connect, and wait for a first report.

        Args:
            name: of the application.
            handle: a `DeploymentHandle`.
        """
        self.name = name
        first = cast(Report, handle.report.remote().result())
        self.cache_size = first.state.cache_size
        self._stream = handle.options(stream=True).stream
        self._cancel = handle.cancel
        self._report = handle.report

    async def stream(self, submission: Submission) -> AsyncGenerator[Sequence[Event], None]:
        """Run a request."""
        answer = self._stream.remote(submission, perf_counter())
        try:
            async for events in answer:
                yield cast(tuple[Event, ...], events)
        except Exception as error:  # whatever happens on the way, another replica can answer
            raise _lost(error) from error
        finally:
            answer.cancel()

    async def cancel(self, id: str) -> None:
        """End a request."""
        try:
            await self._cancel.remote(id)
        except Exception as error:
            raise _lost(error) from error

    async def report(self) -> Report:
        """Return the state of the replica."""
        try:
            return cast(Report, await self._report.remote())
        except Exception as error:
            raise _lost(error) from error


@contextmanager
def running(plan: Plan) -> Iterator[list[Replica]]:
    """Context manager: engines on a new Ray on this machine, which ends with it.

    Raises:
        ReplicasError: Ray or an engine did not start.
    """
    os.environ.setdefault(
        "RAY_USAGE_STATS_ENABLED", "0"
    )  # by default, Ray sends usage data to its developers
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        ray.init(
            address="local",
            num_cpus=plan.replicas * plan.threads,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            object_store_memory=_STORE,
        )
        try:
            yield _deployed(plan)
        finally:
            serve.shutdown()
    finally:
        ray.shutdown()


def _deployed(plan: Plan) -> list[Replica]:
    """Start all engines at once; return them when they are ready."""
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    options: dict[str, object] = {"num_cpus": plan.threads, "num_gpus": plan.gpus}
    names = [f"engine-{number}" for number in range(plan.replicas)]
    made = serve.deployment(
        num_replicas=1,
        max_ongoing_requests=_ONGOING,
        ray_actor_options=options,
        health_check_period_s=_HEALTH,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=plan.shutdown_timeout,
        logging_config=quiet,
    )(EngineDeployment)
    targets = [
        serve.RunTarget(
            made.options(name=name).bind(plan.load, plan.settings, os.getcwd()),
            name=name,
            route_prefix=None,
            logging_config=quiet,
        )
        for name in names
    ]
    try:
        serve.start(proxy_location="Disabled", logging_config=quiet)
        handles = serve.run_many(targets)
    except RuntimeError as error:
        raise ReplicasError(
            f"the replicas did not start: {' '.join(str(error).split())[:300]}",
            hint="Ray's logs have the details: session_latest/logs/serve in its folder",
        ) from error
    return [RayReplica(name, handle) for name, handle in zip(names, handles, strict=True)]


def _lost(error: Exception) -> ReplicaLostError:
    text = " ".join(str(error).split())
    return ReplicaLostError(f"{type(error).__name__}: {text[:80]}")
