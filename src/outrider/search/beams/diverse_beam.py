"""Diverse beam search: groups of beams, each of which avoids the tokens of those before it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.protocols.method import Method, Paper
from outrider.search.beams.core import (
    RANGES,
    Beams,
    check_returned,
    check_stopping,
    length_normalised,
    run_groups,
)
from outrider.search.candidate import Candidate
from outrider.search.task import Search, Task

_RANGES = {
    **RANGES,
    "num_groups": Range(1, whole=True, hint="Give at least 1 group"),
    "strength": Range(0.0, 1e6, hint="Give 0 or more"),
}


@dataclass(frozen=True, slots=True)
class GroupPenalty:
    """A penalty for tokens that earlier groups took at the same step.

    Attributes:
        strength: subtracted from the log-probability of a token, for each time it was taken.
        taken: the tokens, each as often as it was taken.
    """

    strength: float
    taken: Sequence[int]

    def __call__(self, scores: Float[Tensor, "beams vocab"]) -> Float[Tensor, "beams vocab"]:
        """Return the scores with the penalty."""
        counts = Counter(self.taken)
        if not counts:
            return scores
        changed = scores.clone()
        ids = torch.tensor(list(counts), device=scores.device)
        changed[:, ids] -= self.strength * scores.new_tensor(list(counts.values()))
        return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class DiverseBeam(Search):
    """Divides the beams into groups. Each step, a group searches as `beam` does, after `strength`
    was subtracted from the log-probability of a token for each time that an earlier group took it
    at this step. The first group is a beam search of its own.

    The score of a text is the sum with these penalties, divided by its length to the power of
    `length_penalty`. A candidate says in `about` its `group` and this sum (`ranked`), beside the
    log-probability without any penalty. Groups may write the same text. A group after whose beams
    no token is allowed ends with the texts that it has finished, if any, and the others go on; if
    no group has a finished text, it is an error, as in `beam`.

    Attributes:
        num_beams: branches of all groups together.
        num_groups: groups; it must divide `num_beams`.
        strength: the penalty; 0 makes all groups equal.
        length_penalty: see `beam`.
        early_stopping: see `beam`; each group stops on its own.
        num_return_sequences: texts that are returned; None: `num_beams`.
        by_logprob: whether to order the texts by their log-probability without penalties.
    """

    num_beams: int = 10
    num_groups: int = 5
    strength: float = 0.5
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int | None = None
    by_logprob: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        check_stopping(self.early_stopping)
        check_returned(self.num_return_sequences, self.num_beams)
        if self.num_beams % self.num_groups:
            raise OptionError(
                f"num_beams is {self.num_beams}, which {self.num_groups} groups do not divide",
                hint="Give a multiple of num_groups",
            )

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the finished texts of all groups, the best first."""
        groups = [
            Beams(
                task=task,
                width=self.num_beams // self.num_groups,
                length_penalty=self.length_penalty,
                early_stopping=self.early_stopping,
                most=task.most,
            )
            for _ in range(self.num_groups)
        ]
        task.partial = lambda: self._found(groups)
        run_groups(groups, task, lambda number: self._penalty(groups[:number]))
        return self._found(groups)

    def _penalty(self, earlier: Sequence[Beams]) -> GroupPenalty:
        return GroupPenalty(self.strength, [token for group in earlier for token in group.taken])

    def _found(self, groups: Sequence[Beams]) -> list[Candidate]:
        found: list[Candidate] = []
        for number, group in enumerate(groups):
            for one in group.found():
                total = one.logprob if self.by_logprob else one.ranked
                score = length_normalised(total, len(one.tokens), self.length_penalty)
                found.append(group.candidate(one, score, group=number))
        found.sort(key=lambda one: -one.score)
        return found[: self.num_return_sequences]


METHOD = Method(
    name="diverse-beam",
    cls=DiverseBeam,
    summary="beams in groups, each of which avoids the tokens of the groups before it",
    paper=Paper(
        "Diverse Beam Search: Decoding Diverse Solutions from Neural Sequence Models", "1610.02424"
    ),
    promise=Exactness.LOSSY,
    memory="a row for each token of a branch; the prompt is stored once",
)
