"""Settings of the server."""

from collections.abc import Mapping
from dataclasses import dataclass

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError
from outrider.server.media.addresses import read_host
from outrider.server.searches.settings import SearchSettings

UNKNOWN_FIELDS = ("ignore", "refuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Limits and names of one server.

    Attributes:
        model_names: names under which the model is served; the first is reported.
        max_queue: samples that may wait; further requests get 429.
        max_queued_tokens: tokens of prompts that may wait; one prompt alone is always accepted.
        queue_timeout: seconds that a request may wait; then 429.
        request_timeout: seconds after which a request is ended.
        first_token_timeout: seconds in which the first token must be written; None sets no limit.
        max_body: bytes of a request.
        body_timeout: seconds in which the body of a request must arrive.
        send_timeout: seconds after which a client that accepts nothing is cut off.
        hold: seconds for which the status of a stream waits for the first token.
        ping: seconds between comments in a stream that is silent.
        max_n: most samples of one prompt.
        max_prompts: most prompts of one completion request.
        grammar_seconds: seconds of the processor in which the grammar of a request must be read.
        shutdown_timeout: seconds in which running requests may end after SIGTERM.
        unknown_fields: `ignore` names them in a header, `refuse` answers 400.
        cors_origins: origins of pages that may call the server; empty: none.
        vllm_metrics: metrics also have the names of vLLM.
        tool_parser: parser of calls; None chooses by the chat template.
        prefixes_across_keys: requests of different keys may share prefixes; how fast a prompt is
            read then shows whether another key has sent it.
        media_hosts: hosts from which images of requests are fetched, `HOST` or `HOST:PORT`; empty:
            none.
        searches: what is allowed of searches; None: nothing.

    Raises:
        OptionError: a number out of range, or a host that is none.
    """

    model_names: tuple[str, ...] = ("outrider",)
    max_queue: int = 256
    max_queued_tokens: int = 1 << 18
    queue_timeout: float = 60.0
    request_timeout: float = 600.0
    first_token_timeout: float | None = None
    max_body: int = 20_000_000
    body_timeout: float = 30.0
    send_timeout: float = 60.0
    hold: float = 10.0
    ping: float = 15.0
    max_n: int = 16
    max_prompts: int = 64
    grammar_seconds: int = 5
    shutdown_timeout: float = 30.0
    searches: SearchSettings | None = None
    unknown_fields: str = "ignore"
    cors_origins: tuple[str, ...] = ()
    vllm_metrics: bool = True
    tool_parser: str | None = None
    prefixes_across_keys: bool = False
    media_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if self.unknown_fields not in UNKNOWN_FIELDS:
            raise OptionError(
                f"unknown_fields is {self.unknown_fields!r:.60}",
                hint=f"Give one of {', '.join(UNKNOWN_FIELDS)}",
            )
        if not self.model_names or not all(self.model_names):
            raise OptionError("the model has no name", hint="Give at least one name")
        for host in self.media_hosts:
            read_host(host)

    @property
    def model_name(self) -> str:
        """The name that answers report."""
        return self.model_names[0]


_SECONDS = Range(0.0, 1e9, above=True)
_COUNT = Range(0, whole=True)

_RANGES: Mapping[str, Range] = {
    "max_queue": _COUNT,
    "max_queued_tokens": _COUNT,
    "queue_timeout": _SECONDS,
    "request_timeout": _SECONDS,
    "first_token_timeout": Range(0.0, 1e9, above=True, optional=True),
    "max_body": AT_LEAST_ONE,
    "body_timeout": _SECONDS,
    "send_timeout": _SECONDS,
    "hold": _SECONDS,
    "ping": _SECONDS,
    "max_n": AT_LEAST_ONE,
    "max_prompts": AT_LEAST_ONE,
    "grammar_seconds": AT_LEAST_ONE,
    "shutdown_timeout": Range(0.0, 1e9),
}
