"""The answer to a request for text completions."""

from codecs import getincrementaldecoder
from collections.abc import Iterable
from typing import Any

from outrider.engine.serving.messages import Event, Piece
from outrider.server.answers.job import Job
from outrider.server.answers.logprobs import completion_logprobs, prompt_logprobs
from outrider.server.answers.sample import Sample
from outrider.server.answers.usage import figures, usage
from outrider.server.answers.writer import Json
from outrider.server.errors import ApiError
from outrider.server.schema.completions import CompletionBody
from outrider.server.sse import DONE, frame


class CompletionWriter:
    """Builds the answer of `/v1/completions`."""

    def __init__(self, job: Job[CompletionBody]) -> None:
        self._job, body = job, job.body
        self._samples = [Sample(i) for i in range(job.n * len(job.submissions))]
        self._echoes = [
            given if isinstance(given, str) else job.tokenizer.decode_all(given)
            for given in body.prompts
        ]
        self._echo, self._silent = bool(body.echo), body.limit == 0
        self._with_stop = bool(body.include_stop_str_in_output)
        self._begun: set[int] = set()

    def take(self, event: Event) -> None:
        """Add what the engine wrote."""
        self._samples[event.index].add(event, self._with_stop)

    def answer(self) -> Json:
        """Return the whole answer."""
        job, samples = self._job, self._samples
        return {
            **job.head("text_completion"),
            "choices": [self._choice(sample) for sample in samples],
            "usage": self._usage(),
            **figures(job.submissions, samples),
        }

    def frames(self, event: Event) -> Iterable[bytes]:
        """Add what the engine wrote; yield the frames that show it."""
        sample = self._samples[event.index]
        first = event.index not in self._begun
        self._begun.add(event.index)
        known_tokens, known_text = len(sample.token_ids), len(sample.text)
        text = sample.add(event, self._with_stop)
        piece = isinstance(event, Piece)
        shown = "" if self._silent else text
        choice: Json = {"index": event.index, "text": shown, "logprobs": None}
        if first and self._echo:
            choice["text"] = self._echoes[event.index // self._job.n] + shown
        if self._job.body.logprobs is not None and piece:
            choice["logprobs"] = self._logprobs(sample, known_tokens, prompt=first)
        if self._job.body.return_token_ids:
            choice["token_ids"] = [] if self._silent else sample.token_ids[known_tokens:]
            if first:
                choice["prompt_token_ids"] = list(self._prompt_ids(sample))
        if first and piece:
            choice |= self._prompt_logprobs(sample)
        if self._job.body.return_sources and piece:
            choice["sources"] = [] if self._silent else [list(span) for span in event.spans]
        choice["finish_reason"] = None if piece else sample.finish_reason
        if not piece:
            choice["stop_reason"] = event.stop
        told = any(map(choice.get, ("text", "logprobs", "token_ids", "prompt_logprobs")))
        told = told or not piece
        if told or len(sample.text) > known_text:
            yield frame(self._chunk([choice]))

    def last(self) -> Iterable[bytes]:
        """Yield the frames that end the stream."""
        if self._job.body.include_usage:
            more = figures(self._job.submissions, self._samples)
            yield frame({**self._chunk([]), "usage": self._usage(), **more})
        yield DONE

    def broken(self, error: ApiError) -> Iterable[bytes]:
        """Yield the frames that end the stream after an error."""
        yield frame(error.body())
        yield DONE

    def _usage(self) -> Json:
        return usage(self._job.submissions, self._samples, written=not self._silent)

    def _chunk(self, choices: list[Json]) -> Json:
        head = self._job.head("text_completion")
        return (
            head | {"choices": choices} | ({"usage": None} if self._job.body.include_usage else {})
        )

    def _choice(self, sample: Sample) -> Json:
        body = self._job.body
        text = "" if self._silent else sample.text
        choice: dict[str, Any] = {
            "index": sample.index,
            "text": (self._echoes[sample.index // self._job.n] if self._echo else "") + text,
            "logprobs": None,
            "finish_reason": sample.finish_reason,
            "stop_reason": sample.ended.stop if sample.ended is not None else None,
        }
        if body.logprobs is not None:
            choice["logprobs"] = self._logprobs(sample, 0, prompt=True)
        choice |= self._prompt_logprobs(sample)
        if body.return_token_ids:
            choice["token_ids"] = [] if self._silent else sample.token_ids
            choice["prompt_token_ids"] = list(self._prompt_ids(sample))
        if body.return_sources:
            choice["sources"] = [] if self._silent else [list(span) for span in sample.sources]
        return choice

    def _prompt_logprobs(self, sample: Sample) -> Json:
        """Return the field with the log-probabilities of the prompt, if they are wanted."""
        found = sample.prompt_logprobs
        if self._job.body.prompt_logprobs is None or found is None:
            return {}
        return {"prompt_logprobs": prompt_logprobs(found, self._job.texts)}

    def _logprobs(self, sample: Sample, start: int, *, prompt: bool) -> Json:
        """Return log-probabilities of the tokens from `start`, after those of an echoed prompt."""
        texts, top = self._job.texts, self._job.body.logprobs or 0
        tokens: list[int] = [] if self._silent else sample.token_ids[start:]
        found = [] if self._silent else [*sample.logprobs[start:]]
        shift = 0
        head_tokens: list[int] = []
        head_found: list[Any] = []
        offsets: list[int] = []
        if self._echo:
            echo = self._echoes[sample.index // self._job.n]
            shift = len(echo)
            if prompt and sample.prompt_logprobs is not None:
                head = self._prompt_ids(sample)
                head_tokens, head_found = list(head), list(sample.prompt_logprobs)
                offsets = [0, *self._prompt_ends(head, echo)[:-1]]
        begins = [0, *sample.ends][start : start + len(tokens)]
        offsets += [shift + begin for begin in begins]
        return completion_logprobs(
            [*head_found, *found], [*head_tokens, *tokens], offsets, top, texts
        )

    def _prompt_ids(self, sample: Sample) -> tuple[int, ...]:
        return self._job.submissions[sample.index // self._job.n].prompt.token_ids

    def _prompt_ends(self, ids: tuple[int, ...], echo: str) -> list[int]:
        """Return the length of the echoed text after each token of the prompt. Opening tokens that
        the tokenizer added (such as BOS) are not part of it."""
        texts, opening = self._job.texts, self._job.tokenizer.opening_ids
        added = b"".join(map(texts.bytes_of, opening)).decode("utf-8", "replace")
        skipped = 0 if not opening or echo.startswith(added) else len(opening)
        ends: list[int] = []
        read, decoder = 0, getincrementaldecoder("utf-8")("ignore")
        for at, token in enumerate(ids):
            read += 0 if at < skipped else len(decoder.decode(texts.bytes_of(token)))
            ends.append(min(read, len(echo)))
        return ends
