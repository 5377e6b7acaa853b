"""Momentum decoding: greedy, but a token that repeats earlier text pays for the length of the run.

The text is a path over the tokens seen so far. A token that leads back to a place where the path
has been meets a resistance, which grows with the number of tokens in a row that are repeated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock

import torch
from jaxtyping import Float, Int
from torch import Tensor

from outrider.core.checks import Range, check_ranges, shown
from outrider.core.errors import OptionError, nearest
from outrider.core.types import Exactness
from outrider.protocols.method import Method, Paper
from outrider.sampling import Sampler
from outrider.search.candidate import Candidate
from outrider.search.segments import Passages
from outrider.search.steps.repeats import Repeats
from outrider.search.task import Search, Task

INFINITE = float("inf")
RESISTANCES: dict[str, tuple[float, ...]] = {
    "linear": (1.0, 2.0, 3.0, 4.0, 5.0),
    "blocking": (0.0, 0.0, 0.0, 5.0, INFINITE),
    "late": (0.0, 1.0, 2.0, 3.0, 4.0),
    "logarithmic": tuple(math.log(1 + r) for r in range(1, 6)),
    "exponential": (1.0, 2.0, 4.0, 8.0, 16.0),
    "constant": (1.0, 1.0, 1.0, 1.0, 1.0),
}
"""Resistance of a repeated run of 1, 2, ... tokens, by name; longer runs have the last one.

`linear` is that of the authors for GPT-2 XL, `blocking` the default of their code, `late` that of
their Chinese model; the formulas of the others are our choice.
"""

_RANGES = {
    "alpha": Range(0.0, below=True, hint="Give a weight of 0 or more"),
    "top_k": Range(1, whole=True, hint="Give at least 1 candidate"),
}


_LARGEST = 1_000_000
"""Of the numbers of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Momentum(Search):
    """Takes the token with the largest `p - alpha * f(r)` of the most probable ones: `p` is its
    probability, `r` the length of the longest run of earlier tokens, in the prompt or the text,
    that the text would repeat with it. The score is the mean log-probability of a token, or 0 for
    a text that a limit has ended.

    Attributes:
        alpha: weight of the resistance `f`; 0 is greedy decoding.
        top_k: candidates of a step.
        resistance: name of `f`, a key of `RESISTANCES`.
        table: `f` of 1, 2, ... tokens as whole numbers, -1 for infinite; None: by name.
    """

    alpha: float = 0.2
    top_k: int = 5
    resistance: str = "linear"
    table: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if self.resistance not in RESISTANCES:
            hint = nearest(self.resistance, RESISTANCES)
            raise OptionError(f"resistance is {self.resistance!r}", hint=hint)
        given = (0,) if self.table is None else self.table or (-2,)
        if not all(-1 <= cost <= _LARGEST for cost in given):
            raise OptionError(
                f"table is {shown(self.table)}",
                hint=f"Give numbers from 0 to {_LARGEST}, or -1 for infinite",
            )

    @property
    def costs(self) -> tuple[float, ...]:
        """What repeated runs of 1, 2, ... tokens cost, with their weight."""
        named = RESISTANCES[self.resistance]
        if self.table is not None:
            named = tuple(INFINITE if cost < 0 else float(cost) for cost in self.table)
        return tuple(self.alpha * cost if self.alpha else 0.0 for cost in named)

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the text."""
        written: list[int] = []

        def note(new: Sequence[int]) -> None:
            written[:] = new

        def unfinished() -> list[Candidate]:
            return [task.candidate(written, 0.0, finish="unfinished")] if written else []

        task.partial = unfinished
        passages = Passages(
            stage=task.stage,
            request=replace(task.request, sampler=self._sampler(task.sampler)),
            records=task.records,
            account=task.account,
        )
        [passage] = passages.write([task.root], [0], most=task.most, until=note, greedy=True)
        mean = passage.logprob / max(len(passage.tokens), 1)
        return [task.candidate(passage.tokens, mean, logprob=passage.logprob)]

    def _sampler(self, base: Sampler) -> Sampler:
        """Return the sampler with the resistance as the last of its logits processors."""
        processor = Resistance(costs=self.costs, top_k=self.top_k)
        processors = (*base.params.logits_processors, processor)
        params = replace(base.params, seed=base.seed, logits_processors=processors)
        return Sampler(params, prompt_ids=base.prompt_ids, end_ids=tuple(base.end_ids))


class Resistance:
    """A logits processor that keeps the most probable tokens, with their probability less what
    they cost. It may be called for drafted texts in any order, and from several threads."""

    pure = True

    def __init__(self, *, costs: Sequence[float], top_k: int) -> None:
        """Begin without any text.

        Args:
            costs: of repeated runs of 1, 2, ... tokens.
            top_k: candidates of a step.
        """
        self.costs = (0.0, *costs)
        self.top_k = top_k
        self.repeats = Repeats(len(costs))
        self._lock = Lock()

    def __call__(
        self, ids: Int[Tensor, "1 text"], scores: Float[Tensor, "1 vocab"]
    ) -> Float[Tensor, "1 vocab"]:
        """Return `p - cost` of the candidates, and -inf for all other tokens."""
        [row] = scores
        values, places = torch.topk(row, min(self.top_k, row.numel()))
        probs = (values.double() - torch.logsumexp(row, -1).double()).exp()
        with self._lock:
            self.repeats.follow(ids[0].tolist())
            costs = [self.costs[self.repeats.longest(token)] for token in places.tolist()]
            seen = self.repeats.tokens if min(costs) == INFINITE else ()
        kept = torch.full_like(row, -torch.inf, dtype=torch.float64)
        kept[places] = probs - torch.tensor(costs, dtype=torch.float64, device=row.device)
        kept[row == -torch.inf] = -torch.inf
        if not bool((kept > -torch.inf).any()):
            kept[_unblocked(row, seen)] = 0.0
        return kept[None]


def _unblocked(row: Float[Tensor, " vocab"], seen: Sequence[int]) -> int:
    """Return the most probable token that is not in the text yet; if there is none, the most
    probable one."""
    unseen = row.clone()
    unseen[list(seen)] = -torch.inf
    return int((unseen if bool((unseen > -torch.inf).any()) else row).argmax())


METHOD = Method(
    name="momentum",
    cls=Momentum,
    summary="greedy, but a token pays for the length of the earlier run that it would repeat",
    paper=Paper("Momentum Decoding", "2212.02175"),
    promise=Exactness.LOSSY,
    memory="the runs of up to 5 tokens of the text",
)
