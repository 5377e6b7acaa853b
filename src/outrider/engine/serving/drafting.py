"""How much the engine drafts and reads in a step, by measured costs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from outrider.decoding import Session
from outrider.engine.serving.sample import Sample
from outrider.policies import ExpectedGain
from outrider.policies.goodput import Goodput
from outrider.policies.schedule import Schedule
from outrider.policies.surface import CostSurface, Forward
from outrider.strategy import Strategy
from outrider.strategy.description import lower_models

LEAST_ROWS, MOST_ROWS = 64, 512
"""Rows of prompts that a step reads at least, and at most."""
UNLIMITED = 1 << 20
"""A depth that limits no draft."""
_ASKING = 1e-4
"""Seconds that the policy takes for a sample that may draft."""
_WEIGHT = 0.1
"""Weight of the newest round in the smoothed seconds of drafting."""
_LATE_SHARE = 0.25
"""Share of the rows for reading that draft models get while a text waits for them."""
_SLOWER = 1.5
"""A step that reads may take this many times as long as one that only writes."""


@dataclass(slots=True, kw_only=True)
class Drafting:
    """The costs of forwards, and what follows from them.

    Attributes:
        surface: the seconds of forwards.
        policy: the policy of the strategy, if it knows the chances of its drafts.
        goodput: chooses depths for several samples; None if the strategy drafts fixed lengths.
        schedule: limits by the number of requests; a prompt that is read counts as one, since its
            rows share the forward.
        step: seconds that a step with reading may take.
        drafting: seconds of drafting in rounds that draft, smoothed.
        off: drafting has failed, and nothing is drafted any more.
        models: whether drafts are made by models, which have to read the texts.
        late: whether a draft model had to put off a text in the last step.
    """

    surface: CostSurface
    policy: ExpectedGain | None
    goodput: Goodput | None
    step: float
    schedule: Schedule = field(default_factory=Schedule)
    drafting: float = 0.0
    off: bool = False
    models: bool = False
    late: bool = False

    @classmethod
    def of(cls, strategy: Strategy, surface: CostSurface, step: float) -> "Drafting":
        """Return what the policy of a strategy allows (see `with_costs`)."""
        policy = strategy.policy if isinstance(strategy.policy, ExpectedGain) else None
        goodput = Goodput(surface=surface) if policy is not None and policy.sources else None
        models = bool(lower_models(strategy.drafter))
        return cls(
            surface=surface,
            policy=policy,
            goodput=goodput,
            step=step,
            schedule=strategy.stage.schedule,
            models=models,
        )

    def rows_for_reading(self, writing: Sequence[Sample], share: float = 0.0) -> int:
        """Return how many rows of prompts the next step reads.

        Args:
            writing: the samples that write in this step.
            share: share of the time of the step that reading may take in any case.
        """
        count = len(writing)
        forward = Forward(sequences=count + 1, rows=count, context=_context(writing))
        surface = self.costs
        alone = surface.seconds(count, count, forward.context) if count else 0.0
        limit = max(_SLOWER * alone, alone / (1.0 - share), self.step)
        return max(surface.rows_within(limit, forward, MOST_ROWS), LEAST_ROWS)

    @property
    def share(self) -> float:
        """The share of the rows for reading that draft models get even if prompts could use all.

        A row of a draft model counts like one of the target, which takes longer.
        """
        return _LATE_SHARE if self.late else 0.0

    def depths(self, active: Sequence[Sample], other_rows: int) -> list[int]:
        """Return the largest depth of the draft of each sample in the next round.

        A single sample is left to the policy of the strategy. So are drafters that select tokens:
        they know the chance of each token, not only the mean of a text, and the policy tells them
        what a further row costs beside this batch. Of a tree, the nodes that pay are counted and
        its depth is limited to their number, which is a weaker limit.
        """
        wanted = [sample.drafts and not self.off for sample in active]
        policy = self.policy
        if self.goodput is None or policy is None or len(active) < 2 or policy.selecting:
            depths = [UNLIMITED] * len(active)
        else:
            found = self.goodput.depths(
                [sample.key for sample in active],
                lambda: [
                    policy.offer(sample.generation.counters) if want else ()
                    for sample, want in zip(active, wanted, strict=True)
                ],
                context=_context(active),
                other_rows=other_rows,
                drafting=self.drafting + _ASKING * len(active),
            )
            depths = list(found)
        if other_rows and (cap := self.schedule.cap(len(active) + 1)) is not None:
            depths = [min(depth, cap) for depth in depths]
        return [depth if want else 0 for depth, want in zip(depths, wanted, strict=True)]

    def note(
        self, active: Sequence[Sample], other_rows: int, seconds: float, session: Session
    ) -> None:
        """Record how long a step took, and its drafts: the costs follow the paces of drafts, and of
        steps that only wrote without drafts."""
        count = len(active)
        self.late = session.drafts_wait
        if session.drafted and not session.drafts_read:
            self.drafting += _WEIGHT * (session.seconds["draft"] - self.drafting)
        if self.goodput is None or count < 2 or other_rows or session.drafted:
            return
        forward = Forward(sequences=count, rows=count, context=_context(active))
        self.goodput.note(seconds, forward)

    @property
    def costs(self) -> CostSurface:
        """The surface with the pace that forwards have now."""
        return self.surface if self.goodput is None else self.goodput.surface


def with_costs(strategy: Strategy, surface: CostSurface) -> Strategy:
    """Return a strategy whose policy decides by these costs, which were measured with more patience
    than those of `load`."""
    if not isinstance(strategy.policy, ExpectedGain):
        return strategy
    return replace(strategy, policy=replace(strategy.policy, verify=surface))


def _context(samples: Sequence[Sample]) -> int:
    return sum(len(s.submission.prompt) + len(s.generation.output) for s in samples)
