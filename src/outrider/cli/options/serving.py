"""Options of `outrider serve`: where it listens, who may use it, and its limits."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from outrider.cli.options.groups import given_fields
from outrider.cli.options.options import option
from outrider.core.errors import OptionError

if TYPE_CHECKING:
    from outrider.search import Scorer
    from outrider.server.searches.settings import SearchSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Listening:
    """Options for where the server listens, and who may use it."""

    host: Annotated[str, option(panel="Network", help="Name or address to listen at.")] = (
        "127.0.0.1"
    )
    port: Annotated[
        int, option(panel="Network", help="Port; 0 takes a free one.", min=0, max=65535)
    ] = 8000
    api_keys: Annotated[
        Path | None,
        option(
            panel="Network",
            metavar="FILE",
            help="TOML file of keys: a table for each name, with key or sha256, and optionally "
            "class and requests_per_minute. OUTRIDER_API_KEYS holds further ones: NAME=KEY,...",
        ),
    ] = None
    insecure: Annotated[
        bool,
        option(panel="Network", help="Allow other machines although there are no keys."),
    ] = False
    cors_origin: Annotated[
        list[str] | None,
        option(
            panel="Network",
            metavar="ORIGIN",
            help="Origin of web pages that may call the server, such as https://example.org; "
            "repeatable.",
        ),
    ] = None


_ENGINE = ("max_num_seqs", "cache_tokens")
"""Limits that are settings of the engine; the others are those of the server."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLimits:
    """Options for how much the server takes on."""

    max_num_seqs: Annotated[
        int | None, option(panel="Limits", help="Samples that run at once. Default: 16.", min=1)
    ] = None
    cache_tokens: Annotated[
        int | None,
        option(
            panel="Limits",
            help="Tokens of all caches together. Default: what fits in half of the free memory.",
            min=128,
        ),
    ] = None
    max_queue: Annotated[
        int | None,
        option(panel="Limits", help="Samples that may wait; then 429. Default: 256.", min=0),
    ] = None
    max_queued_tokens: Annotated[
        int | None,
        option(panel="Limits", help="Tokens of waiting prompts. Default: 262144.", min=0),
    ] = None
    queue_timeout: Annotated[
        float | None, option(panel="Limits", help="Seconds in the queue; then 429. Default: 60.")
    ] = None
    request_timeout: Annotated[
        float | None, option(panel="Limits", help="Seconds of a request. Default: 600.")
    ] = None
    first_token_timeout: Annotated[
        float | None, option(panel="Limits", help="Seconds until the first token; then 504.")
    ] = None
    shutdown_timeout: Annotated[
        float | None,
        option(panel="Limits", help="Seconds for running requests after SIGTERM. Default: 30."),
    ] = None
    max_body: Annotated[
        int | None,
        option(panel="Limits", help="Bytes of a request. Default: 20000000.", min=1),
    ] = None
    max_n: Annotated[
        int | None, option(panel="Limits", help="Samples of a prompt. Default: 16.", min=1)
    ] = None

    grammar_seconds: Annotated[
        int | None,
        option(
            panel="Limits",
            help="Seconds of the processor in which a grammar of a request must be read. "
            "Default: 5.",
            min=1,
        ),
    ] = None

    def server(self) -> dict[str, Any]:
        """Return keywords of `ServerSettings`."""
        return {name: v for name, v in given_fields(self).items() if name not in _ENGINE}

    def engine(self) -> dict[str, Any]:
        """Return keywords of `ServingSettings`."""
        return {name: v for name, v in given_fields(self).items() if name in _ENGINE}


