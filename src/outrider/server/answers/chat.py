"""The answer to a chat request."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from outrider.engine.serving.messages import Event, Piece
from outrider.server.answers.job import Job
from outrider.server.answers.logprobs import chat_logprobs, prompt_logprobs
from outrider.server.answers.sample import Sample
from outrider.server.answers.usage import figures, usage
from outrider.server.answers.writer import Json
from outrider.server.errors import ApiError
from outrider.server.schema.chat import ChatBody
from outrider.server.sse import DONE, frame
from outrider.server.tools.calls import CallParser, FunctionCall, Part, Thought
from outrider.server.tools.reasoning import Reasoning


@dataclass(slots=True, eq=False)
class ChatSample:
    """One answer: its text, split into content and calls."""

    sample: Sample
    parser: CallParser
    most_calls: int | None = None
    content: str = ""
    reasoning: str = ""
    calls: list[FunctionCall] = field(default_factory=list[FunctionCall])
    begun: bool = False

    def add(self, event: Event, with_stop: bool = False) -> list[Part]:
        """Add what the engine wrote; return the new parts."""
        parts = self.parser.feed(self.sample.add(event, with_stop))
        if not isinstance(event, Piece):
            parts += self.parser.close()
        kept: list[Part] = []
        for part in parts:
            if isinstance(part, str):
                self.content += part
            elif isinstance(part, Thought):
                self.reasoning += part.text
            elif self.most_calls is not None and len(self.calls) >= self.most_calls:
                continue
            else:
                self.calls.append(part)
            kept.append(part)
        return kept

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the reasoning, tags included."""
        if not isinstance(self.parser, Reasoning):
            return 0
        return sum(end <= self.parser.length for end in self.sample.ends)

    @property
    def finish_reason(self) -> str:
        """`stop`, `length` or `tool_calls`; an answer that was cut is `length` in any case."""
        reason = self.sample.finish_reason
        return "tool_calls" if self.calls and reason == "stop" else reason


