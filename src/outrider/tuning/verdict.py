"""The verdict: does drafting pay here? On prompts that no arm was chosen by.

The fastest of many arms looks faster than it is, since it was chosen by the same noise. So its
speed is measured again, on other prompts. The result is looked at after 8, 16, 32 and 64 pairs, and
each look gets a quarter of the error that is allowed: looking often with plain intervals would
claim a gain far too often.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import log
from statistics import fmean

from outrider.strategy import profile
from outrider.tuning.intervals import Speedup
from outrider.tuning.race import Write, compared, never

LOOKS = (8, 16, 32, 64)
"""Pairs after which the result is looked at."""
ERROR = 0.05
"""Chance of all looks together that an interval misses; half of it on each side."""
LEAST = 1.03
"""Speedup over plain decoding from which drafting is worth its memory."""
NEAR = log(1.02)
"""The runner-up replaces the winner if it is simpler and at most this much slower."""
CLASS_LEAST = 0.97
"""A class of prompts whose upper bound is below decodes without drafts."""
_CLASS_PAIRS = 4


class Answer(StrEnum):
    """What a verdict says, as profiles name it."""

    DRAFT = profile.DRAFT
    PLAIN = profile.PLAIN
    UNDECIDED = profile.UNDECIDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict about the winner of a race.

    Attributes:
        answer: whether to draft.
        arm: the arm that it is about: the winner, or the simpler runner-up.
        speedup: speedup of the arm with the interval of the last look, at its part of the error.
        speedups: for each arm that was measured, the speedup with its plain 95 % interval.
        logs: for each arm, the mean `log_ratio` of each prompt.
        look: number of the last look, from 1; 0: none.
        classes: for each class of prompts with at least four, the speedup of the arm.
    """

    answer: Answer
    arm: str
    speedup: Speedup | None
    speedups: Mapping[str, Speedup]
    logs: Mapping[str, Sequence[float]]
    look: int
    classes: Mapping[str, Speedup]

    @property
    def slower_classes(self) -> list[str]:
        """Classes in which drafting is certainly slower, although it pays on the whole."""
        return [name for name, found in self.classes.items() if found.high < CLASS_LEAST]


@dataclass(slots=True, kw_only=True)
class Trial:
    """Measures the winner of a race, its runner-up and plain decoding on fresh prompts.

    Attributes:
        winner: the fastest arm of the race.
        runner_up: the next one; None: there is none.
        plain: name of plain decoding.
        prompts: the class of each prompt; prompts come again, once all are used.
        write: writes one text.
        simpler: whether the runner-up is simpler than the winner: it needs less memory.
        ended: whether to stop before the next pair.
        looks: pairs after which the result is looked at.
    """

    winner: str
    runner_up: str | None
    plain: str
    prompts: Sequence[str]
    write: Write
    simpler: bool = False
    ended: Callable[[], bool] = never
    looks: Sequence[int] = LOOKS
    _logs: dict[str, dict[int, list[float]]] = field(default_factory=dict)

    def run(self) -> Verdict:
        """Write texts until the question is decided, the looks are used up or the time is."""
        pairs = 0
        for look, until in enumerate(self.looks, start=1):
            while pairs < until and not self.ended():
                self._write(pairs)
                pairs += 1
            verdict = self._judge(look if pairs else 0)
            if verdict.answer is not Answer.UNDECIDED or pairs < until:
                return verdict
        return self._judge(len(self.looks))

    def _write(self, pair: int) -> None:
        prompts = len(self.prompts)
        found = compared(self.write, self.plain, self._arms, pair, prompts)
        for name, ratio in found.items():
            self._logs.setdefault(name, {}).setdefault(pair % prompts, []).append(ratio)

    @property
    def _arms(self) -> list[str]:
        return [self.winner, *([] if self.runner_up is None else [self.runner_up])]

    def _means(self, arm: str) -> dict[int, float]:
        """Return the mean of each prompt: texts of one prompt are no independent pairs."""
        return {prompt: fmean(logs) for prompt, logs in self._logs.get(arm, {}).items()}

    def _judge(self, look: int) -> Verdict:
        error = ERROR / len(self.looks)
        found = Speedup.of([*self._means(self.winner).values()], error)
        arm, answer = self.winner, _answer(found)
        if answer is Answer.DRAFT and self.runner_up is not None and self.simpler:
            other = Speedup.of([*self._means(self.runner_up).values()], error)
            if other is not None and _answer(other) is Answer.DRAFT and self._as_fast:
                arm, found = self.runner_up, other
        every = {name: [*self._means(name).values()] for name in self._arms}
        return Verdict(
            answer=answer,
            arm=arm,
            speedup=found,
            speedups={n: own for n, logs in every.items() if (own := Speedup.of(logs)) is not None},
            logs=every,
            look=look,
            classes=self._classes(arm),
        )

    @property
    def _as_fast(self) -> bool:
        """Whether the runner-up is at most 2 % slower than the winner."""
        winner, other = self._means(self.winner), self._means(self.runner_up or self.winner)
        return fmean(winner[prompt] - other[prompt] for prompt in winner) <= NEAR

    def _classes(self, arm: str) -> dict[str, Speedup]:
        means = self._means(arm)
        found: dict[str, Speedup] = {}
        for name in dict.fromkeys(self.prompts):
            own = [means[i] for i, each in enumerate(self.prompts) if each == name and i in means]
            speedup = Speedup.of(own)
            if speedup is not None and len(own) >= _CLASS_PAIRS:
                found[name] = speedup
        return found


def _answer(found: Speedup | None) -> Answer:
    if found is not None and found.low > LEAST:
        return Answer.DRAFT
    if found is not None and found.high < LEAST:
        return Answer.PLAIN
    return Answer.UNDECIDED
