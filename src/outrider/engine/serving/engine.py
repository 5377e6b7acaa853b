"""The engine of a server: one thread that owns models, caches and texts, and runs steps.

A step takes new requests, admits what the scheduler chooses, reads parts of prompts and writes one
round of every running sample, in one forward, and publishes what became final. Samples join and
leave between steps. With an exact mode, the text of a sample is that of its single run, whatever
else is served: rows of a forward do not depend on each other, and a token depends on its logits,
the seed and its index only.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from time import perf_counter

from outrider.core.errors import OutriderError, in_short
from outrider.core.types import FinishReason
from outrider.decoding import Learned, SequenceState
from outrider.decoding.generation import Generation
from outrider.drafters import NoDrafter
from outrider.engine.generator import Generator
from outrider.engine.serving.drafting import Drafting, with_costs
from outrider.engine.serving.messages import EngineState, Event, Submission
from outrider.engine.serving.prefixes import Prefixes, forked
from outrider.engine.serving.sample import Sample, generation_of, refused
from outrider.engine.serving.scheduler import Entry, Phase, Scheduler, slots_of
from outrider.engine.serving.scoring import score_prompt
from outrider.engine.serving.settings import ServingSettings
from outrider.engine.serving.totals import Totals
from outrider.models.costs import measure_surface
from outrider.policies.surface import CostSurface
from outrider.protocols import Learner

log = logging.getLogger("outrider.serving")

_IDLE = 1.0
"""Seconds after which an engine without work shows that it lives."""

_MOMENT = 0.02
"""Seconds for which the learner works before the engine looks for requests."""

Publish = Callable[[Sequence[Event]], None]


class Engine:
    """Runs requests that arrive at any time. `submit`, `cancel` and `state` may be called from any
    thread."""

    def __init__(
        self,
        generator: Generator,
        settings: ServingSettings | None = None,
        *,
        publish: Publish,
        costs: CostSurface | None = None,
        learner: Learner | None = None,
    ) -> None:
        """Prepare the engine; `start` begins its thread.

        Args:
            generator: the models, tokenizer and strategy.
            settings: how requests share the engine.
            publish: called once for each step, on the engine's thread, with what became final.
            costs: the seconds of forwards of the target; None measures them, in about a second.
            learner: learns from rounds, while there is nothing to serve; None: that of the
                strategy.
        """
        self.generator = generator
        self.settings = settings or ServingSettings()
        strategy = generator.strategy
        strategy = replace(strategy, learner=learner or strategy.learner)
        costs = measure_surface(strategy.target) if costs is None else costs
        self._strategy = with_costs(strategy, costs)
        self._publish = publish
        self._inbox: SimpleQueue[Submission | str] = SimpleQueue()
        self._guard = generator.guard_of(self._strategy)
        self._session = self._strategy.session(self._guard)
        self._in_parts = strategy.target.info.reads_in_parts
        self._scheduler = Scheduler(limits=self.settings.limits(generator))
        self._prefixes = Prefixes(most=self.settings.prefixes)
        self._drafting = Drafting.of(self._strategy, costs, self.settings.step_ms / 1000.0)
        self._learner = strategy.learner
        self._samples: dict[str, Sample] = {}
        self._learned: Learned | None = None
        self._events: list[Event] = []
        masks = generator.restrictions.mask_times
        self._totals = Totals(masks=masks, learner=self._learner, guard=self._guard)
        self._stopping: str | None = None
        self._thread: threading.Thread | None = None
        self._state = self._totals.state(self._scheduler, self._prefixes)

    # -- for other threads ------------------------------------------------------------------

    def start(self) -> None:
        """Begin the thread."""
        self._thread = threading.Thread(target=self._run, name="outrider-engine", daemon=True)
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Put a request into the queue."""
        self._inbox.put(submission)

    def cancel(self, id: str) -> None:
        """End a request before the next step, whatever it is doing."""
        self._inbox.put(id)

    def stop(self, message: str = "the server is shutting down", timeout: float = 30.0) -> None:
        """End all requests and the thread."""
        self._stopping = message
        self._inbox.put("")
        if self._thread is not None:
            self._thread.join(timeout)

    @property
    def state(self) -> EngineState:
        """A snapshot after the newest step."""
        return self._state

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def capacity_for(self, tokens: int) -> bool:
        """Whether a request of `tokens`, prompt and answer, can run when it is alone."""
        return slots_of(tokens) <= self._scheduler.limits.slots

    # -- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        dead = ""
        try:
            while self._stopping is None:
                if not self._samples and not self._learn():
                    self._wait()
                self.step()
        except BaseException as error:  # whatever ends the thread, its clients must be told
            dead = in_short(error)
            log.exception("the engine thread ended")
        finally:
            self._receive()
            failure = "engine_error" if dead else "draining"
            for sample in list(self._samples.values()):
                self._end(sample, failure, dead or self._stopping or "")
            if self._learner is not None:
                self._learner.close()
            self._state = replace(self._state, dead=dead or "stopped")
            self._send()

    def _wait(self) -> None:
        """Wait for a message, or until it is time to show that the thread lives."""
        with suppress(Empty):
            self._take(self._inbox.get(timeout=_IDLE))

    def _learn(self) -> bool:
        """Let the learner work for a moment; return whether it has more to do."""
        return self._learner is not None and self._learner.work(_MOMENT)

    def step(self) -> None:
        """Run one step. Without a thread, a caller may run steps itself."""
        begun = perf_counter()
        self._receive()
        self._expire(begun)
        self._admit(begun)
        self._write()
        self._fit()
        self._totals.stepped(perf_counter() - begun)
        self._state = self._totals.state(self._scheduler, self._prefixes)
        self._send()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._samples) or not self._inbox.empty()

    def _send(self) -> None:
        events, self._events = self._events, []
        if events:
            self._publish(events)

    # -- messages ---------------------------------------------------------------------------

    def _receive(self) -> None:
        while True:
            try:
                message = self._inbox.get_nowait()
            except Empty:
                return
            self._take(message)

    def _take(self, message: Submission | str) -> None:
        if isinstance(message, str):
            for sample in self._of(message):
                self._end(sample, "")
            return
        leader: Sample | None = None
        for index in range(message.n):
            try:
                generation = generation_of(self.generator, message, index)
            except OutriderError as error:  # of this request: others are served
                self._events.append(refused(message, index, str(error)))
                continue
            sample = Sample(message, index, generation, leader)
            leader = leader or sample
            self._samples[sample.key] = sample
            self._scheduler.add(
                Entry(
                    key=sample.key,
                    principal=message.principal,
                    prompt=message.places or len(message.prompt),
                    most=message.params.max_new_tokens,
                    arrived=message.received,
                    level=message.priority,
                    after=None if sample.leader is None else sample.leader.key,
                    resumable=self._in_parts(sample.submission.prompt),
                )
            )

    def _of(self, id: str) -> list[Sample]:
        return [sample for sample in self._samples.values() if sample.submission.id == id]

    def _expire(self, now: float) -> None:
        for sample in list(self._samples.values()):
            submission = sample.submission
            if sample.began is None and _past(submission.begin_by, now):
                self._end(sample, "queue_timeout", "the request waited too long")
            elif sample.first is None and _past(submission.first_token_by, now):
                self._end(sample, "deadline", "no token was written in time")
            elif _past(submission.finish_by, now):
                self._end(sample, "request_timeout", "the answer took too long")

    # -- joining and leaving ----------------------------------------------------------------

    def _admit(self, now: float) -> None:
        """Begin what the scheduler chooses; prefixes give up the slots that this needs."""
        scheduler = self._scheduler
        while (chosen := scheduler.next(now, scheduler.limits.slots - scheduler.slots)) is not None:
            for key in chosen.preempted:
                self._preempt(self._samples[key])
            self._begin(self._samples[chosen.key])
            self._prefixes.shrink(max(scheduler.limits.slots - scheduler.slots, 0))

    def _begin(self, sample: Sample) -> None:
        """Let a sample join the session: its prompt is read in parts, or continued."""
        if sample.began is None:
            sample.began = perf_counter()
        chunk = 0 if self._in_parts(sample.submission.prompt) else None
        try:
            previous, known = self._previous(sample) if chunk is not None else (None, 0)
            self._session.add([sample.generation], [previous or self._learned], chunk=chunk)
        except OutriderError as error:  # of this request: others are served
            self._end(sample, "invalid_request", str(error))
            return
        if not sample.preemptions:
            sample.cached = known
        unread = self._session.unread(sample.generation)
        self._scheduler.admitted(sample.key, unread)

    def _previous(self, sample: Sample) -> tuple[SequenceState | None, int]:
        """Return a sequence that has read the beginning of a text, and how much of it."""
        submission, ids = sample.submission, sample.text_ids
        if submission.score_prompt is not None and sample.index == 0 and not sample.preemptions:
            scores, cache = score_prompt(self._session.stage.model, ids, submission.score_prompt)
            sample.prompt_logprobs = scores
            return SequenceState(sample.generation.request, cache, None), 0
        leader = sample.leader
        if leader is not None and leader.generation.running and not sample.preemptions:
            sequence = leader.generation.sequence
            if sequence is not None:
                return forked(sequence), len(submission.prompt) - 1
        return self._prefixes.take(submission.salt, ids)

    def _preempt(self, sample: Sample) -> None:
        """Take the place of a sample; its rows stay as a prefix as long as there is memory."""
        sequence = sample.generation.sequence
        self._session.preempt(sample.generation)
        if sequence is not None:
            self._prefixes.put(sample.submission.salt, sequence)
        sample.preemptions += 1
        self._totals.count(preemptions=1)
        self._scheduler.preempted(sample.key)

    def _end(self, sample: Sample, failure: str, message: str = "") -> None:
        """End a sample: it is finished, its client left, or the engine gives it up."""
        generation, phase = sample.generation, self._scheduler.entries[sample.key].phase
        if generation.finish is None:
            generation.cancel()
        _ = generation.running  # the property handles the cancellation
        sequence = generation.sequence
        result = self.generator.result(generation, self._strategy)
        if (piece := sample.piece()) is not None:
            self._events.append(piece)
        self._events.append(sample.ended(phase, result, failure or _failure(generation), message))
        self._totals.ended(sample, generation)
        if sequence is not None:
            self._learned = Learned(generation.counters)
            if self._learner is not None and not failure:
                self._learner.note(generation.request)
        self._session.release(generation)
        reusable = generation.error is None and self._in_parts(generation.request.prompt)
        if sequence is not None and reusable:
            self._prefixes.put(sample.submission.salt, sequence)
        self._scheduler.ended(sample.key)
        del self._samples[sample.key]

    # -- a round ----------------------------------------------------------------------------

    def _write(self) -> None:
        """Run one round, and publish what it wrote."""
        session, scheduler = self._session, self._scheduler
        reading = {
            e.key: self._samples[e.key] for e in scheduler.running if e.phase is Phase.READING
        }
        known = {id(sample.generation): sample for sample in self._samples.values()}
        writing = [known[id(g)] for g in session.generations]
        share = scheduler.limits.newcomer_share if scheduler.newcomer is not None else 0.0
        reads = reading or self._drafting.models
        budget = self._drafting.rows_for_reading(writing, share) if reads else 0
        kept = int(budget * self._drafting.share) if writing else 0  # for draft models
        shares = scheduler.rows(budget - kept)
        for key, rows in shares.items():
            session.pace(reading[key].generation, rows)
        active = [known[id(g)] for g in session.generations]
        if not active and not reading:
            return
        depths = self._drafting.depths(active, sum(shares.values()))
        begun = perf_counter()
        try:
            session.step(depths, budget - sum(shares.values()))
        except Exception as error:
            self._recover(error)
            return
        if active:
            self._drafting.note(active, sum(shares.values()), perf_counter() - begun, session)
        for key, sample in reading.items():
            left = session.unread(sample.generation)
            self._totals.count(prompt_tokens=scheduler.entries[key].unread - left)
            scheduler.read(key, left)
        if active:
            self._totals.round(session)
        for sample in active:
            self._deliver(sample)

    def _deliver(self, sample: Sample) -> None:
        """Publish what a sample wrote in this round, and its end."""
        generation = sample.generation
        written = len(generation.output) - sample.sent
        self._scheduler.wrote(sample.key, written)
        self._totals.count(generation_tokens=written)
        if generation.finish is not None:
            self._end(sample, "")
        elif (piece := sample.piece()) is not None:
            self._events.append(piece)

    def _fit(self) -> None:
        """Give up prefixes, then caches of draft models, then places, if caches have outgrown their
        slots."""
        scheduler = self._scheduler
        slots = scheduler.limits.slots
        self._prefixes.shrink(max(slots - scheduler.slots, 0))
        for key in scheduler.to_thin(scheduler.slots - slots):
            self._samples[key].drafts = False
            self._session.forget_drafts(self._samples[key].generation)
            scheduler.thinned(key)
            self._totals.count(thinned=1)
        for key in scheduler.to_preempt(scheduler.slots - slots):
            self._preempt(self._samples[key])
        self._prefixes.shrink(max(slots - scheduler.slots, 0))

    def _recover(self, error: Exception) -> None:
        """Go on without drafts after an error in a round: caches may be half written, so that all
        texts are read again. Raise if nothing was drafted."""
        if isinstance(self._session.stage.drafter, NoDrafter) or self._drafting.off:
            raise error
        log.exception("a round failed; drafting is off from now on")
        for entry in self._scheduler.running:
            sample = self._samples[entry.key]
            if not entry.resumable and sample.generation.output:
                reason = "a round failed, and this text cannot be read again"
                self._end(sample, "engine_error", reason)
                continue
            sample.preemptions += 1
            self._session.preempt(sample.generation)
            self._scheduler.preempted(sample.key)
        self._strategy = replace(self._strategy, drafter=NoDrafter())
        self._session = self._strategy.session()
        self._prefixes.shrink(0)
        self._drafting.off = True
        self._totals.off = in_short(error)


def _past(limit: float | None, now: float) -> bool:
    return limit is not None and now > limit


def _failure(generation: Generation) -> str:
    return "engine_error" if generation.finish is FinishReason.ERROR else ""
