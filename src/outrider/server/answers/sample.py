"""One sample of an answer, as it grows."""

from dataclasses import dataclass, field

from outrider.decoding.generation import TokenLogprob
from outrider.engine.serving.messages import Ended, Event, Piece


@dataclass(slots=True, eq=False)
class Sample:
    """What one sample has written.

    Attributes:
        index: its number in the answer.
        text: its text.
        token_ids: its tokens.
        logprobs: per token, if they are wanted.
        ends: per token, the length of the text after it.
        sources: its text in pieces, with the tier that wrote each.
        prompt_logprobs: of the prompt, if they are wanted.
        ended: its end.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    ends: list[int] = field(default_factory=list[int])
    sources: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    ended: Ended | None = None

    def add(self, event: Event, with_stop: bool = False) -> str:
        """Add what the engine wrote; return the new text, `with_stop` and the stop string that
        ended it."""
        if isinstance(event, Piece):
            self.text += event.text
            self.token_ids += event.token_ids
            self.logprobs += event.logprobs
            self.ends += event.ends
            self.sources += event.spans
            if event.prompt_logprobs is not None:
                self.prompt_logprobs = event.prompt_logprobs
            return event.text
        self.ended = event
        fresh = event.stop if with_stop and isinstance(event.stop, str) else ""
        self.text += fresh
        return fresh

    @property
    def finish_reason(self) -> str:
        """`stop` or `length`."""
        result = self.ended.result if self.ended is not None else None
        return "length" if result is not None and result.finish_reason == "length" else "stop"
