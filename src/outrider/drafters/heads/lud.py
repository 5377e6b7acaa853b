"""Lexical Unit Decoding: a tuned target guesses its next tokens behind pads.

Sun et al., "Decoding at the Speed of Thought: Harnessing Parallel Decoding of Lexical Units for
LLMs" (arXiv 2405.15208).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from outrider.acceptance.lud import BETA, chances, confident
from outrider.core.checks import Range, check_ranges
from outrider.core.types import Verified
from outrider.drafters.given import Given
from outrider.drafters.heads.ppd import NODES
from outrider.drafters.heads.ppd_plan import PromptPlan, StateTree, best_plan
from outrider.drafters.heads.prompt_tokens import PromptTokens
from outrider.drafters.heads.prompted import NO_PLAN, ROWS, PromptDrafter, PromptState
from outrider.drafters.method import DrafterMethod
from outrider.policies import FixedTree
from outrider.protocols import Drafter, Needs
from outrider.protocols.method import Paper, Value

_RANGES: Mapping[str, Range] = {
    "nodes": NODES,
    "k": Range(1, 32, whole=True, optional=True, hint="Give 1 to 32 tokens of a pass"),
    "beta": BETA,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lud(PromptDrafter):
    """Drafts what the target, which is tuned for it, guesses behind pads.

    The pad is one embedding, which k - 1 rows after a token repeat; as the prompt tokens of `ppd`,
    these rows are probes, and neither tokens nor caches read them. With the rule `Match` (our
    extension) the text is that of the tuned target. With `beta`, the draft is the span that the
    paper commits: the guesses up to the first one whose probability is below `beta`, none if the
    probability of the token before them is; the pads then stand behind the last guess only. The
    rule `lud` with the same `beta` accepts this span unverified, as the paper does.

    Attributes:
        pad: the folder that `outrider train lud` has written, or its pad.
        k: tokens of a pass, one and a guess for each of k - 1 pads, at most as trained; None: as
            trained.
        beta: the smallest probability of a drafted guess; None drafts all guesses, and pads stand
            where the next round is likely to begin.
        nodes: without `beta`, the rows of a draft; None: what is fastest with the measured costs of
            the target, which may be no draft, and 16 where nothing is measured.
        plan: the trees; None: planned.
        name: the source its tokens are counted under.

    Raises:
        CheckpointError: the files of the pad are missing or damaged.
        OptionError: a number outside its range.
    """

    pad: PromptTokens | str | Path
    k: int | None = None
    beta: float | None = None
    name: str = "lud"

    gives = Needs(probs=True, reference=True)
    """The reference of a guess is the row of its pad."""

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        pad = self.pad if isinstance(self.pad, PromptTokens) else PromptTokens.read_pad(self.pad)
        object.__setattr__(self, "pad", pad if self.k is None else pad.first(self.k - 1))
        if self.plan is None:
            object.__setattr__(self, "plan", self._planned())

    @property
    def trained(self) -> PromptTokens:
        """The pad, also if the option is a folder."""
        assert isinstance(self.pad, PromptTokens)
        return self.pad

    def usable(
        self, state: PromptState, seen: Verified, logits: Tensor, best: NDArray[np.int32]
    ) -> int:
        """Return the length of the confident span; without `beta`, the number of guesses."""
        if self.beta is None:
            return len(best)
        verdict = seen.verdict
        token, previous = verdict.next_token, (state.last, *verdict.tokens)[-1]
        assert token is not None  # guesses are read only where one follows
        row = verdict.path[-1] + 1 if verdict.path else 0
        chance = float(chances(seen.rows.logits[row : row + 1])[0, token])
        if not confident(token, chance, previous, self.beta):
            return 0
        rows = chances(logits)
        for place, guess in enumerate(best[:, 0].tolist()):
            if not confident(guess, float(rows[place, guess]), token, self.beta):
                return place
            token = guess
        return len(best)

    def _planned(self) -> PromptPlan:
        guesses = len(self.trained.table)
        if not guesses:
            return NO_PLAN
        if self.beta is None:
            return best_plan(self.trained.rates.tolist(), self.nodes or ROWS)
        return span_plan(guesses)


def span_plan(guesses: int) -> PromptPlan:
    """Return the trees of the paper: a chain of all guesses, and pads behind its last one."""
    trees = tuple(
        StateTree(
            paths=tuple((0,) * (depth + 1) for depth in range(count)),
            prompts=(*(0,) * count, guesses),
            value=float(count),
        )
        for count in range(guesses + 1)
    )
    return PromptPlan(trees, (1 / len(trees),) * len(trees), float(guesses), 2 * guesses)


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Lud:
    found = Lud(**options)  # pyright: ignore[reportArgumentType]
    found.trained.check_target(given.target)
    plan = found.fastest(given) if found.beta is None and found.k != 1 else None
    return found if plan is None else replace(found, plan=plan)


METHOD = DrafterMethod(
    name="lud",
    cls=Lud,
    summary="guesses of a target tuned for it, read behind pads in the same forward",
    paper=Paper("Lexical Unit Decoding", "2405.15208"),
    needs="an adapter and a pad of the target, from `outrider train lud`",
    memory="one embedding",
    make=_make,
    tree=True,
    # Pads must be read every round, so the size is that of the plan.
    policy=FixedTree(depth=32, nodes=96),
)
