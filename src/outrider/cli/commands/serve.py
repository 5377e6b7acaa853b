"""`outrider serve`: an OpenAI-compatible server."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outrider.cli.options.caching import Caching
from outrider.cli.options.guiding import Guiding
from outrider.cli.options.long_inputs import Selecting
from outrider.cli.options.options import Runtime, Speculation, Tiers, load_generator
from outrider.cli.options.serving import Behaviour, Listening, Replication, Searches, ServerLimits
from outrider.core.errors import MissingExtraError, OptionError, OutriderWarning

if TYPE_CHECKING:
    from outrider.engine.generator import Generator
    from outrider.engine.serving.settings import ServingSettings
    from outrider.server.app import MakeEngine
    from outrider.server.settings import ServerSettings

_PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "httptools": "httptools",
    "pydantic": "pydantic",
    "prometheus_client": "prometheus-client",
}
"""Modules of the extra `server`, and the packages that hold them."""


def serve(
    tiers: Tiers,
    speculation: Speculation,
    runtime: Runtime,
    caching: Caching,
    selecting: Selecting,
    guiding: Guiding,
    listening: Listening,
    limits: ServerLimits,
    replication: Replication,
    behaviour: Behaviour,
    searches: Searches,
) -> None:
    """Serve a model to any client of OpenAI's interface.

    Requests run together and share prompts that begin alike. In mode exact, a request with a seed
    gets the same text whatever else is served. The first SIGTERM or Ctrl-C lets running requests
    end, the second one ends the server at once.

    For example:

      outrider serve --target smollm2
      outrider serve --target ./big --draft ./small --api-keys keys.toml --host 0.0.0.0
      outrider serve --target smollm2 --replicas 2
      outrider serve --target ./big --guidance contrastive --amateur ./small
      outrider serve --target ./big --draft ./small --draft-kv-policy streaming
      outrider serve --target smollm2 --allow-search --search-scorer brief=length:40
    """
    if searches.allow_search and replication.replicas is not None:
        raise OptionError(
            "--allow-search and --replicas are given together, and replicas run no searches",
            hint="Leave out one of the two",
        )
    _need_server(replication.replicas)
    from outrider.engine.serving.settings import ServingSettings
    from outrider.server import serve as serving
    from outrider.server.app import create_app
    from outrider.server.keys import load_keys
    from outrider.server.replicas.shares import threads_of
    from outrider.server.settings import ServerSettings
    from outrider.server.telemetry.spans import is_wanted, telemetry_to
    from outrider.server.tools.choice import check_parser

    keys = load_keys(listening.api_keys)
    selection = selecting.config()
    on = selecting.selection_on or "target"
    how = {} if selection is None else {"selection": selection, "selection_on": on}
    how |= guiding.given() | caching.given()
    given = limits.server() | _given(behaviour)
    settings = ServerSettings(
        model_names=_names(tiers.target, behaviour.served_model_name),
        cors_origins=tuple(listening.cors_origin or ()),
        media_hosts=tuple(behaviour.allow_media_host or ()),
        searches=searches.settings(),
        **given,
    )
    check_parser(settings.tool_parser)
    is_wanted(behaviour.otlp_endpoint)
    if speculation.learn is not None and replication.replicas is not None:
        raise OptionError(
            "--learn and --replicas are given together, and each replica would learn alone",
            hint="Leave out one of the two",
        )
    engine_settings = ServingSettings(**limits.engine())
    address = serving.Address(host=listening.host, port=listening.port, insecure=listening.insecure)
    address.check(bool(keys))
    with address.bind() as bound:  # a taken port is reported before the models are loaded
        warnings.filterwarnings("once", category=OutriderWarning)  # not for each request
        replicas = replication.replicas
        threads = runtime.threads if replicas is None else threads_of(replicas, runtime.threads)
        load = partial(load_generator, tiers, replace(runtime, threads=threads), speculation, **how)
        with _engine(load, threads, engine_settings, settings, replicas) as (
            generator,
            make_engine,
        ):
            telemetry = telemetry_to(behaviour.otlp_endpoint)
            app = create_app(generator, make_engine, settings, keys, telemetry)
            serving.log_requests()
            serving.serve(app, bound)


@contextmanager
def _engine(
    load: "Callable[[], Generator]",
    threads: int | None,
    engine: "ServingSettings",
    server: "ServerSettings",
    replicas: int | None,
) -> Iterator[tuple["Generator", "MakeEngine"]]:
    """Context manager: the models, and how the engine is made: here, or as replicas.

    Args:
        load: loads the models.
        threads: CPU threads of each engine, as `load` sets them; None only without replicas.
        engine: settings of the engine, or of all replicas together.
        server: settings of the server.
        replicas: number of engines in processes of their own; None: one engine in this process.
    """
    if replicas is None:
        from outrider.engine.serving.searches import SearchingEngine

        generator = load()
        yield generator, lambda client: SearchingEngine(generator, engine, publish=client.publish)
        return
    from outrider.server.replicas.ray_serve import Plan, running
    from outrider.server.replicas.remote import RemoteEngine
    from outrider.server.replicas.shares import gpus_of, share

    assert threads is not None
    print(f"{replicas} replicas, threads of each: {threads}", file=sys.stderr, flush=True)
    generator = load()
    plan = Plan(
        replicas=replicas,
        threads=threads,
        gpus=gpus_of(replicas, generator.strategy.target.info.device),
        load=load,
        settings=share(engine, replicas),
        shutdown_timeout=server.shutdown_timeout,
    )
    with running(plan) as found:
        yield generator, lambda client: RemoteEngine(found, publish=client.publish)


def _need_server(replicas: int | None) -> None:
    """Raise `MissingExtraError` if a package of an extra is not installed."""
    for module, package in _PACKAGES.items():
        if find_spec(module) is None:
            raise MissingExtraError(package, "server")
    if replicas is not None and find_spec("ray") is None:
        raise MissingExtraError("ray", "distributed")


def _given(behaviour: Behaviour) -> dict[str, Any]:
    if behaviour.metrics_alias not in ("vllm", "none"):
        raise OptionError(
            f"metrics_alias is {behaviour.metrics_alias!r:.40}", hint="Give vllm or none"
        )
    found: dict[str, Any] = {"vllm_metrics": behaviour.metrics_alias == "vllm"}
    for name in ("tool_parser", "unknown_fields"):
        if (value := getattr(behaviour, name)) is not None:
            found[name] = value
    return found | {"prefixes_across_keys": behaviour.prefixes_across_keys}


def _names(target: str, given: list[str] | None) -> tuple[str, ...]:
    """Return the names of the model: those given, or that of the target with and without its
    folder."""
    if given:
        return tuple(given)
    short = Path(target).name or target
    return tuple(dict.fromkeys((short, target)))
