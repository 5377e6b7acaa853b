"""A request that runs on one replica after another."""

from dataclasses import dataclass, field, replace
from time import perf_counter

from outrider.core.types import Prompt
from outrider.engine.serving.messages import Ended, Submission
from outrider.server.replicas.places import Place
from outrider.server.replicas.transcript import Transcript


@dataclass(slots=True, eq=False)
class Request:
    """A request that has not ended.

    Attributes:
        submission: as it was given.
        transcript: what was delivered.
        attempt: number of replicas that failed.
        avoid: their names.
        place: where it runs.
        cancelled: the client left.
    """

    submission: Submission
    transcript: Transcript
    attempt: int = 0
    avoid: set[str] = field(default_factory=set[str])
    place: Place | None = None
    cancelled: bool = False

    @property
    def name(self) -> str:
        """Its identifier at the replica, which differs between attempts."""
        return f"{self.submission.id}.{self.attempt}" if self.attempt else self.submission.id

    def sent(self) -> Submission:
        """Return what the replica is asked for. A client that has tokens does not wait for the
        first one."""
        prompt = without_decoder(self.submission.prompt)
        sent = replace(self.submission, id=self.name, prompt=prompt)
        if self.transcript.begun:
            return replace(sent, begin_by=None, first_token_by=None)
        return sent

    def until(self, latest: float) -> float:
        """Return `latest`, or the first of its limits."""
        sent = self.sent()
        limits = (sent.finish_by, sent.begin_by, sent.first_token_by)
        return min(latest, *(latest if limit is None else limit for limit in limits))

    def too_late(self) -> str:
        """Return the failure of a request that has found no replica."""
        now, sent = perf_counter(), self.sent()
        if now > (sent.finish_by or now):
            return "request_timeout"
        if now > (sent.begin_by or now):
            return "queue_timeout"
        return "deadline" if now > (sent.first_token_by or now) else "engine_error"


def without_decoder(prompt: Prompt) -> Prompt:
    """Return a prompt for another process, which has a tokenizer of its own."""
    if prompt.context is None:
        return prompt
    return replace(prompt, context=replace(prompt.context, decode=None))


def may_run_elsewhere(end: Ended) -> bool:
    """Whether the replica, and not the request, is the cause of an end."""
    own_fault = end.result is not None and end.result.finish_reason == "error"
    return end.failure in ("draining", "engine_error") and not own_fault
