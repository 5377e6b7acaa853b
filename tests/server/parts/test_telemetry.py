"""Spans of requests. The packages are installed with: pip install "outrider[telemetry]" """

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from outrider.core.errors import MissingExtraError, OptionError
from outrider.server.telemetry import spans
from outrider.server.telemetry.facts import Facts, attributes, phases
from outrider.server.telemetry.spans import Telemetry, is_wanted, telemetry_to
from tests.server.setups import CHAT, HELLO, LONG, QUICK, Running, until

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
MISSING = 'install it with: pip install "outrider[telemetry]"'
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_spans_are_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert telemetry_to(None, {}) is None
    monkeypatch.setattr(spans, "find_spec", lambda name: object())
    assert not is_wanted(None, {"OTEL_SERVICE_NAME": "a"})
    assert is_wanted(None, ENDPOINT) and is_wanted("http://127.0.0.1:4318", {})
    assert not is_wanted(None, ENDPOINT | {"OTEL_SDK_DISABLED": "true"})
    assert not is_wanted("http://a.test:4318", {"OTEL_TRACES_EXPORTER": "none"})
    with pytest.raises(OptionError, match="http/protobuf"):
        is_wanted(None, ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    with pytest.raises(OptionError, match="endpoint"):
        is_wanted("a.test:4318", {})


@pytest.mark.parametrize("missing", ["opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def find(name: str) -> object:
        if name == missing:
            raise ModuleNotFoundError
        return object()

    monkeypatch.setattr(spans, "find_spec", find)
    for endpoint, environment in (("http://a.test:4318", {}), (None, ENDPOINT)):
        with pytest.raises(MissingExtraError, match=r"outrider\[telemetry\]"):
            is_wanted(endpoint, environment)


def test_a_request_that_was_refused_has_no_phases() -> None:
    assert phases(Facts()) == {}
    assert attributes(Facts(model="tiny"))["gen_ai.request.model"] == "tiny"


@pytest.fixture
def traced(served: Running) -> Iterator[Callable[[int], list[Any]]]:
    """Returns the first spans of the server, as soon as there are so many."""
    pytest.importorskip("opentelemetry.sdk", reason=MISSING)
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def first(count: int) -> list[Any]:
        assert until(lambda: len(exporter.get_finished_spans()) >= count)
        return list(exporter.get_finished_spans())

    served.context.telemetry = Telemetry(provider)
    try:
        yield first
    finally:
        served.context.telemetry = None
        provider.shutdown()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span(
    served: Running, traced: Callable[[int], list[Any]], stream: bool
) -> None:
    parent = f"00-{TRACE}-{PARENT}-01"
    body = QUICK | {"stream": stream, "stop": ["?!"], "stream_options": {"include_usage": True}}
    answer = served.post(CHAT, body, traceparent=parent)
    whole = answer.chunks[-1] if stream else answer.json
    [span] = traced(1)
    assert span.name == "chat tiny" and span.kind.name == "SERVER"
    assert format(span.context.trace_id, "032x") == TRACE
    assert format(span.parent.span_id, "016x") == PARENT and span.parent.is_remote
    found = dict(span.attributes)
    assert found["gen_ai.operation.name"] == "chat" and found["gen_ai.provider.name"] == "outrider"
    assert found["gen_ai.request.model"] == "tiny" and found["gen_ai.request.stream"] is stream
    assert (found["gen_ai.request.max_tokens"], found["gen_ai.request.seed"]) == (8, 1)
    assert found["gen_ai.request.stop_sequences"] == ("?!",)
    assert found["gen_ai.response.id"] == whole["id"]
    usage = whole["usage"]
    assert found["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert found["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert found["gen_ai.usage.cache_read.input_tokens"] == cached
    assert found["http.response.status_code"] == 200 and "error.type" not in found
    assert found["outrider.request.id"] == answer.headers["x-request-id"]
    assert "Hello" not in str(found)
    assert [event.name for event in span.events] == ["queue", "prefill", "decode"]
    times = [span.start_time, *(event.timestamp for event in span.events), span.end_time]
    assert times == sorted(times) and times[-1] - times[0] < 60e9
    assert span.status.status_code.name == "UNSET"


def test_spans_of_errors_and_of_clients_that_leave(
    served: Running, traced: Callable[[int], list[Any]]
) -> None:
    served.get("/health")
    served.post("/tokenize", {"prompt": "a"})  # these two write no text
    served.post(CHAT, QUICK | {"model": "gpt-4"})
    served.post("/v1/messages", {"model": "tiny", "messages": HELLO, "max_tokens": 2})
    connection = served.opened(LONG | {"stream": True})
    connection.recv(10)
    connection.close()
    refused, message, left = traced(3)
    assert refused.attributes["error.type"] == "404" and not refused.events
    assert refused.status.status_code.name == "UNSET" and refused.parent is None
    assert message.attributes["gen_ai.response.id"].startswith("msg-")
    assert left.attributes["error.type"] == "disconnected"
    assert left.status.status_code.name == "ERROR" and served.idle()


def test_spans_are_sent_to_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=MISSING)
    seen: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.path, data))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.02,))
        thread.start()
        telemetry = telemetry_to(f"http://127.0.0.1:{collector.server_port}", {})
        assert telemetry is not None
        scope = {"type": "http", "path": CHAT, "method": "POST", "headers": []}
        telemetry.finish(scope, Facts(model="tiny", outcome="done"), "req-1", 200, 0.5)
        telemetry.close()
        collector.shutdown()
        thread.join()
    [(path, data)] = seen
    assert path == "/v1/traces" and b"chat tiny" in data and b"outrider" in data
