"""The answer to a response request: an object, or typed events."""

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from outrider.engine.serving.messages import Event, Piece
from outrider.server.answers.chat_sample import ChatSample
from outrider.server.answers.job import Job
from outrider.server.answers.logprobs import chat_logprobs
from outrider.server.answers.sample import Sample
from outrider.server.answers.usage import figures, usage
from outrider.server.answers.writer import Json
from outrider.server.errors import ApiError
from outrider.server.ids import new_id
from outrider.server.schema.responses import ResponsesBody
from outrider.server.sse import named_frame
from outrider.server.tools.calls import CallBegin, CallParser, CallText, Thought

_CALL_EVENTS = {
    "function_call": ("response.function_call_arguments", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input", "input"),
}
"""Items that are calls: the events of their text, and its field."""


class ResponseWriter:
    """Builds the answer of `/v1/responses`."""

    def __init__(self, job: Job[ResponsesBody], parser: Callable[[], CallParser]) -> None:
        self._job = job
        most = 1 if job.body.parallel_tool_calls is False else job.body.max_tool_calls
        self._sample = ChatSample(Sample(0), parser(), most)
        self._output: list[Json] = []
        self._item: Json | None = None
        self._pending: list[Json] = []
        self._number = 0
        self._begun = False

    def take(self, event: Event) -> None:
        """Add what the engine wrote."""
        for _ in self._events(event):
            pass

    def answer(self) -> Json:
        """Return the whole answer."""
        for _ in self._close():
            pass
        return self._object(self._status) | figures(self._job.submissions, [self._sample.sample])

    def frames(self, event: Event) -> Iterable[bytes]:
        """Add what the engine wrote; yield the events that show it."""
        if not self._begun:
            self._begun = True
            for name in ("created", "in_progress"):
                yield self._frame(f"response.{name}", response=self._object("in_progress"))
        for name, data in self._events(event):
            yield self._frame(name, **data)

    def last(self) -> Iterable[bytes]:
        """Yield the events that end the stream."""
        for name, data in self._close():
            yield self._frame(name, **data)
        found = self._object(self._status)
        found |= figures(self._job.submissions, [self._sample.sample])
        yield self._frame(f"response.{self._status}", response=found)

    def broken(self, error: ApiError) -> Iterable[bytes]:
        """Yield the events that end the stream after an error."""
        found = self._object("failed")
        found["error"] = {"code": error.code, "message": error.message}
        yield self._frame("response.failed", response=found)

    @property
    def _status(self) -> str:
        return "incomplete" if self._sample.finish_reason == "length" else "completed"

    def _frame(self, name: str, /, **data: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return named_frame(name, {"type": name, "sequence_number": number, **data})

    # -- items ------------------------------------------------------------------------------

    def _events(self, event: Event) -> Iterator[tuple[str, Json]]:
        """Add what the engine wrote to the items; yield the events that tell it."""
        known = len(self._sample.sample.logprobs)
        parts = self._sample.add(event)
        if isinstance(event, Piece):
            self._pending += self._logprobs(known)
        for part in parts:
            if isinstance(part, str):
                yield from self._text(part)
                continue
            self._pending = []  # reasoning and calls have no place for them
            if isinstance(part, Thought):
                yield from self._thought(part.text)
            elif isinstance(part, CallBegin):
                yield from self._close()
                yield from self._open(_call_item(part))
            elif isinstance(part, CallText):
                yield from self._argument(part.text)
            else:
                yield from self._close("incomplete" if part.broken else "completed")
        writes = self._item is not None and self._item["type"] == "message"
        if self._pending and (writes or not (self._output or isinstance(event, Piece))):
            yield from self._text("")  # of tokens whose text is held back, or that have none

    def _thought(self, text: str) -> Iterator[tuple[str, Json]]:
        item = yield from self._current("reasoning")
        item["content"][0]["text"] += text
        place = self._place(item) | {"content_index": 0}
        yield "response.reasoning_text.delta", place | {"delta": text}

    def _text(self, text: str) -> Iterator[tuple[str, Json]]:
        """Add text, with the log-probabilities that wait for it."""
        logprobs, self._pending = self._pending, []
        item = yield from self._current("message")
        part = item["content"][0]
        part["text"] += text
        part["logprobs"] += logprobs
        place = self._place(item) | {"content_index": 0}
        yield "response.output_text.delta", place | {"delta": text, "logprobs": logprobs}

    def _argument(self, text: str) -> Iterator[tuple[str, Json]]:
        item = self._item
        assert item is not None
        event, name = _CALL_EVENTS[item["type"]]
        item[name] += text
        yield f"{event}.delta", self._place(item) | {"delta": text}

    def _current(self, kind: str) -> Generator[tuple[str, Json], None, Json]:
        """Return the item that is open, if it is of this kind, else a new one."""
        if self._item is None or self._item["type"] != kind:
            yield from self._close()
            item = _message_item() if kind == "message" else _reasoning_item()
            yield from self._open(item)
            part = item["content"][0]
            place = self._place(item) | {"content_index": 0}
            yield "response.content_part.added", place | {"part": dict(part)}
        assert self._item is not None
        return self._item

    def _open(self, item: Json) -> Iterator[tuple[str, Json]]:
        self._item = item
        self._output.append(item)
        shown = _copy(item) | ({"content": []} if "content" in item else {})
        at = len(self._output) - 1
        yield "response.output_item.added", {"output_index": at, "item": shown}

    def _close(self, status: str | None = None) -> Iterator[tuple[str, Json]]:
        """End the item that is open; without a status it has that of the answer."""
        item, self._item = self._item, None
        if item is None:
            return
        item["status"] = status or self._status
        place = self._place(item)
        if item["type"] in _CALL_EVENTS:
            event, name = _CALL_EVENTS[item["type"]]
            yield f"{event}.done", place | {"name": item["name"], name: item[name]}
        else:
            part, inside = item["content"][0], place | {"content_index": 0}
            done = {name: v for name, v in part.items() if name in ("text", "logprobs")}
            yield f"response.{part['type']}.done", inside | done
            yield "response.content_part.done", inside | {"part": dict(part)}
        at = place["output_index"]
        yield "response.output_item.done", {"output_index": at, "item": _copy(item)}

    def _place(self, item: Json) -> Json:
        at = next(i for i, one in enumerate(self._output) if one is item)
        return {"item_id": item["id"], "output_index": at}

    def _logprobs(self, start: int) -> list[Json]:
        top = self._job.body.top
        if top is None:
            return []
        return chat_logprobs(self._sample.sample.logprobs[start:], top, self._job.texts)

    # -- the object -------------------------------------------------------------------------

    def _object(self, status: str) -> Json:
        job, body = self._job, self._job.body
        ended = self._sample.sample.ended is not None
        params = job.submissions[0].params
        cut = status == "incomplete"
        return {
            "id": job.id,
            "object": "response",
            "created_at": job.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": job.model,
            "output": [_copy(item) for item in self._output],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning and body.reasoning.effort, "summary": None},
            "service_tier": "default",
            "store": False,
            "system_fingerprint": job.fingerprint,
            "temperature": params.temperature,
            "text": {"format": self._format()},
            "tool_choice": body.tool_choice or "auto",
            "tools": [tool.model_dump(exclude_unset=True) for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": self._usage() if ended else None,
            "user": body.user,
        }

    def _format(self) -> Json:
        form = self._job.body.text and self._job.body.text.format
        if form is None:
            return {"type": "text"}
        return {"type": form.type} | form.model_dump(by_alias=True, exclude_unset=True)

    def _usage(self) -> Json:
        thought = self._sample.reasoning_tokens
        found = usage(self._job.submissions, [self._sample.sample], reasoning_tokens=thought)
        return {
            "input_tokens": found["prompt_tokens"],
            "input_tokens_details": found["prompt_tokens_details"],
            "output_tokens": found["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": found["total_tokens"],
        }


def _message_item() -> Json:
    part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    return _item("msg", "message") | {"content": [part], "role": "assistant"}


def _reasoning_item() -> Json:
    part: Json = {"type": "reasoning_text", "text": ""}
    return _item("rs", "reasoning") | {"content": [part], "summary": []}


def _call_item(call: CallBegin) -> Json:
    if call.custom:
        own = {"call_id": call.id, "name": call.name, "input": ""}
        return _item("ctc", "custom_tool_call") | own
    return _item("fc", "function_call") | {"call_id": call.id, "name": call.name, "arguments": ""}


def _item(prefix: str, kind: str) -> Json:
    return {"id": new_id(prefix), "type": kind, "status": "in_progress"}


def _copy(item: Json) -> Json:
    """Return an item that later text does not change."""
    if "content" not in item:
        return dict(item)
    return item | {"content": [dict(part) for part in item["content"]]}
