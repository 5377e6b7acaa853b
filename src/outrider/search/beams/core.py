"""One step of beam search, shared by all strategies that keep the best few branches.

It follows `transformers`: of all continuations of the running beams, the best `2 * width` are
looked at (more if there are several end tokens). Those among the first `width` that end are
finished texts; the best others run on. Bias, penalties and bans are applied to log-probabilities,
which are not normalised afterwards; with one beam they are applied to logits, as in greedy
decoding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range
from outrider.core.errors import LogitsError, OptionError
from outrider.sampling import NOTHING_ALLOWED
from outrider.search.candidate import Candidate
from outrider.search.task import Task
from outrider.search.tree import Node

Penalty = Callable[[Float[Tensor, "beams vocab"]], Float[Tensor, "beams vocab"]]
"""Changes what continuations are ordered by; the log-probability of a beam stays that of the model.
"""

RANGES = {
    "num_beams": Range(1, whole=True, hint="Give at least 1 beam"),
    "length_penalty": Range(-10.0, 10.0),
    "num_return_sequences": Range(1, whole=True, optional=True, hint="Give at least 1 text"),
}
"""Of the options that all beam searches have."""


def check_stopping(early_stopping: bool | str) -> None:
    """Raise `OptionError` unless it is true, false or `never`."""
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise OptionError(
            f"early_stopping is {early_stopping!r:.60}", hint="Give true, false or never"
        )


def check_returned(texts: int | None, beams: int) -> None:
    """Raise `OptionError` if more texts are to be returned than there are beams."""
    if texts is not None and texts > beams:
        raise OptionError(
            f"num_return_sequences is {texts}, above num_beams {beams}",
            hint="Lower it, or raise num_beams",
        )


def length_normalised(total: float, length: int, penalty: float) -> float:
    """Divide a sum over a text by its length to the power of `penalty`."""
    return total / length**penalty


@dataclass(slots=True)
class Beam:
    """A branch that the model has read.

    Attributes:
        node: its last token.
        logprob: sum of its log-probabilities under the model.
        ranked: sum of what its tokens were ordered by; equal to `logprob` without any penalty.
        row: its row in the newest logits.
    """

    node: Node
    logprob: float = 0.0
    ranked: float = 0.0
    row: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A branch with one more token, which the model has not read yet.

    Attributes:
        beam: the branch.
        token: the token.
        logprob: log-probability of the branch with it, under the model.
        ranked: what it is ordered by.
    """

    beam: Beam
    token: int
    logprob: float
    ranked: float

    @property
    def length(self) -> int:
        """Tokens of the text."""
        return self.beam.node.depth + 1

    @property
    def tokens(self) -> tuple[int, ...]:
        """The text."""
        return (*self.beam.node.tokens, self.token)


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished text.

    Attributes:
        tokens: its tokens, the end token included if it has one.
        logprob: sum of its log-probabilities under the model.
        ranked: what it was ordered by, before the length penalty.
        score: the same, divided by its length to the power of the length penalty.
        running: whether it is a branch that could have run on.
    """

    tokens: tuple[int, ...]
    logprob: float
    ranked: float
    score: float
    running: bool = False


@dataclass(slots=True, kw_only=True)
class Beams:
    """The running beams of one group, and its finished texts.

    Attributes:
        task: the prompt.
        width: beams that run.
        length_penalty: exponent of the length by which sums are divided.
        early_stopping: true: stop at `width` finished texts. Otherwise when the best running beam
            would not be better than the worst of them: with its present length, or, for `never`
            with a positive length penalty, with the greatest length.
        most: most tokens of a text.
        running: beams that the model has read, the best first.
        steps: continuations of them that run on, the best first; none when the group is done.
        ended: finished texts, the best first; at most `width`.
        taken: tokens of the best `width` continuations of the newest step, which may end a text.
    """

    task: Task
    width: int
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    most: int
    running: list[Beam] = field(default_factory=list[Beam])
    steps: list[Step] = field(default_factory=list[Step])
    ended: list[Ended] = field(default_factory=list[Ended])
    taken: list[int] = field(default_factory=list[int])

    def choose(self, logits: Float[Tensor, "rows vocab"], penalty: Penalty | None = None) -> None:
        """Choose the continuations of the running beams: add those that end to `ended`, and fill
        `steps`. There are no steps at the greatest length, where `ended` cannot be improved, and
        where nothing is allowed after any beam (`check_ended`).

        Args:
            logits: the newest logits; each beam has its row in them.
            penalty: changes what continuations are ordered by; None: nothing.

        Raises:
            LogitsError: logits are NaN or +inf.
        """
        if not self.running:
            self.steps, self.taken = [], []
            return
        rows = logits[[beam.row for beam in self.running]]
        rows = rows if rows.dtype == torch.float64 else rows.float()
        logprobs = torch.log_softmax(rows, -1)
        texts = [beam.node.tokens for beam in self.running]
        if self.width == 1:  # as in greedy decoding, what is penalised are the logits
            own = self._allowed(rows[0], texts[0])
            ranked = (torch.log_softmax(own, -1) if own.max() > -torch.inf else own)[None]
        else:
            ranked = torch.stack([self._allowed(*one) for one in zip(logprobs, texts, strict=True)])
        if penalty is not None:
            ranked = penalty(ranked)  # it may end the search, which then returns the steps before
        self.steps, self.taken = [], []
        for rank, step in enumerate(self._best(logprobs, ranked)):
            if rank < self.width:
                self.taken.append(step.token)
            if step.length >= self.most or step.token in self.task.end_ids:
                if rank < self.width:
                    self._finish(step)
            elif len(self.steps) < self.width:
                self.steps.append(step)
        if self._complete():
            self.steps = []

    def _allowed(
        self, row: Float[Tensor, " vocab"], text: tuple[int, ...]
    ) -> Float[Tensor, " vocab"]:
        """Apply bias, penalties and bans; -inf for all tokens if none is allowed."""
        try:
            return self.task.sampler.process(row, text)
        except LogitsError as error:
            if error.problem != NOTHING_ALLOWED:
                raise
            return torch.full_like(row, -torch.inf)  # other beams and groups may run on

    def _best(
        self, logprobs: Float[Tensor, "beams vocab"], ranked: Float[Tensor, "beams vocab"]
    ) -> list[Step]:
        """Return the best continuations of the running beams, the best first."""
        before = ranked.new_tensor([beam.ranked for beam in self.running])
        sums = (ranked + before[:, None]).flatten()
        count = min(max(2, 1 + len(self.task.end_ids)) * self.width, sums.numel())
        values, places = torch.topk(sums, count)
        own, vocab = logprobs.flatten()[places].tolist(), ranked.shape[1]
        found: list[Step] = []
        for value, place, logprob in zip(values.tolist(), places.tolist(), own, strict=True):
            if value == float("-inf"):
                break
            beam = self.running[place // vocab]
            found.append(Step(beam, place % vocab, beam.logprob + logprob, value))
        return found

    def advance(self, nodes: Sequence[Node], row: int = 0) -> None:
        """Let the model's rows for `steps` be the running beams: `nodes` are their new nodes, whose
        logits begin at `row`."""
        self.running = [
            Beam(node, step.logprob, step.ranked, row + i)
            for i, (node, step) in enumerate(zip(nodes, self.steps, strict=True))
        ]

    def _finish(self, step: Step) -> None:
        score = self._score(step.ranked, step.length)
        self.ended.append(Ended(step.tokens, step.logprob, step.ranked, score))
        self.ended.sort(key=lambda one: -one.score)
        del self.ended[self.width :]

    def _score(self, total: float, length: int) -> float:
        return length_normalised(total, length, self.length_penalty)

    def _complete(self) -> bool:
        """Whether nothing that runs on would improve the finished texts."""
        if not self.steps or len(self.ended) < self.width:
            return False
        if self.early_stopping is True or self.width == 1:  # one beam is greedy decoding
            return True
        longest = self.early_stopping == "never" and self.length_penalty > 0
        best = self.steps[0]
        bound = self._score(best.ranked, self.most if longest else best.length)
        return self.ended[-1].score >= bound

    def found(self) -> list[Ended]:
        """Return the finished texts, the best first; if there are too few, as in a search that was
        stopped, those that run on too."""
        found = list(self.ended)
        for step in self.steps[: self.width - len(found)]:
            score = self._score(step.ranked, step.length)
            found.append(Ended(step.tokens, step.logprob, step.ranked, score, running=True))
        return sorted(found, key=lambda one: -one.score)

    def candidate(self, one: Ended, score: float | None = None, **about: int) -> Candidate:
        """Return a text as a result, with its own score or with another one."""
        return self.task.candidate(
            one.tokens,
            one.score if score is None else score,
            logprob=one.logprob,
            finish="unfinished" if one.running else None,
            ranked=one.ranked,
            **about,
        )


def check_ended(groups: Sequence[Beams]) -> None:
    """Raise `LogitsError` if groups that are done have no finished text: nothing was allowed after
    any of their beams."""
    if not any(group.ended for group in groups):
        raise LogitsError(NOTHING_ALLOWED)


def run_groups(
    groups: Sequence[Beams], task: Task, penalty: Callable[[int], Penalty | None] = lambda _: None
) -> None:
    """Run groups of beams until all are done, with one forward a step for all of them.

    A group after whose beams nothing is allowed is done, with the texts that it has finished.

    Args:
        groups: the groups; none has begun.
        task: the prompt.
        penalty: number of a group -> its penalty at this step. It is called after the groups before
            it have chosen.

    Raises:
        SearchStoppedError: a limit is reached.
        LogitsError: the logits of the model cannot be used, or no group has a finished text.
    """
    tree = task.tree()
    logits = tree.first()[None]
    for group in groups:  # several equal beams would write the same texts
        group.running = [Beam(tree.root)]
    while True:
        for number, group in enumerate(groups):
            group.choose(logits, penalty(number))
        steps = [step for group in groups for step in group.steps]
        if not steps:
            return check_ended(groups)
        nodes, logits = tree.extend([(step.beam.node, step.token) for step in steps])
        row = 0
        for group in groups:
            end = row + len(group.steps)
            group.advance(nodes[row:end], row)
            row = end
        tree.keep(nodes)
