r"""A*-Decoding: best-first search over partial solutions, whose steps a scorer judges.

A state is a text of whole steps. Its reward r lies between 0 and 1, its heuristic is h = 1 - r. The
state with the smallest f = g + h is continued by several sampled steps, and the first finished text
that would be continued is the result.

g sums the costs of the steps. With `cost="fall"`, a step costs what h falls by: then f is the sum
of all losses of reward on the way, starting from 1, and never falls. With `cost="rise"`, a step
costs what h rises by, so that a loss counts in g and in h; f may then fall again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from outrider.core.checks import Range, check_ranges, shown
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.core.values import JsonValue
from outrider.protocols.method import Method, Paper
from outrider.search.candidate import Candidate
from outrider.search.scorers.scorer import ScorerError
from outrider.search.segments import Branch, Passage
from outrider.search.task import Search, Task
from outrider.search.trees.frontier import Frontier, Key
from outrider.search.trees.steps import StepEnd, unescaped

COSTS = ("fall", "rise")
_SLACK = 1e-9
"""How far a reward may lie outside 0 and 1 by rounding."""
_RANGES = {
    "children": Range(1, whole=True, hint="Give at least 1 step"),
    "step_tokens": Range(1, whole=True, hint="Give at least 1 token"),
    "most_steps": Range(1, whole=True, hint="Give at least 1 step"),
    "nodes": Range(1, whole=True, hint="Give at least 1 state"),
    "width": Range(1, whole=True, hint="Give at least 1 state"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A text of whole steps.

    Attributes:
        output: its tokens.
        reward: r; 1 for the empty text, in which nothing is wrong yet.
        spent: g, the costs of its steps.
        steps: number of its steps.
        logprob: sum of the log-probabilities of its tokens.
        finish: `stop` for a finished text, `length` at the limit of tokens, else `unfinished`.
        sample: number of the sample that its newest step belongs to.
    """

    output: tuple[int, ...] = ()
    reward: float = 1.0
    spent: float = 0.0
    steps: int = 0
    logprob: float = 0.0
    finish: str = "unfinished"
    sample: int = 0

    @property
    def total(self) -> float:
        """The sum f = g + h."""
        return self.spent + 1.0 - self.reward

    @property
    def key(self) -> Key:
        """The order of the queue: smallest f, then largest reward, then most steps. Sums that
        differ only by rounding are equal."""
        return (round(self.total, 9), -round(self.reward, 9), -self.steps)


