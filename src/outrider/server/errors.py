"""Errors as clients expect them: `{"error": {message, type, param, code}}` for those of OpenAI,
`{"type": "error", "error": {type, message}}` for those of Anthropic."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi.responses import JSONResponse

from outrider.core.errors import ContextError, OptionError, OutriderError
from outrider.core.values import JsonValue

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


MESSAGES = "/v1/messages"
"""Where paths begin whose errors have the shape of Anthropic's interface."""

_MESSAGE_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@dataclass(slots=True, eq=False)
class ApiError(Exception):
    """An error that a client sees.

    Attributes:
        status: the status of HTTP.
        code: what went wrong, for programs.
        message: the same, for people: one line with what was given and what was expected.
        param: the field of the request; None if no single one is wrong.
        headers: further headers, such as `retry-after`.
    """

    status: int
    code: str
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def body(self) -> dict[str, JsonValue]:
        """Return the object that describes the error."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "server_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def message_body(self) -> dict[str, JsonValue]:
        """Return the object that describes the error, in the interface of Anthropic."""
        usual = "invalid_request_error" if self.status < 500 else "api_error"
        kind = _MESSAGE_TYPES.get(self.status, usual)
        return {"type": "error", "error": {"type": kind, "message": self.message}}

    def response(self, path: str = "") -> JSONResponse:
        """Return the answer to a request for `path`."""
        body = self.message_body() if path.startswith(MESSAGES) else self.body()
        return JSONResponse(body, self.status, headers=dict(self.headers))


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return the error for a wrong value of a field."""
    return ApiError(400, code, message, param)


def unsupported(param: str, reason: str) -> ApiError:
    """Return the error for a field that the server knows and does not honour."""
    return ApiError(400, "unsupported_field", f"{param} is not supported: {reason}", param)


def retry_later(status: int, code: str, message: str, seconds: float) -> ApiError:
    """Return an error after which the client should try again, in 1 to 60 seconds."""
    wait = str(round(min(max(seconds, 1.0), 60.0)))
    return ApiError(status, code, message, headers={"retry-after": wait})


def from_outrider(error: OutriderError, param: str | None = None) -> ApiError:
    """Return the error of the library as one of the request."""
    if isinstance(error, ContextError):
        return invalid(str(error), param, "context_length_exceeded")
    if isinstance(error, OptionError):
        return invalid(str(error), param)
    return ApiError(500, "engine_error", str(error))


def crashed() -> ApiError:
    """Return the error for an exception that nobody expected; its details are in the log."""
    return ApiError(500, "internal_error", "the server failed; its log has the details")


FAILURES: Mapping[str, tuple[int, str, str]] = {
    "queue_timeout": (429, "queue_full", "the request waited too long; try again later"),
    "deadline": (504, "deadline", "no token could be written in time"),
    "request_timeout": (408, "request_timeout", "the request took too long"),
    "draining": (503, "draining", "the server is shutting down"),
    "invalid_request": (400, "invalid_value", "the request cannot be run"),
    "engine_error": (500, "engine_error", "the engine failed"),
}
"""Failures of the engine (`Ended.failure`): status, code, and the message where it gives none."""


def from_failure(failure: str, message: str, *, own_fault: bool = False) -> ApiError:
    """Return the error for a request that the engine ended.

    Args:
        failure: `Ended.failure`.
        message: its details.
        own_fault: the request itself is the cause, so that it would fail again.
    """
    status, code, usual = FAILURES.get(failure, FAILURES["engine_error"])
    headers = {"retry-after": "5"} if status in (429, 503) else {}
    if own_fault:
        headers["x-should-retry"] = "false"
    return ApiError(status, code, message or usual, headers=headers)
