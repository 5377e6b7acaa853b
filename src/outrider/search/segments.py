"""Passages that continue branches, written by the ordinary loop: drafts make them faster, and never
change them.

The noise of a passage depends on the seed, its sample number and the index of each token only. So a
passage is a function of its branch and its number, however it is written and with what others.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from outrider.core.types import as_ids
from outrider.decoding import Earlier, Generation, Session, Stage
from outrider.protocols import Cache, Request
from outrider.sampling import Sampler
from outrider.search.account import Account
from outrider.search.listing import Best, Listing
from outrider.search.records import Kind, Records

Until = Callable[[Sequence[int]], int | None]
"""`tokens of a passage -> how many of them it has when it ends there`; None: it goes on. The same
number must result for any longer list."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The beginning of a text, with the cache that has read it.

    Attributes:
        cache: the cache of the target; it is shared, and never written.
        output: tokens after the prompt.
    """

    cache: Cache
    output: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Passage:
    """What continues a branch.

    Attributes:
        tokens: its tokens.
        logprobs: the log-probability of each under the model, before temperature and warps.
        finish: `stop` at the end of the text, `length` at its limit, `until` where the condition of
            the passage was met, `cut` where others were enough.
        branch: the branch after the passage.
        best: for each token, the most probable tokens in its place, if they were asked for.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str
    branch: Branch
    best: tuple[Best, ...] = ()

    @property
    def logprob(self) -> float:
        """Sum of the log-probabilities."""
        return sum(self.logprobs)

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability of a token; 0 without any."""
        return self.logprob / max(len(self.tokens), 1)


@dataclass(slots=True, kw_only=True)
class Passages:
    """Writes passages.

    Attributes:
        stage: the target with its drafter.
        request: the prompt and settings.
        records: what earlier passages have shown about drafts; these are added.
        account: counts rounds and tokens.
        drafted: tokens that were drafted.
        so_far: returns the passages of the last `write` as they are, for a search that is stopped.
    """

    stage: Stage
    request: Request
    records: Records
    account: Account
    drafted: int = 0
    so_far: Callable[[], list[Passage]] = list

    def write(
        self,
        branches: Sequence[Branch],
        samples: Sequence[int],
        *,
        most: int | Sequence[int],
        until: Until | None = None,
        greedy: bool = False,
        top: int = 0,
        enough: Callable[[Sequence[Passage]], bool] | None = None,
        shortest: int | None = None,
    ) -> list[Passage]:
        """Write one passage after each branch, all of them in the same forwards.

        Args:
            branches: where the passages begin.
            samples: the number of each passage, which decides its noise.
            most: most tokens of a passage, or of each.
            until: where a passage ends.
            greedy: whether to take the best token instead of sampling.
            top: how many of the most probable tokens are listed in the place of each token.
            enough: called with the passages that have ended, after each round; where it returns
                true, the others end with finish `cut`.
            shortest: how many passages that end with `stop` are wanted. All others end with finish
                `cut` at the length of the longest of these: with drafts, passages of one round
                differ in length, and this makes the result independent of them.

        Returns:
            The passages, in the order of the branches.

        Raises:
            SearchStoppedError: a limit is reached.
            LogitsError: the logits of the target cannot be used.
        """
        limits = [most] * len(branches) if isinstance(most, int) else list(most)
        self.account.hold(sum(len(branch.cache.text) for branch in branches))
        sampled = not greedy and self.request.sampler.params.temperature > 0.0
        kind = Kind.of(sampled, len(branches))
        session = Session(self.stage, self.records.guard(kind))
        before = self.records.before(kind)
        runs = [
            self._begin(session, branch, sample, limit, greedy, top, before)
            for branch, sample, limit in zip(branches, samples, limits, strict=True)
        ]
        ended: dict[int, Passage] = {}
        waiting = {i for i, run in enumerate(runs) if limits[i] > 0 and run.running}

        def passages() -> list[Passage]:
            return [ended.get(i) or self._cut(run, branches[i]) for i, run in enumerate(runs)]

        self.so_far = passages
        for i in set(range(len(runs))) - waiting:
            ended[i] = Passage((), (), "length", branches[i])
        while waiting:
            self.account.check()
            self._step(session)
            rows = sum(len(run.request.prompt) + len(run.output) for run in runs)
            self.account.hold(rows)
            for i in sorted(waiting):
                passage = self._ended(runs[i], branches[i], until)
                if passage is not None:
                    ended[i] = passage
                    session.release(runs[i])
                    waiting.discard(i)
            if enough is not None and enough([ended[i] for i in sorted(ended)]):
                break
            bound = _bound(ended.values(), shortest)
            for i in sorted(waiting):
                if bound is not None and len(runs[i].output) - len(branches[i].output) >= bound:
                    ended[i] = self._passage(runs[i], branches[i], bound, "cut")
                    session.release(runs[i])
                    waiting.discard(i)
        self.records.note(kind, runs)
        bound = _bound(ended.values(), shortest)
        found = passages()
        if bound is not None:
            found = [_shortened(passage, bound) for passage in found]
        self.so_far = lambda: found
        return found

    def _begin(
        self,
        session: Session,
        branch: Branch,
        sample: int,
        most: int,
        greedy: bool,
        top: int,
        before: Earlier | None,
    ) -> Generation:
        base = self.request.sampler
        longest = len(branch.output) + max(most, 1)
        params = replace(
            base.params,
            max_new_tokens=longest,
            min_new_tokens=min(base.params.min_new_tokens, longest),
            logprobs=0,
            seed=base.seed,
            **({"temperature": 0.0} if greedy else {}),
        )
        sampler = Sampler(
            params,
            prompt_ids=base.prompt_ids,
            end_ids=() if params.ignore_eos else tuple(base.end_ids),
            sample=sample,
        )
        request = Request(self.request.prompt, sampler, list(branch.output))
        generation = Listing(request, top=top) if top else Generation(request)
        self.account.tokens += max(len(branch.cache.pending) - 1, 0)  # read with the first token
        session.adopt(generation, branch.cache.fork(), before)
        return generation

    def _step(self, session: Session) -> None:
        count = len(session.generations)
        session.step()
        self.account.forward(count + session.drafted)
        self.drafted += session.drafted

    def _ended(self, run: Generation, branch: Branch, until: Until | None) -> Passage | None:
        """Return the passage if it has ended."""
        if run.error is not None:
            raise run.error
        new = run.output[len(branch.output) :]
        stop = None if until is None else until(new)
        if stop is not None and stop <= len(new):
            at_end = stop == len(new) and str(run.finish) == "stop"
            return self._passage(run, branch, stop, "stop" if at_end else "until")
        if run.finish is None:
            return None
        return self._passage(run, branch, len(new), str(run.finish))

    def _cut(self, run: Generation, branch: Branch) -> Passage:
        return self._passage(run, branch, len(run.output) - len(branch.output), "cut")

    def _passage(self, run: Generation, branch: Branch, count: int, finish: str) -> Passage:
        begin = len(branch.output)
        output = tuple(run.output[: begin + count])
        cache = run.open_sequence.cache
        prompt = len(cache.text) - len(run.output)
        if len(output) < len(run.output):
            cache.truncate(prompt + len(output))
        logprobs = tuple(token.logprob for token in run.logprobs[:count])
        best = tuple(run.best[:count]) if isinstance(run, Listing) else ()
        return Passage(output[begin:], logprobs, finish, Branch(cache, output), best)


def _bound(ended: Iterable[Passage], shortest: int | None) -> int | None:
    """Return the length of the longest of the `shortest` passages; None if too few have ended."""
    lengths = sorted(len(passage.tokens) for passage in ended if passage.finish == "stop")
    return None if shortest is None or len(lengths) < shortest else lengths[shortest - 1]


def _shortened(passage: Passage, length: int) -> Passage:
    """Cut a passage that is longer."""
    drop = len(passage.tokens) - length
    if drop <= 0:
        return passage
    cache = passage.branch.cache.fork()
    cache.truncate(len(cache.text) - drop)
    return Passage(
        passage.tokens[:length],
        passage.logprobs[:length],
        "cut",
        Branch(cache, passage.branch.output[:-drop]),
    )


def branch_of(cache: Cache, output: Sequence[int] = ()) -> Branch:
    """Return the branch of a cache that has read the prompt, with tokens appended."""
    if output:
        cache = cache.fork()
        cache.commit(as_ids(output))
    return Branch(cache, tuple(int(token) for token in output))
