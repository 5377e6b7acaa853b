"""The answer to a chat request."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from outrider.decoding.generation import TokenLogprob
from outrider.engine.serving.messages import Event, Piece
from outrider.server.answers.chat_sample import ChatSample, NewPart
from outrider.server.answers.job import Job
from outrider.server.answers.logprobs import chat_logprobs, prompt_logprobs
from outrider.server.answers.sample import Sample
from outrider.server.answers.usage import figures, usage
from outrider.server.answers.writer import Json
from outrider.server.errors import ApiError
from outrider.server.schema.chat import ChatBody
from outrider.server.sse import DONE, frame
from outrider.server.tools.calls import CallBegin, CallEnd, CallParser, CallText, Thought

_NAMED = ("function", "custom")
"""Types of a choice that names a tool."""


class ChatWriter:
    """Builds the answer of `/v1/chat/completions`."""

    def __init__(self, job: Job[ChatBody], parser: Callable[[], CallParser]) -> None:
        body = job.body
        self._job, self._body = job, body
        most = 1 if body.parallel_tool_calls is False else None
        named = isinstance(body.tool_choice, dict) and body.tool_choice.get("type") in _NAMED
        self._samples = [ChatSample(Sample(i), parser(), most, named) for i in range(job.n)]
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
        return found | self._prompt(plain[0].prompt_logprobs)

    def frames(self, event: Event) -> Iterable[bytes]:
        """Add what the engine wrote; yield the frames that show it."""
        one = self._samples[event.index]
        if not one.begun:
            one.begun = True
            prompt = self._prompt(event.prompt_logprobs if isinstance(event, Piece) else None)
            yield self._chunk(event.index, {"role": "assistant", "content": ""}, prompt)
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
        custom = one.calls[0].custom if one.calls else False
        for delta in _call_deltas(parts, called, custom):
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

    def _prompt(self, scores: Sequence[TokenLogprob | None] | None) -> Json:
        """Return the fields about the prompt: of the whole answer, and of the first chunk."""
        found: Json = {}
        if self._body.return_token_ids:
            found["prompt_token_ids"] = list(self._job.submissions[0].prompt.token_ids)
        if self._body.prompt_logprobs is not None and scores is not None:
            found["prompt_logprobs"] = prompt_logprobs(scores, self._job.texts)
        return found

    def _usage(self) -> Json:
        thought = sum(one.reasoning_tokens for one in self._samples)
        plain = [one.sample for one in self._samples]
        return usage(self._job.submissions, plain, reasoning_tokens=thought)

    def _chunk(
        self,
        index: int,
        delta: Json,
        prompt: Json | None = None,
        *,
        logprobs: Json | None = None,
        finish_reason: str | None = None,
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
        return frame(chunk | (prompt or {}))

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


def _call_deltas(parts: Iterable[NewPart], known: int, custom: bool) -> Iterator[Json]:
    """Yield what is new in calls, `known` of which have begun before: the name of a call once, then
    the text of its arguments, or of the input of a custom tool."""
    at, text = known - 1, ""
    kind, field = ("custom", "input") if custom else ("function", "arguments")
    for part in parts:
        if isinstance(part, CallText):
            text += part.text
        elif isinstance(part, CallBegin | CallEnd):
            if text:
                yield {"index": at, kind: {field: text}}
                text = ""
            if isinstance(part, CallBegin):
                at += 1
                begun = {"name": part.name, field: ""}
                yield {"index": at, "id": part.id, "type": kind, kind: begun}
    if text:
        yield {"index": at, kind: {field: text}}
