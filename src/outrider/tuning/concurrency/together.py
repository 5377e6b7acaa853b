"""The stage of a tuning that measures several requests at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from outrider.bench.journal import Journal
from outrider.bench.models import OpenModels
from outrider.policies import FixedLength, FixedTree
from outrider.policies.schedule import Cap
from outrider.tuning.concurrency.blocks import Blocks
from outrider.tuning.concurrency.levels import Level, Levels, Part
from outrider.tuning.prompts import Parts
from outrider.tuning.race import Entry
from outrider.tuning.settings import TOGETHER, TuneSettings
from outrider.tuning.space import AUTO, Arm, named_arm, plain_arm
from outrider.tuning.verdict import Answer, Verdict

_CHOOSING = 0.5
"""Part of the time of one number of requests in which limits are chosen."""


@dataclass(slots=True, kw_only=True)
class Together:
    """Measures an arm at several numbers of requests.

    Attributes:
        arm: the arm that a profile uses.
        first: its limit for a single request: its own length.
        blocks: serves requests.
        numbers: numbers of requests, ascending.
        seconds: for all of them.
        clock: seconds.
        levels: what was found.
    """

    arm: Arm
    first: Cap
    blocks: Blocks
    numbers: list[int]
    seconds: float
    clock: Callable[[], float] = perf_counter
    levels: list[Level] = field(default_factory=list[Level])
    _begun: float = 0.0
    _share: float = 0.0

    @classmethod
    def of(
        cls,
        opened: OpenModels,
        arm: Arm,
        parts: Parts,
        settings: TuneSettings,
        *,
        clock: Callable[[], float] = perf_counter,
    ) -> "Together":
        """Return the stage for one arm.

        Args:
            opened: the models.
            arm: the arm that the profile uses for one request at a time.
            parts: the prompts: limits are chosen on one part and judged on the other.
            settings: of the tuning.
            clock: seconds.
        """
        prompts = {
            Part.CHOICE: [place.token_ids for place in parts.search],
            Part.JUDGING: [place.token_ids for place in parts.verdict],
        }
        return cls(
            arm=arm,
            first=own_limit(opened, arm),
            blocks=Blocks(
                opened=opened,
                plain=plain_arm(),
                arm=arm,
                prompts=prompts,
                sampling=settings.bench.sampling,
            ),
            numbers=settings.levels,
            seconds=settings.seconds(TOGETHER),
            clock=clock,
        )

    def run(self, journal: Journal, tell: Callable[[str], None]) -> None:
        """Measure all numbers that the journal does not hold."""
        key = f"together {self.arm.name}"
        known = [Level.from_dict(own) for own in journal.facts.get(key, [])]
        self.levels = [own for own in known if own.concurrency in self.numbers]
        if [own.concurrency for own in self.levels] != self.numbers[: len(self.levels)]:
            self.levels = []
        deadline = self.clock() + self.seconds

        def begin() -> None:
            """Share the time that is left by the numbers that are left."""
            left = len(self.numbers) - len(self.levels)
            self._begun = self.clock()
            self._share = max(deadline - self._begun, 0.0) / max(left, 1)
            if left:
                tell(f"{self.numbers[-left]} requests at once")

        def ended(choosing: bool) -> bool:
            share = self._share * (_CHOOSING if choosing else 1.0)
            return self.clock() > self._begun + share

        def told() -> None:
            journal.note(key, [own.to_dict() for own in self.levels])
            begin()

        begin()
        Levels(
            numbers=self.numbers,
            first=self.first,
            serve=self.blocks,
            ended=ended,
            found=self.levels,
            told=told,
        ).run()


def used_arm(verdict: Verdict | None, arms: Mapping[str, Arm], entries: Sequence[Entry]) -> Arm:
    """Return the arm that a profile uses.

    Args:
        verdict: the verdict; None: there is none.
        arms: the arms by name.
        entries: the arms of the race. Where the verdict is undecided, the default `auto` is kept,
            unless the race shows that it is slower than plain decoding.
    """
    if verdict is not None and verdict.answer is Answer.DRAFT:
        return arms[verdict.arm]
    if verdict is not None and verdict.answer is Answer.PLAIN:
        return plain_arm()
    raced = next((entry.speedup for entry in entries if entry.name == AUTO), None)
    if raced is not None and raced.high < 1.0:
        return plain_arm()
    return arms.get(AUTO) or Arm(named=named_arm(AUTO), family=AUTO, adaptive=True)


def own_limit(opened: OpenModels, arm: Arm) -> Cap:
    """Return how many tokens an arm drafts; None if its policy chooses, 0 without drafts."""
    strategy = opened.build(arm.named).strategy
    if not strategy.drafts:
        return 0
    policy = strategy.policy
    if isinstance(policy, FixedTree):
        return policy.nodes
    return policy.num_speculative_tokens if isinstance(policy, FixedLength) else None
