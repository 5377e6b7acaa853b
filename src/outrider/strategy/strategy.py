"""A strategy: a frozen recipe of target, drafter, rule and policy, checked when it is built."""

from dataclasses import dataclass, field

import torch

from outrider.acceptance import Match
from outrider.core.errors import StrategyError
from outrider.core.types import Exactness
from outrider.decoding import Session, Stage
from outrider.diffusion.rule import Diffusion
from outrider.diffusion.session import DenoisingSession
from outrider.drafters import NoDrafter, Qualified
from outrider.drafters.combine.compatibility import check_fit, check_states
from outrider.models.denoisers.next_token import NextToken
from outrider.policies import FixedLength
from outrider.policies.guard import Guard, Mode
from outrider.policies.schedule import Schedule
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy, LanguageModel, Learner
from outrider.strategy.description import expression_of, models_of, sources_of


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Strategy:
    """Names the target, the drafter, the acceptance rule and the draft policy; `learner` improves
    the drafter while it is used, and `schedule` limits drafts while many requests run at once.
    Under rules other than `Match` it is not used: lengths of drafts may change their texts.

    With `denoising`, a masked denoiser writes the positions of a text in any order; nothing drafts.

    Raises `StrategyError` if the parts do not fit: the rule judges other drafts than the drafter
    makes, or needs something that the drafter does not provide.
    """

    target: LanguageModel
    drafter: Drafter = field(default_factory=NoDrafter)
    rule: AcceptanceRule = field(default_factory=Match)
    policy: DraftPolicy = field(default_factory=FixedLength)
    learner: Learner | None = None
    schedule: Schedule = field(default_factory=Schedule)
    denoising: Diffusion | None = None

    def __post_init__(self) -> None:
        if self.denoising is not None:
            self._check_denoising()
        check_fit(self.rule, self.drafter)
        check_states(self.rule, self.target)
        if self.rule.needs.probs and self.policy.adaptive:
            name = type(self.policy).__name__
            raise StrategyError(
                f"{type(self.rule).__name__} needs draft lengths that do not depend on tokens it "
                f"discards, and {name} at the target goes by what drafting them took",
                hint="Use FixedLength, or Match as the rule",
            )
        object.__setattr__(self, "drafter", self.drafter.bind(self.rule.needs, 1))

    def _check_denoising(self) -> None:
        if not isinstance(self.target, NextToken):
            raise StrategyError(
                f"denoising is given, but {self.target.info.name} is no masked denoiser",
                hint="Leave it out, or give a masked denoiser as the target",
            )
        if self.drafts:
            raise StrategyError(
                "denoising and a drafter are given together, and a denoiser writes without drafts",
                hint="Leave one of them out",
            )

    @property
    def mask_id(self) -> int | None:
        """The id of a masked position; None: texts are written from left to right."""
        if self.denoising is None or not isinstance(self.target, NextToken):
            return None
        return self.target.denoiser.mask_id

    def session(self, guard: Guard | None = None) -> Session:
        """Return a new session of requests with this strategy."""
        if self.denoising is None:
            return Session(self.stage, guard)
        assert isinstance(self.target, NextToken)  # checked at the beginning
        return DenoisingSession(self.stage, denoiser=self.target.denoiser, rule=self.denoising)

    @property
    def stage(self) -> Stage:
        """Build the outermost stage of the cascade."""
        return Stage(
            name="target",
            model=self.target,
            drafter=self.drafter,
            rule=self.rule,
            policy=self.policy,
            tier=0,
            learner=self.learner,
            schedule=self.schedule if self._same_text else Schedule(),
        )

    @property
    def exactness(self) -> Exactness:
        """The guarantee for the text.

        The outermost rule can lower it, a target that changes the text of the model it wraps
        (`SkippingModel`), and rounding: only float64 in all parts and the compiled CPU runner
        compute a row of a draft as a row on its own. With `denoising`, the text depends on which
        positions are written together.
        """
        own = self.target.info.exactness
        if self.denoising is not None:
            return Exactness.LOSSY
        if not self.drafts and self.rule.exactness is Exactness.LOSSY:
            return own
        rows = Exactness.ROUNDING if self.drafts and self._rounds else Exactness.IDENTICAL
        return max(own, rows, self.rule.exactness, key=lambda promise: promise.rank)

    @property
    def _rounds(self) -> bool:
        """Whether other rows of a forward can change the last bits of a row."""
        info = self.target.info
        dtype = info.narrow_dtype or info.dtype
        return not info.batch_invariant and dtype not in (None, torch.float64)

    @property
    def drafts(self) -> bool:
        """Whether there is a drafter that can propose tokens."""
        return not isinstance(self.drafter, NoDrafter)

    @property
    def windows(self) -> tuple[int, ...]:
        """Draft lengths of the stages, outermost first; empty unless all are fixed."""
        lengths: list[int] = []
        drafter, policy = self.drafter, self.policy
        while not isinstance(drafter, NoDrafter):
            if not isinstance(policy, FixedLength):
                return ()
            lengths.append(policy.num_speculative_tokens)
            if not isinstance(drafter, Qualified):
                break
            drafter, policy = drafter.drafter, drafter.policy
        return tuple(lengths)

    def guard(self, mode: Mode) -> Guard | None:
        """Return a new guard in this mode; None if it is off, or nothing drafts.

        It changes budgets only where this cannot change the text: under `Match`, and where the
        policy adapts them anyway. Fixed lengths are what the user asked for, and under other rules
        equal seeds must give equal texts however fast the machine is. A learner must see drafts to
        make them better, so that none are switched off while there is one.
        """
        if mode == "off" or not self.drafts:
            return None
        adapts = self.policy.adaptive and self._same_text
        return Guard(mode=mode, judges=adapts and self.learner is None)

    @property
    def _same_text(self) -> bool:
        """Whether the lengths of drafts never change a text."""
        return self.rule.exactness is Exactness.IDENTICAL

    @property
    def undrafted(self) -> "Strategy":
        """Return the baseline: the same target without a drafter."""
        return Strategy(target=self.target)

    def describe(self) -> str:
        """Describe the strategy as a tree of at most five lines."""
        if self.denoising is not None:
            head = f"target {self.target.info.name}: {self.exactness}"
            return f"{head}\n└─ denoising  {expression_of(self.denoising)}"
        models = models_of(self.drafter)
        lines = [
            f"rule     {expression_of(self.rule)}",
            f"policy   {expression_of(self.policy)}{sources_of(self.policy)}",
            f"drafter  {expression_of(self.drafter)}",
            *([f"models   {', '.join(models)}"] if models else []),
        ]
        ends = ["├─ "] * (len(lines) - 1) + ["└─ "]
        info = self.target.info
        guided = "" if info.guidance is None else f", guidance {info.guidance}"
        head = f"target {info.name}{guided}: {self.exactness}"
        return "\n".join([head, *(end + line for end, line in zip(ends, lines, strict=True))])

    def __repr__(self) -> str:
        info = self.target.info
        parts = {
            "target": info.name,
            **({} if info.guidance is None else {"guidance": f"{info.guidance}"}),
            "drafter": expression_of(self.drafter),
            "rule": expression_of(self.rule),
            "policy": expression_of(self.policy),
            **({} if self.denoising is None else {"denoising": expression_of(self.denoising)}),
        }
        return f"Strategy({', '.join(f'{name}={part}' for name, part in parts.items())})"