@dataclass(frozen=True, kw_only=True, slots=True)
class Searches:
    """Options for searches of clients."""

    allow_search: Annotated[
        bool,
        option(
            "--allow-search",
            panel="Search",
            help="Let clients search at /v1/search: several texts or branches of one prompt. One "
            "search runs at a time, beside the other requests.",
        ),
    ] = False
    search_scorer: Annotated[
        list[str] | None,
        option(
            panel="Search",
            metavar="NAME=SCORER",
            help="A scorer that searches may name, such as brief=length:40 or "
            "reward=classifier:FOLDER; see --scorer of generate. Repeatable.",
        ),
    ] = None
    search_tokens: Annotated[
        int | None,
        option(
            panel="Search",
            min=1,
            help="Most rows that the model computes for a search. Default: 100000.",
        ),
    ] = None
    search_seconds: Annotated[
        float | None, option(panel="Search", help="Most seconds of a search. Default: 120.")
    ] = None

    def settings(self) -> "SearchSettings | None":
        """Return what is allowed; None: nothing.

        Raises:
            OptionError: an option is given without --allow-search, or a scorer is invalid.
        """
        limits = {"tokens": self.search_tokens, "seconds": self.search_seconds}
        given = {name: value for name, value in limits.items() if value is not None}
        if not self.allow_search:
            if given or self.search_scorer:
                name = "search-scorer" if self.search_scorer else f"search-{next(iter(given))}"
                raise OptionError(
                    f"--{name} is given without --allow-search", hint="Give --allow-search as well"
                )
            return None
        from outrider.search.scorers.named import make_scorer
        from outrider.server.searches.settings import SearchSettings

        scorers: dict[str, Scorer] = {}
        for text in self.search_scorer or ():
            name, found, value = text.partition("=")
            if not found or not name:
                raise OptionError(
                    f"--search-scorer is {text!r:.60}", hint="Give NAME=SCORER: brief=length:40"
                )
            scorers[name] = make_scorer(value)
        return SearchSettings(scorers=scorers, **given)


@dataclass(frozen=True, kw_only=True, slots=True)
class Replication:
    """Options for several engines behind one server."""

    replicas: Annotated[
        int | None,
        option(
            panel="Replicas",
            help="Engines in processes of their own, on Ray Serve: when one of them is lost, the "
            "others continue its answers. Limits count for all of them together, and they share "
            "the CPU threads. Default: one engine in this process, without Ray.",
            min=1,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """Options for how requests are read."""

    served_model_name: Annotated[
        list[str] | None,
        option(
            panel="Requests",
            metavar="NAME",
            help="Name under which the model is served; repeatable. Default: the target's.",
        ),
    ] = None
    tool_parser: Annotated[
        str | None,
        option(
            panel="Requests",
            help="Parser of calls: hermes, llama3-json, mistral, pythonic, qwen3-coder, deepseek, "
            "harmony, none. Default: by the response template or the chat template.",
        ),
    ] = None
    unknown_fields: Annotated[
        str | None,
        option(
            panel="Requests",
            metavar="[ignore|refuse]",
            help="Fields of requests that are unknown: named in a header, or refused. "
            "Default: ignore.",
        ),
    ] = None
    metrics_alias: Annotated[
        str,
        option(
            panel="Requests",
            metavar="[vllm|none]",
            help="Metrics have the names of vLLM too, for its dashboards.",
        ),
    ] = "vllm"
    otlp_endpoint: Annotated[
        str | None,
        option(
            panel="Requests",
            metavar="URL",
            help="Collector of OpenTelemetry that gets a span for each request, such as "
            "http://127.0.0.1:4318. Default: OTEL_EXPORTER_OTLP_ENDPOINT, else none.",
        ),
    ] = None
    allow_media_host: Annotated[
        list[str] | None,
        option(
            panel="Requests",
            metavar="HOST",
            help="Host from which images of requests may be fetched over http or https, such as "
            "images.example.org; HOST:PORT for an unusual port; repeatable. Default: none.",
        ),
    ] = None
    prefixes_across_keys: Annotated[
        bool,
        option(
            panel="Requests",
            help="Requests of different keys may reuse each other's prompts. The time until the "
            "first token then shows whether another key has sent a prompt.",
        ),
    ] = False
