"""The answer to a response request: an object, or typed events."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from outrider.engine.serving.messages import Event, Piece
from outrider.server.answers.chat import ChatSample
from outrider.server.answers.job import Job
from outrider.server.answers.logprobs import chat_logprobs
from outrider.server.answers.sample import Sample
from outrider.server.answers.usage import figures, usage
from outrider.server.answers.writer import Json
from outrider.server.errors import ApiError
from outrider.server.ids import new_id
from outrider.server.schema.responses import ResponsesBody
from outrider.server.sse import named_frame
from outrider.server.tools.calls import CallParser, FunctionCall, Thought


class ResponseWriter:
    """Builds the answer of `/v1/responses`."""

    def __init__(self, job: Job[ResponsesBody], parser: Callable[[], CallParser]) -> None:
        self._job = job
        most = 1 if job.body.parallel_tool_calls is False else job.body.max_tool_calls
        self._sample = ChatSample(Sample(0), parser(), most)
        self._output: list[Json] = []
        self._message: Json | None = None
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
        logprobs = self._logprobs(known) if isinstance(event, Piece) else []
        for part in parts:
            if isinstance(part, FunctionCall):
                yield from self._close()
                yield from self._call(part)
            elif isinstance(part, Thought):
                yield from self._thought(part.text)
            else:
                yield from self._text(part, logprobs)
                logprobs = []
        if logprobs:  # tokens whose text is held back
            yield from self._text("", logprobs)

    def _thought(self, text: str) -> Iterator[tuple[str, Json]]:
        if self._message is None:
            yield from self._open("reasoning")
        item = self._message
        assert item is not None
        item["content"][0]["text"] += text
        place = self._place(item) | {"content_index": 0}
        yield "response.reasoning_text.delta", place | {"delta": text}

    def _text(self, text: str, logprobs: list[Json]) -> Iterator[tuple[str, Json]]:
        if self._message is not None and self._message["type"] == "reasoning":
            yield from self._close()
        if self._message is None:
            yield from self._open("message")
        message = self._message
        assert message is not None
        part = message["content"][0]
        part["text"] += text
        part["logprobs"] += logprobs
        yield (
            "response.output_text.delta",
            self._place(message) | {"content_index": 0, "delta": text, "logprobs": logprobs},
        )

    def _open(self, kind: str) -> Iterator[tuple[str, Json]]:
        """Begin a message, or reasoning."""
        reasons = kind == "reasoning"
        message: Json = {
            "id": new_id("rs" if reasons else "msg"),
            "type": kind,
            "status": "in_progress",
            "content": [],
        }
        message |= {"summary": []} if reasons else {"role": "assistant"}
        self._message = message
        self._output.append(message)
        at = len(self._output) - 1
        yield "response.output_item.added", {"output_index": at, "item": _copy(message)}
        part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        part = {"type": "reasoning_text", "text": ""} if reasons else part
        message["content"].append(part)
        place = self._place(message) | {"content_index": 0}
        yield "response.content_part.added", place | {"part": dict(part)}

    def _close(self) -> Iterator[tuple[str, Json]]:
        """End the message that is open."""
        message, self._message = self._message, None
        if message is None:
            return
        message["status"] = self._status
        part = message["content"][0]
        place = self._place(message) | {"content_index": 0}
        done = {name: v for name, v in part.items() if name in ("text", "logprobs")}
        yield f"response.{part['type']}.done", place | done
        yield "response.content_part.done", place | {"part": dict(part)}
        at = place["output_index"]
        yield "response.output_item.done", {"output_index": at, "item": _copy(message)}

    def _call(self, call: FunctionCall) -> Iterator[tuple[str, Json]]:
        item: Json = {
            "id": new_id("fc"),
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
            "status": "in_progress",
        }
        self._output.append(item)
        at = len(self._output) - 1
        yield "response.output_item.added", {"output_index": at, "item": dict(item)}
        place = self._place(item)
        yield "response.function_call_arguments.delta", place | {"delta": call.arguments}
        done = {"name": call.name, "arguments": call.arguments}
        yield "response.function_call_arguments.done", place | done
        item |= {"arguments": call.arguments, "status": "completed"}
        yield "response.output_item.done", {"output_index": at, "item": dict(item)}

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
            "text": {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": [tool.model_dump(exclude_unset=True) for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": self._usage() if ended else None,
            "user": body.user,
        }

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


def _copy(item: Json) -> Json:
    """Return an item that later text does not change."""
    if "content" not in item:
        return dict(item)
    return item | {"content": [dict(part) for part in item["content"]]}
