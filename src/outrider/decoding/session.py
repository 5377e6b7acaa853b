"""Sessions: requests join and leave between rounds. `generate` runs a session over a fixed list."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from outrider.core.errors import StrategyError
from outrider.core.reading import ReadingRows
from outrider.core.types import IntArray, Prompt, as_ids
from outrider.decoding.deferred import Deferred
from outrider.decoding.generation import Generation
from outrider.decoding.ledger import uncount
from outrider.decoding.opening import open_sequences, outermost, sequences_of
from outrider.decoding.round import run_round
from outrider.decoding.stage import Earlier, SequenceState, Stage
from outrider.decoding.validation import check_checker
from outrider.models.caches.prefill import check_prompt, start_known
from outrider.policies.guard import Guard
from outrider.protocols import Cache, Request


@dataclass(slots=True)
class _Reading:
    """A prompt that is read in parts.

    Attributes:
        generation: the request that joins once its prompt is read.
        cache: the cache of the part that is already read.
        left: ids that are not yet in the cache.
        chunk: the largest number of ids that are read in one round; with 0, none is read.
        begun: `perf_counter` when the request was added.
        previous: the sequence whose rows the cache continues, if there is one.
    """

    generation: Generation
    cache: Cache
    left: IntArray
    chunk: int
    begun: float
    previous: Earlier | None = None

    def advance(self) -> None:
        """Add the next part to the cache as pending tokens, so that the next forward reads it."""
        self.cache.commit(self.left[: self.chunk])
        self.left = self.left[self.chunk :]

    @property
    def nearly_done(self) -> bool:
        """Whether the next part is the last one."""
        return len(self.left) <= self.chunk


@dataclass(slots=True)
class Session:
    """Requests that share the rounds of one stage.

    A request leaves when it ends, when it is cancelled or preempted, or when the target's logits
    for it are unusable; the other requests continue. With `Match`, its text does not depend on the
    other requests, on how its prompt is read, or on preemption.

    Attributes:
        stage: the outermost level; its drafter begins when it first proposes.
        guard: decides which rounds may draft, and takes errors of the drafter; None: all may, and
            errors end the round.
        generations: requests whose prompt is read and that have not ended.
        seconds: of the parts of the newest round: `draft`, `verify` and `accept`.
        drafted: tokens that were drafted in the newest round.
        drafts_read: tokens of texts that the draft model read in the newest round, if that is
            limited.
        drafts_wait: whether a text was not drafted for in the newest round because the draft model
            has not read it yet.
    """

    stage: Stage
    guard: Guard | None = None
    generations: list[Generation] = field(default_factory=list)
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    drafted: int = 0
    drafts_read: int = 0
    drafts_wait: bool = False
    _reading: list[_Reading] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stage = outermost(self.stage, self.guard)

    @property
    def pending(self) -> bool:
        """Whether there is work for another round."""
        self.generations = [g for g in self.generations if g.running]
        self._reading = [r for r in self._reading if r.generation.running]
        return bool(self.generations or self._reading)

    def add(
        self,
        generations: Sequence[Generation],
        previous: Sequence[Earlier | None] | None = None,
        *,
        chunk: int | None = None,
    ) -> None:
        """Add requests; they join before the next round.

        Args:
            generations: new requests, or preempted ones, which continue from their text.
            previous: sequences of earlier requests whose state is reused.
            chunk: the largest number of prompt tokens that are read in one round, in the forward
                that the other requests share; None reads the prompts immediately, in a separate
                forward. Prompts that contain more than token ids are always read immediately.

        Raises:
            ContextError: a prompt does not fit. In this case no request joins.
            StrategyError: a request has a checker, which the rule cannot follow.
            ValueError: a request has ended, or is already in a session.
        """
        if any(g.finish is not None or g.sequence is not None for g in generations):
            raise ValueError("a Generation runs only once; create a new one")
        for generation in generations:
            check_checker(self.stage, generation.request)
        begun = perf_counter()
        for generation in generations:
            if not generation.output:
                generation.begun = begun
        in_parts = self.stage.model.info.reads_in_parts
        parts = [g for g in generations if chunk is not None and in_parts(g.request.prompt)]
        whole = [g for g in generations if not any(g is part for part in parts)]
        texts = [_with_output(g.request).token_ids for g in parts]
        for text in texts:
            check_prompt(self.stage.model, Prompt(token_ids=text))
        old = dict(zip(map(id, generations), previous or [], strict=False))
        self._open(whole, [old.get(id(g)) for g in whole])
        if chunk is not None:
            for generation, text in zip(parts, texts, strict=True):
                self._begin_reading(generation, text, chunk, begun, old.get(id(generation)))
        self._join_read()

    def pace(self, generation: Generation, chunk: int) -> None:
        """Set how many tokens of this request's prompt the next rounds read at most; 0 pauses.

        Raises:
            ValueError: its prompt is not being read.
        """
        [part] = [part for part in self._reading if part.generation is generation] or [None]
        if part is None:
            raise ValueError("the prompt of this request is not being read in parts")
        part.chunk = chunk
        self._join_read()

    def unread(self, generation: Generation) -> int:
        """Return the number of tokens of its prompt that no cache holds yet; 0 once it joined."""
        return sum(len(part.left) for part in self._reading if part.generation is generation)

    def step(
        self, depths: Sequence[int] | None = None, draft_rows: int | None = None
    ) -> list[Generation]:
        """Run one round of all requests; return the requests that advanced or ended.

        Args:
            depths: for each of `generations`, the largest depth of its draft; None sets no limit.
            draft_rows: the largest number of tokens of prompts, and of texts that were written
                without drafts, which the draft model reads in this round; None sets no limit.
        """
        self.drafts_read, self.drafts_wait = 0, False
        if not self.pending:
            return []
        active = list(self.generations)
        reading = [part for part in self._reading if part.chunk]
        for part in reading:
            part.advance()
        if not active:
            if reading:
                self._read_alone(reading)
            return []
        begun = perf_counter()
        sequences = [g.open_sequence for g in active]
        selects = any(sequence.cache.horizon == 0 for sequence in sequences)
        limits = [g.remaining - 1 for g in active]
        if depths is not None:
            limits = [min(pair) for pair in zip(limits, depths, strict=True)]
        apart = bool(reading or selects)  # from the rounds that the guard compares
        rows = None if draft_rows is None else ReadingRows(draft_rows)
        caches = [part.cache for part in reading]
        may_draft = self._asking(active, apart)
        result = run_round(self.stage, sequences, limits, caches, rows, may_draft)
        self.seconds, self.drafted = result.seconds, sum(map(len, result.drafts))
        if rows is not None and draft_rows is not None:
            self.drafts_read, self.drafts_wait = draft_rows - rows.left, rows.short
        kept = [
            generation.advance(verdict, rows)
            for generation, verdict, rows in zip(active, result.verdicts, result.rows, strict=True)
        ]
        for sequence, verdict, tokens in zip(sequences, result.verdicts, kept, strict=True):
            uncount(sequence.counters, verdict, len(tokens))
            sequence.cache.commit(tokens)
        self._drafter.commit([sequence.drafting for sequence in sequences], kept)
        self._drafter.settle([g.open_sequence.drafting for g in active if not g.running])
        if self.guard is not None and not (apart or result.forced):
            seconds = perf_counter() - begun - result.once
            self.guard.note(len(active), result.asked, seconds, sum(map(len, kept)))
        self._join_read()
        return active

    def adopt(self, generation: Generation, cache: Cache, previous: Earlier | None = None) -> None:
        """Add a request that continues a text: `cache` has read its prompt and its output.

        Args:
            generation: the request.
            cache: its cache.
            previous: an earlier request, from whose statistics the policy goes on.

        Raises:
            ContextError: the text leaves no space for another token.
        """
        begun = perf_counter()
        sequences = sequences_of(self.stage, [generation.request], [cache], [previous], begun)
        self._join([generation], sequences)

    def preempt(self, generation: Generation) -> None:
        """Remove a request and free its caches; `add` resumes it from its text.

        Raises:
            StrategyError: its prompt contains more than token ids, so it cannot be read together
                with the output.
        """
        in_parts = self.stage.model.info.reads_in_parts(generation.request.prompt)
        if generation.output and generation.running and not in_parts:
            raise StrategyError(
                "a request with images, embeddings, a long input or guidance by another prompt "
                "cannot be resumed from its text",
                hint="Wait until it ends, or cancel it",
            )
        self.release(generation)

    def release(self, generation: Generation) -> None:
        """Remove a request, running or ended, and give up its caches."""
        self.generations = [g for g in self.generations if g is not generation]
        self._reading = [r for r in self._reading if r.generation is not generation]
        generation.sequence = None
        generation.request.target_cache = None

    def forget_drafts(self, generation: Generation) -> None:
        """Free what the drafter stores for a request, such as caches of draft models. Before the
        next draft, it begins anew."""
        if generation.sequence is not None:
            self._drafter.forget(generation.sequence.drafting, as_ids(generation.output))

    def fork(self, generation: Generation, sample: int) -> Generation:
        """Create a request that continues the text of this one, with the noise of `sample`.

        The caches are shared until one of the two is written. The fork joins this session.

        Raises:
            ValueError: the request has ended, or its prompt is not read yet.
        """
        if generation.sequence is None or not generation.running:
            raise ValueError("only a running request can be forked")
        sequence = generation.sequence
        sampler = generation.request.sampler.for_sample(sample)
        request = Request(
            generation.request.prompt,
            sampler,
            list(generation.output),
            draft_prompt=generation.request.draft_prompt,
            prediction=generation.request.prediction,
            in_parts=generation.request.in_parts,
        )
        branch = generation.branch(request)
        [forked] = sequences_of(
            self.stage, [request], [sequence.cache.fork()], [None], perf_counter()
        )
        self._drafter.commit([forked.drafting], [as_ids(branch.output)])
        branch.open(forked, forked.counters, forked.cache.remaining)
        self.generations.append(branch)
        return branch

    def drop(self, generation: Generation) -> None:
        """End a branch that is no longer needed, and free its caches."""
        generation.cancel()
        _ = generation.running  # the property handles the cancellation
        self.release(generation)

    # -- reading prompts --------------------------------------------------------------------

    @property
    def _drafter(self) -> Deferred:
        drafter = self.stage.drafter
        assert isinstance(drafter, Deferred)
        return drafter

    def _asking(self, active: Sequence[Generation], apart: bool) -> Callable[[bool], bool] | None:
        """Return a function that asks the guard whether this round may draft; None without one.

        Args:
            active: requests of the round.
            apart: whether the round is not compared with others, whatever a grammar forces.
        """
        guard = self.guard
        if guard is None:
            return None

        def may_draft(forced: bool) -> bool:
            tokens = sum(len(g.request.prompt) + len(g.output) for g in active)
            context, measured = tokens / len(active), not (apart or forced)
            return guard.drafts(len(active), lambda: kind_of(active), measured, context)

        return may_draft

    def _open(self, generations: Sequence[Generation], previous: Sequence[Earlier | None]) -> None:
        """Read prompts immediately, including the output of resumed requests."""
        if not generations:
            return
        requests = [g.request for g in generations]
        prompts = [_with_output(request) for request in requests]
        self._join(generations, open_sequences(self.stage, requests, prompts, previous))

    def _join(self, generations: Sequence[Generation], sequences: Sequence[SequenceState]) -> None:
        """Assign sequences to requests; the output of a preempted request is committed to the
        drafter."""
        for generation, sequence in zip(generations, sequences, strict=True):
            if generation.output:
                sequence.counters = generation.counters
            generation.open(sequence, sequence.counters, sequence.cache.remaining)
        resumed = [g for g in generations if g.output]
        written = [as_ids(g.output) for g in resumed]
        self._drafter.commit([g.open_sequence.drafting for g in resumed], written)
        self.generations += generations

    def _begin_reading(
        self,
        generation: Generation,
        text: tuple[int, ...],
        chunk: int,
        begun: float,
        previous: Earlier | None,
    ) -> None:
        """Start a cache with what `previous` has read of the text."""
        cache, left = start_known(self.stage.model, text, previous and previous.cache)
        generation.request.in_parts = True
        self._reading.append(_Reading(generation, cache, left, chunk, begun, previous))

    def _read_alone(self, reading: Sequence[_Reading]) -> None:
        """Read the pending parts in a separate forward."""
        run_round(self.stage, [], [], [part.cache for part in reading])
        self._join_read()

    def _join_read(self) -> None:
        """Add requests whose last prompt part is pending in their cache: their first round reads
        it."""
        ready = [part for part in self._reading if part.nearly_done]
        self._reading = [part for part in self._reading if not part.nearly_done]
        for part in ready:
            if len(part.left):
                part.advance()
            own = part.generation.request
            sequences = sequences_of(self.stage, [own], [part.cache], [part.previous], part.begun)
            self._join([part.generation], sequences)


def generate(
    stage: Stage,
    generations: Sequence[Generation],
    previous: Sequence[Earlier | None] | None = None,
    guard: Guard | None = None,
) -> Iterator[list[Generation]]:
    """Run a session over a fixed list, as `run_session`."""
    yield from run_session(Session(stage, guard), generations, previous)


def run_session(
    session: Session,
    generations: Sequence[Generation],
    previous: Sequence[Earlier | None] | None = None,
) -> Iterator[list[Generation]]:
    """Run rounds of a new session until these requests have ended; yield those that advanced.

    Raises `ContextError` before any token is generated if a prompt does not fit. For a prompt with
    images, this is known only after it is read.
    """
    if any(g.request.output for g in generations):
        raise ValueError("a Generation runs only once; create a new one")
    session.add(generations, previous)
    while session.pending:
        yield session.step()


def kind_of(generations: Sequence[Generation]) -> str:
    """Return what kinds of requests these are, as far as acceptance may depend on it."""
    kinds: set[str] = set()
    for generation in generations:
        sampler, prompt = generation.request.sampler, generation.request.prompt
        kind = "sampled" if sampler.params.temperature else "greedy"
        kind += ", grammar" if sampler.walk is not None or sampler.checks is not None else ""
        kinds.add(kind + (", images" if prompt.image_prompt is not None else ""))
    return "; ".join(sorted(kinds))


def _with_output(request: Request) -> Prompt:
    """Return the prompt together with the tokens that were generated before the preemption."""
    if not request.output:
        return request.prompt
    return Prompt(token_ids=(*request.prompt.token_ids, *request.output))
