"""`outrider serve`: an OpenAI-compatible server."""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from outrider.cli.options.options import Runtime, Speculation, Tiers, load_generator
from outrider.cli.options.serving import Behaviour, Listening, ServerLimits
from outrider.core.errors import MissingExtraError, OptionError, OutriderWarning

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
    listening: Listening,
    limits: ServerLimits,
    behaviour: Behaviour,
) -> None:
    """Serve a model to any client of OpenAI's interface.

    Requests run together and share prompts that begin alike. In mode exact, a request with a seed
    gets the same text whatever else is served. The first SIGTERM or Ctrl-C lets running requests
    end, the second one ends the server at once.

    For example:

      outrider serve --target smollm2
      outrider serve --target ./big --draft ./small --api-keys keys.toml --host 0.0.0.0
    """
    _need_server()
    from outrider.engine.serving.engine import Engine
    from outrider.engine.serving.settings import ServingSettings
    from outrider.server import serve as serving
    from outrider.server.app import create_app
    from outrider.server.keys import load_keys
    from outrider.server.settings import ServerSettings
    from outrider.server.tools.choice import check_parser

    keys = load_keys(listening.api_keys)
    given = limits.server() | _given(behaviour)
    settings = ServerSettings(
        model_names=_names(tiers.target, behaviour.served_model_name),
        cors_origins=tuple(listening.cors_origin or ()),
        **given,
    )
    check_parser(settings.tool_parser)
    engine_settings = ServingSettings(**limits.engine())
    address = serving.Address(host=listening.host, port=listening.port, insecure=listening.insecure)
    address.check(bool(keys))
    with address.bind() as bound:  # a taken port is reported before the models are loaded
        warnings.filterwarnings("once", category=OutriderWarning)  # not for each request
        generator = load_generator(tiers, runtime, speculation)
        app = create_app(
            generator,
            lambda client: Engine(generator, engine_settings, publish=client.publish),
            settings,
            keys,
        )
        serving.log_requests()
        serving.serve(app, bound)


def _need_server() -> None:
    """Raise `MissingExtraError` if a package of the extra is not installed."""
    for module, package in _PACKAGES.items():
        if find_spec(module) is None:
            raise MissingExtraError(package, "server")


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