class ChatWriter:
    """Builds the answer of `/v1/chat/completions`."""

    def __init__(self, job: Job[ChatBody], parser: Callable[[], CallParser]) -> None:
        body = job.body
        self._job, self._body = job, body
        most = 1 if body.parallel_tool_calls is False else None
        self._samples = [ChatSample(Sample(i), parser(), most) for i in range(job.n)]
        self._with_stop = bool(body.include_stop_str_in_output)

    @property
    def samples(self) -> list[ChatSample]:
        """The answers so far."""
        return self._samples

    def take(self, event: Event) -> None:
        """Add what the engine wrote."""
        self._samples[event.index].add(event, self._with_stop)

    def answer(self) -> Json:
        """Return the whole answer."""
        job = self._job
        plain = [one.sample for one in self._samples]
        found: Json = {
            **job.head("chat.completion"),
            "choices": [self._choice(one) for one in self._samples],
            "usage": self._usage(),
            "service_tier": "default",
            **figures(job.submissions, plain),
        }
        if self._body.return_token_ids:
            found["prompt_token_ids"] = list(job.submissions[0].prompt.token_ids)
        scores = plain[0].prompt_logprobs
        if self._body.prompt_logprobs is not None and scores is not None:
            found["prompt_logprobs"] = prompt_logprobs(scores, job.texts)
        return found

    def frames(self, event: Event) -> Iterable[bytes]:
        """Add what the engine wrote; yield the frames that show it."""
        one = self._samples[event.index]
        if not one.begun:
            one.begun = True
            yield self._chunk(event.index, {"role": "assistant", "content": ""}, first=True)
        sample, known, called = one.sample, len(one.sample.token_ids), len(one.calls)
        parts = one.add(event, self._with_stop)
        text = "".join(part for part in parts if isinstance(part, str))
        thought = "".join(part.text for part in parts if isinstance(part, Thought))
        if thought:
            both = {"reasoning_content": thought, "reasoning": thought}
            yield self._chunk(event.index, {"content": None, **both})
        extra = self._extra(event, sample, known)
        if text or any(map(extra.get, ("logprobs", "token_ids", "sources"))):
            yield self._chunk(event.index, {"content": text}, **extra)
        for at, call in enumerate((p for p in parts if isinstance(p, FunctionCall)), start=called):
            yield self._chunk(event.index, {"content": None, "tool_calls": [_opened(call, at)]})
            delta = {"index": at, "function": {"arguments": call.arguments}}
            yield self._chunk(event.index, {"content": None, "tool_calls": [delta]})
        if not isinstance(event, Piece):
            reason = one.finish_reason
            yield self._chunk(event.index, {}, finish_reason=reason, stop_reason=event.stop)

    def last(self) -> Iterable[bytes]:
        """Yield the frames that end the stream."""
        if self._body.include_usage:
            plain = [one.sample for one in self._samples]
            yield frame(
                {
                    **self._job.head("chat.completion.chunk"),
                    "choices": [],
                    "usage": self._usage(),
                    **figures(self._job.submissions, plain),
                }
            )
        yield DONE

    def broken(self, error: ApiError) -> Iterable[bytes]:
        """Yield the frames that end the stream after an error."""
        yield frame(error.body())
        yield DONE

    def _usage(self) -> Json:
        thought = sum(one.reasoning_tokens for one in self._samples)
        plain = [one.sample for one in self._samples]
        return usage(self._job.submissions, plain, reasoning_tokens=thought)

    def _chunk(
        self,
        index: int,
        delta: Json,
        *,
        logprobs: Json | None = None,
        finish_reason: str | None = None,
        first: bool = False,
        **more: Any,
    ) -> bytes:
        choice: Json = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
            **more,
        }
        chunk: Json = {**self._job.head("chat.completion.chunk"), "choices": [choice]}
        if self._body.include_usage:
            chunk["usage"] = None
        if first and self._body.return_token_ids:
            chunk["prompt_token_ids"] = list(self._job.submissions[0].prompt.token_ids)
        return frame(chunk)

    def _extra(self, event: Event, sample: Sample, known: int) -> Json:
        """Return what a chunk holds besides the text."""
        found: Json = {}
        if not isinstance(event, Piece):
            return found
        if self._body.top is not None and event.logprobs:
            found["logprobs"] = self._logprobs(sample, known)
        if self._body.return_token_ids:
            found["token_ids"] = sample.token_ids[known:]
        if self._body.return_sources:
            found["sources"] = [list(span) for span in event.spans]
        return found

    def _logprobs(self, sample: Sample, start: int = 0) -> Json:
        top = self._body.top or 0
        entries = chat_logprobs(sample.logprobs[start:], top, self._job.texts)
        return {"content": entries, "refusal": None}

    def _choice(self, one: ChatSample) -> Json:
        sample = one.sample
        content = None if one.calls and not one.content else one.content
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        if one.reasoning:
            message |= {"reasoning_content": one.reasoning, "reasoning": one.reasoning}
        if one.calls:
            message["tool_calls"] = [call.to_dict() for call in one.calls]
        choice: Json = {
            "index": sample.index,
            "message": message,
            "logprobs": self._logprobs(sample) if self._body.top is not None else None,
            "finish_reason": one.finish_reason,
            "stop_reason": sample.ended.stop if sample.ended is not None else None,
        }
        if self._body.return_token_ids:
            choice["token_ids"] = sample.token_ids
        if self._body.return_sources:
            choice["sources"] = [list(span) for span in sample.sources]
        return choice


def _opened(call: FunctionCall, index: int) -> Json:
    """Return the begin of a call: its name is sent once, and its arguments follow."""
    function = {"name": call.name, "arguments": ""}
    return {"index": index, "id": call.id, "type": "function", "function": function}
