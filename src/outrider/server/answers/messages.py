"""The answer to a message request: an object, or the events of its blocks."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from outrider.engine.serving.messages import Event
from outrider.server.answers.chat_sample import ChatSample
from outrider.server.answers.job import Job
from outrider.server.answers.sample import Sample
from outrider.server.answers.usage import figures, usage
from outrider.server.answers.writer import Json
from outrider.server.errors import ApiError
from outrider.server.schema.messages import MessagesBody
from outrider.server.sse import named_frame
from outrider.server.tools.calls import CallBegin, CallParser, CallText, Thought

_EMPTY: dict[str, Json] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
"""Blocks as they begin, by their type; both have their text in the field of that name."""


class MessageWriter:
    """Builds the answer of `/v1/messages`."""

    def __init__(self, job: Job[MessagesBody], parser: Callable[[], CallParser]) -> None:
        choice = job.body.tool_choice
        alone = choice is not None and choice.disable_parallel_tool_use
        self._job = job
        self._sample = ChatSample(Sample(0), parser(), 1 if alone else None)
        self._blocks: list[Json] = []
        self._open = False
        self._begun = False

    def take(self, event: Event) -> None:
        """Add what the engine wrote."""
        for _ in self._events(event):
            pass

    def answer(self) -> Json:
        """Return the whole answer."""
        for _ in self._close():
            pass
        reason, stop = self._reason()
        return {
            **self._head(),
            "content": self._blocks,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": self._usage(),
            **self._figures(),
        }

    def frames(self, event: Event) -> Iterable[bytes]:
        """Add what the engine wrote; yield the events that show it."""
        if not self._begun:
            self._begun = True
            prompt = len(self._job.submissions[0].prompt)
            begin = {"content": [], "stop_reason": None, "stop_sequence": None}
            message = self._head() | begin | {"usage": _counts(prompt, 0, 0)}
            yield _frame("message_start", message=message)
            yield _frame("ping")
        for name, data in self._events(event):
            yield _frame(name, **data)

    def last(self) -> Iterable[bytes]:
        """Yield the events that end the stream."""
        for name, data in self._close():
            yield _frame(name, **data)
        reason, stop = self._reason()
        delta = {"stop_reason": reason, "stop_sequence": stop}
        yield _frame("message_delta", delta=delta, usage=self._usage(), **self._figures())
        yield _frame("message_stop")

    def broken(self, error: ApiError) -> Iterable[bytes]:
        """Yield the event that ends the stream after an error."""
        yield named_frame("error", error.message_body())

    # -- blocks -----------------------------------------------------------------------------

    def _events(self, event: Event) -> Iterator[tuple[str, Json]]:
        """Add what the engine wrote to the blocks; yield the events that tell it."""
        for part in self._sample.add(event):
            if isinstance(part, str):
                yield from self._write("text", part)
            elif isinstance(part, Thought):
                yield from self._write("thinking", part.text)
            elif isinstance(part, CallBegin):
                call = {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
                yield from self._begin(call)
            elif isinstance(part, CallText):
                delta = {"type": "input_json_delta", "partial_json": part.text}
                yield "content_block_delta", self._place(delta)
            else:
                yield from self._close()

    def _write(self, kind: str, text: str) -> Iterator[tuple[str, Json]]:
        """Add to the last block, or to a new one if it is of another type."""
        if not text:
            return
        if not self._open or self._blocks[-1]["type"] != kind:
            yield from self._begin(dict(_EMPTY[kind]))
        self._blocks[-1][kind] += text
        yield "content_block_delta", self._place({"type": f"{kind}_delta", kind: text})

    def _begin(self, block: Json) -> Iterator[tuple[str, Json]]:
        yield from self._close()
        self._open = True
        self._blocks.append(block)
        yield "content_block_start", {"index": len(self._blocks) - 1, "content_block": dict(block)}

    def _close(self) -> Iterator[tuple[str, Json]]:
        """End the block that is open. A call has its arguments now."""
        if self._open:
            self._open = False
            if self._blocks[-1]["type"] == "tool_use":
                self._blocks[-1]["input"] = _arguments(self._sample.calls[-1].arguments)
            yield "content_block_stop", {"index": len(self._blocks) - 1}

    def _place(self, delta: Json) -> Json:
        return {"index": len(self._blocks) - 1, "delta": delta}

    # -- the message ------------------------------------------------------------------------

    def _head(self) -> Json:
        job = self._job
        return {"id": job.id, "type": "message", "role": "assistant", "model": job.model}

    def _reason(self) -> tuple[str, str | None]:
        """Return why the text ended, and the stop string that ended it."""
        sample = self._sample.sample
        reason = self._sample.finish_reason
        stop = sample.ended.stop if sample.ended is not None else None
        if reason == "length":
            given = self._job.submissions[0].params.max_new_tokens
            whole = given >= self._job.body.max_tokens
            return ("max_tokens" if whole else "model_context_window_exceeded"), None
        if reason == "tool_calls":
            return "tool_use", None
        return ("stop_sequence", stop) if isinstance(stop, str) else ("end_turn", None)

    def _usage(self) -> Json:
        thought = self._sample.reasoning_tokens
        found = usage(self._job.submissions, [self._sample.sample], reasoning_tokens=thought)
        cached = found["prompt_tokens_details"]["cached_tokens"]
        counts = _counts(found["prompt_tokens"], cached, found["completion_tokens"])
        return counts | {"output_tokens_details": {"thinking_tokens": thought}}

    def _figures(self) -> Json:
        return figures(self._job.submissions, [self._sample.sample])


def _counts(prompt: int, cached: int, written: int) -> Json:
    """Return counts of tokens; those of the prompt that were reused are counted apart."""
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": written,
    }


def _arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a call; those of a broken one as a text, since this interface has
    objects only."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = text
    return found if isinstance(found, dict) else {"arguments": found}


def _frame(name: str, **data: Any) -> bytes:
    return named_frame(name, {"type": name, **data})
