"""DeAL: beam search that also judges what greedy decoding would write after each token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.protocols.method import Method, Paper
from outrider.search.beams.core import Beam, Beams, check_ended
from outrider.search.beams.rewarded import Segments, Worth, candidates_of
from outrider.search.candidate import Candidate
from outrider.search.steps.lookahead import Ahead, look_ahead
from outrider.search.task import Search, Task
from outrider.search.tree import TokenTree

RANGES = {
    "weight": Range(0.0, below=True, hint="Give a finite weight of at least 0"),
    "num_beams": Range(1, whole=True, hint="Give at least 1 beam"),
    "branches": Range(1, whole=True, optional=True, hint="Give at least 1 branch"),
    "lookahead": Range(0, whole=True, hint="Give 0 or more tokens"),
}
KEEP = ("token", "segment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal(Search):
    """Orders the continuations of all beams by their log-probability plus `weight` times the reward
    that the scorer gives to the text with the next `lookahead` greedy tokens.

    Rewards are judged on texts that may be unfinished, so the scorer must make sense of them. With
    `weight` 0 it is beam search, and nothing is judged. The score of a result is its
    log-probability plus the weighted reward, divided by its length to the power of
    `length_penalty`; `about` holds the reward.

    Attributes:
        weight: of the reward.
        num_beams: beams that run on.
        branches: tokens of each beam that are compared; None: `num_beams`. An end token among the
            best of a beam is compared as well, and not continued.
        lookahead: most tokens that are written before the reward is judged.
        keep: `token` keeps one token of a branch; `segment` keeps all that was written, which costs
            about `lookahead` times less.
        standardise: whether rewards are divided by their standard deviation among the continuations
            of a step, after their mean is subtracted.
        length_penalty: as in beam search.

    Raises:
        OptionError: an option is out of range.
    """

    weight: float = 1.0
    num_beams: int = 5
    branches: int | None = None
    lookahead: int = 32
    keep: str = "token"
    standardise: bool = True
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        if self.keep not in KEEP:
            raise OptionError(f"keep is {self.keep!r:.60}", hint=f"Give one of {', '.join(KEEP)}")

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the finished texts, the best first."""
        branches = self.branches or self.num_beams
        worth = Worth(
            weight=self.weight, standardise=self.standardise, length_penalty=self.length_penalty
        )
        if self.keep == "segment":
            length = max(self.lookahead, 1)
            return Segments(task, task.tree(), worth, self.num_beams, branches, length).run()
        beams = Beams(
            task=task,
            width=self.num_beams,
            length_penalty=self.length_penalty,
            most=task.most,
        )
        return _Tokens(task, task.tree(), beams, worth, branches, self.lookahead).run()


@dataclass(frozen=True, slots=True)
class _Continued:
    """A candidate of a step.

    Attributes:
        ahead: its look-ahead.
        ranked: what its branch is ordered by without the reward.
    """

    ahead: Ahead
    ranked: float


@dataclass(slots=True)
class _Tokens:
    """The form that keeps a token of each branch.

    Attributes:
        task: the prompt.
        tree: all branches.
        beams: the running ones.
        worth: what they are ordered by.
        branches: tokens of each beam that are compared.
        length: most tokens of a look-ahead.
        newest: the candidates of the newest step, by `id` of the beam and token.
        rewards: of texts that may be finished.
    """

    task: Task
    tree: TokenTree
    beams: Beams
    worth: Worth
    branches: int
    length: int
    newest: dict[tuple[int, int], _Continued] = field(
        default_factory=dict[tuple[int, int], _Continued]
    )
    rewards: dict[tuple[int, ...], float] = field(default_factory=dict[tuple[int, ...], float])

    def run(self) -> Sequence[Candidate]:
        """Write until no beam can improve the finished texts."""
        beams = self.beams
        self.task.partial = self._unjudged
        logits = self.tree.first()[None]
        beams.running = [Beam(self.tree.root)]
        while True:
            beams.choose(logits, self._judged)
            if not beams.steps:
                check_ended([beams])
                return self._results()
            found = [self.newest[id(step.beam), step.token] for step in beams.steps]
            beams.steps = [  # rewards do not add up over steps
                replace(step, ranked=one.ranked)
                for step, one in zip(beams.steps, found, strict=True)
            ]
            ahead = [one.ahead for one in found]
            if ahead[0].nodes:
                nodes = [one.nodes[0] for one in ahead]
                logits = torch.stack([one.rows[0] for one in ahead])
            else:
                nodes, logits = self.tree.extend([(one.parent, one.tokens[0]) for one in ahead])
            beams.advance(nodes)
            self.tree.keep(nodes)

    def _judged(self, ranked: Float[Tensor, "beams vocab"]) -> Float[Tensor, "beams vocab"]:
        """Look ahead, and return what the candidates are ordered by, with their weighted rewards;
        all other tokens have -inf."""
        running, weight = self.beams.running, self.worth.weight
        places = [
            (number, token)
            for number, row in enumerate(ranked)
            for token in candidates_of(row, self.branches, self.task.end_ids)
        ]
        steps = [(running[number].node, token) for number, token in places]
        found = look_ahead(self.task, self.tree, steps, self.length if weight else 0)
        extra = [0.0] * len(found)
        if weight and found:
            texts = [(*one.parent.tokens, *one.tokens) for one in found]
            rewards = self.task.score(texts)
            for text, one, reward in zip(texts, found, rewards, strict=True):
                if len(one.tokens) == 1:
                    self.rewards[text] = reward
            extra = self.worth.extra(rewards)
            if max(extra) == -math.inf:  # rewards that refuse everything choose nothing
                extra = [0.0] * len(found)
        own = torch.full_like(ranked, -torch.inf)
        self.newest = {}
        for (number, token), one, more in zip(places, found, extra, strict=True):
            beam = running[number]
            own[number, token] = ranked[number, token] + more
            plain = beam.ranked + float(ranked[number, token])
            self.newest[id(beam), token] = _Continued(one, plain)
        return own

    def _unjudged(self) -> list[Candidate]:
        return [self.beams.candidate(one) for one in self.beams.found()]

    def _results(self) -> list[Candidate]:
        """Return the finished texts, ordered by their own rewards, which are comparable."""
        found = self._unjudged()
        if not self.worth.weight:
            return found
        missing = [one.token_ids for one in found if one.token_ids not in self.rewards]
        if missing:
            self.rewards |= dict(zip(missing, self.task.score(missing), strict=True))
        return self.worth.ranked(found, [self.rewards[one.token_ids] for one in found])


METHOD = Method(
    name="deal",
    cls=Deal,
    summary="beam search that judges what greedy decoding writes after each token",
    paper=Paper("DeAL", "2402.06147"),
    promise=Exactness.LOSSY,
    needs="a scorer",
    memory="a row for each token of the beams and of the continuations compared",
)