@dataclass(slots=True, kw_only=True)
class Found:
    """All states that were made.

    Attributes:
        task: the prompt.
        states: the states.
        popped: f of the states that were taken from the queue, in this order.
    """

    task: Task
    states: list[State] = field(default_factory=list[State])
    popped: list[float] = field(default_factory=list[float])

    def candidates(self) -> list[Candidate]:
        """Return the finished texts in the order of the queue; without any, all states in the order
        of their rewards, the longer of equal ones first."""
        ended = [state for state in self.states if state.finish == "stop"]
        if ended:
            ended.sort(key=lambda state: state.key)
            return [self._candidate(state, -round(state.total, 9)) for state in ended]
        others = sorted(self.states, key=lambda state: (-round(state.reward, 9), -state.steps))
        return [self._candidate(state, round(state.reward, 9)) for state in others]

    def _candidate(self, state: State, score: float) -> Candidate:
        return self.task.candidate(
            state.output,
            score,
            logprob=state.logprob,
            finish=state.finish,
            f=state.total,
            reward=state.reward,
            steps=state.steps,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AStar(Search):
    r"""Continues the partial text with the smallest f, by `children` sampled steps at once.

    The scorer judges partial texts and returns numbers from 0 to 1, as process reward models do.
    The score of a finished text is -f. Where the budget ends before any text is finished, the
    states are returned in the order of their rewards, which are then the scores.

    The cache of each state that waits counts as its own in `Limits.rows`.

    Attributes:
        children: steps that are sampled after a state; equal ones count once.
        delimiter: the text that ends a step; `\n` stands for a line break.
        step_tokens: most tokens of a step.
        most_steps: most steps of a text.
        nodes: the budget: most states that are made, each of which is judged once.
        width: most states that wait; the worst ones beyond are dropped.
        cost: what a step costs: `fall`, what h falls by (f never falls), or `rise`, what h rises
            by.
    """

    children: int = 4
    delimiter: str = r"\n\n"
    step_tokens: int = 512
    most_steps: int = 40
    nodes: int = 64
    width: int = 64
    cost: str = "fall"

    sampling: ClassVar[Mapping[str, JsonValue]] = {"temperature": 0.8}

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if self.cost not in COSTS:
            raise OptionError(f"cost is {shown(self.cost)}", hint=f"Give {' or '.join(COSTS)}")
        if not self.delimiter:
            raise OptionError("delimiter is empty", hint=r"Give a text such as \n\n")

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the finished texts, the one with the smallest f first."""
        found = self.explored(task)
        return found.candidates()

    def explored(self, task: Task) -> Found:
        """Search; return all states.

        Raises:
            ScorerError: the scorer failed, or a reward is no number from 0 to 1.
            SearchStoppedError: a limit is reached.
            OptionError: there is no scorer or no tokenizer.
        """
        task.need_codec("a-star")
        found = Found(task=task)
        task.partial = found.candidates
        queue: Frontier[tuple[State, Branch]] = Frontier(self.width)
        queue.add((State(), task.root), State().key)
        samples = 1
        while len(queue):
            state, branch = queue.take()
            found.popped.append(state.total)
            count = min(self.children, self.nodes - len(found.states))
            if state.finish == "stop" or count < 1:
                break
            if state.finish == "length" or state.steps >= self.most_steps:
                continue
            numbers = [state.sample, *range(samples, samples + count - 1)]
            samples += count - 1
            for child, after in self._continued(task, state, branch, numbers):
                found.states.append(child)
                queue.add((child, after), child.key)
            task.account.hold(sum(len(one.cache.text) for _, one in queue))
        return found

    def _continued(
        self, task: Task, state: State, branch: Branch, numbers: Sequence[int]
    ) -> list[tuple[State, Branch]]:
        """Return the judged states after sampled steps. The first step belongs to the same sample
        as the one before it, so a path of first steps is an ordinary sample."""
        passages = task.passages.write(
            [branch] * len(numbers),
            numbers,
            most=min(self.step_tokens, task.most - len(state.output)),
            until=StepEnd(task.text, unescaped(self.delimiter)),
        )
        distinct: dict[tuple[str, bool], tuple[int, Passage]] = {}
        for number, one in zip(numbers, passages, strict=True):
            distinct.setdefault((task.text(one.tokens), one.finish == "stop"), (number, one))
        steps = list(distinct.values())
        rewards = checked(task, task.score([passage.branch.output for _, passage in steps]))
        return [
            (self._child(task, state, passage, reward, number), passage.branch)
            for (number, passage), reward in zip(steps, rewards, strict=True)
        ]

    def _child(
        self, task: Task, state: State, passage: Passage, reward: float, number: int
    ) -> State:
        rise = state.reward - reward  # of h
        output = passage.branch.output
        at_limit = "length" if len(output) >= task.most else "unfinished"
        return State(
            output=output,
            reward=reward,
            spent=state.spent + max(0.0, -rise if self.cost == "fall" else rise),
            steps=state.steps + 1,
            logprob=state.logprob + passage.logprob,
            finish="stop" if passage.finish == "stop" else at_limit,
            sample=number,
        )


def checked(task: Task, rewards: Sequence[float]) -> list[float]:
    """Return rewards between 0 and 1. Raises `ScorerError` if one lies outside."""
    for reward in rewards:
        if not -_SLACK <= reward <= 1.0 + _SLACK:
            name = "" if task.scorer is None else task.scorer.name
            raise ScorerError(
                f"the scorer {name} returned {reward:g}", hint="a-star needs a number from 0 to 1"
            )
    return [min(max(reward, 0.0), 1.0) for reward in rewards]


METHOD = Method(
    name="a-star",
    cls=AStar,
    summary="best-first search over steps of a text, guided by a scorer of partial texts",
    paper=Paper("A*-Decoding", "2505.13672"),
    promise=Exactness.LOSSY,
    needs="a scorer of partial texts that returns numbers from 0 to 1",
    memory="a cache for each state that waits",
)
