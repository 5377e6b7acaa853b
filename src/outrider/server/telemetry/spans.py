"""Sends spans to a collector, in the protocol of OpenTelemetry over HTTP."""

import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import Scope

from outrider.core.errors import MissingExtraError, OptionError
from outrider.core.version import __version__
from outrider.server.telemetry.facts import Facts, Value, attributes, phases

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider  # pyright: ignore[reportMissingImports]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"

_PACKAGES = {
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
}
"""Modules of the extra `telemetry`, and the packages that hold them."""

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
}
"""Operations of the conventions, by path; other paths have no span."""

_NANO = 1_000_000_000


class Telemetry:
    """Makes a span for each request that writes text."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("outrider", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def finish(
        self, scope: Scope, facts: Facts, request_id: str, status: int, seconds: float
    ) -> None:
        """Report a request that has ended.

        Args:
            scope: the request; `traceparent` in its headers makes the span part of a trace.
            facts: what is known of it.
            request_id: its identifier.
            status: that of the answer; 0: there was none.
            seconds: since the arrival.
        """
        if scope["path"] not in _OPERATIONS or scope["method"] != "POST":
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        end = time.time_ns()
        begin = end - round(seconds * _NANO)
        operation = _OPERATIONS[scope["path"]]
        failed = facts.outcome if facts.outcome != "done" else ""
        failed = failed or (str(status) if status >= 400 else "")
        told: dict[str, Value] = {
            "gen_ai.operation.name": operation,
            "http.request.method": scope["method"],
            "http.route": scope["path"],
            "outrider.request.id": request_id,
            **attributes(facts),
            **({"http.response.status_code": status} if status else {}),
            **({"error.type": failed} if failed else {}),
        }
        span = self._tracer.start_span(
            f"{operation} {facts.model}".rstrip(),
            context=self._propagator.extract(dict(Headers(scope=scope))),
            kind=SpanKind.SERVER,
            attributes=told,
            start_time=begin,
        )
        for name, after in phases(facts).items():
            span.add_event(name, timestamp=begin + round(after * _NANO))
        if failed and (status >= 500 or facts.outcome):
            span.set_status(Status(StatusCode.ERROR, failed))
        span.end(end)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def is_wanted(endpoint: str | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether spans are sent: an endpoint is given, here or in the standard environment.

    Raises:
        MissingExtraError: a package is not installed.
        OptionError: the endpoint is no URL, or the environment asks for another protocol.
    """
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise OptionError(
            f"the endpoint of spans is {endpoint!r:.80}", hint="Give http://HOST:4318"
        )
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").lower() == "none":
        return False
    if endpoint is None and not any(environment.get(name) for name in _ENDPOINTS):
        return False
    for module, package in _PACKAGES.items():
        if not _is_installed(module):
            raise MissingExtraError(package, "telemetry")
    spoken = next((v for name in _PROTOCOLS if (v := environment.get(name))), _SPOKEN)
    if spoken != _SPOKEN:
        raise OptionError(
            f"spans are to be sent over {spoken!r:.40}",
            hint=f"Set {_PROTOCOLS[1]} to {_SPOKEN}, and give the port for it, usually 4318",
        )
    return True


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package around it
        return False


def telemetry_to(
    endpoint: str | None, environment: Mapping[str, str] = os.environ
) -> Telemetry | None:
    """Return what sends spans, or None if that is not wanted.

    Sampling, headers, timeouts and the attributes of the service follow the standard environment
    (`OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME` and so on).

    Args:
        endpoint: a collector, such as `http://127.0.0.1:4318`.
        environment: what the standard variables are read from; the exporter itself reads those of
            the process.

    Raises:
        MissingExtraError: a package is not installed.
        OptionError: the endpoint is no URL, or the environment asks for another protocol.
    """
    if not is_wanted(endpoint, environment):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # pyright: ignore[reportMissingImports]
    from opentelemetry.sdk.resources import Resource  # pyright: ignore[reportMissingImports]
    from opentelemetry.sdk.trace import TracerProvider  # pyright: ignore[reportMissingImports]
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # pyright: ignore[reportMissingImports]

    named = "OTEL_SERVICE_NAME" in environment
    named = named or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    service = {"service.version": __version__} | ({} if named else {"service.name": "outrider"})
    provider = TracerProvider(resource=Resource.create(service))
    place = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=place)))
    return Telemetry(provider)
