"""Compares the joint distribution of the first tokens with the exact one of a tabular target."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.acceptance import Rejection
from outrider.core.types import Prompt
from outrider.decoding import Stage
from outrider.models.tabular import TabularModel
from outrider.policies import FixedLength
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy
from outrider.sampling import Sampler, SamplingParams
from outrider.testing.rigs import samples, stage

VOCAB, LENGTH = 3, 3
PROMPT = Prompt(token_ids=(0, 1, 1, 2, 0, 2, 2, 1, 2))
"""Contains every pair of tokens but one, so that lookups always find something to copy."""

RARE = 5
"""Texts with a smaller expected count are counted together."""


def _table(seed: int, near: TabularModel | None = None) -> TabularModel:
    return TabularModel.random(vocab_size=VOCAB, order=2, seed=seed, near=near, distance=1.0)


TARGET = _table(1)
QUALIFIER = _table(2, TARGET)
DRAFT = _table(3, QUALIFIER)
CHAIN = FixedLength(LENGTH)


@dataclass(frozen=True)
class Trial:
    """Counts the generated texts and measures their distance from the exact distribution."""

    target: TabularModel = TARGET
    prompt: Prompt = PROMPT
    warps: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.9})
    policy: DraftPolicy = CHAIN

    def surplus(
        self,
        drafter: Drafter,
        draws: int,
        rule: AcceptanceRule | None = None,
        policy: DraftPolicy | None = None,
    ) -> float:
        """Return the chi-square of `draws` generated texts, in standard deviations above its
        mean.
        """
        rule, policy = rule or Rejection(), policy or self.policy
        whole = stage(self.target, drafter, rule, policy=policy)
        return self._chi_square(self._counts(whole, draws))

    def _counts(self, whole: Stage, draws: int) -> NDArray[np.float64]:
        found = np.zeros([self.target.info.vocab_size] * LENGTH)
        for g in samples(whole, self.prompt, draws, max_new_tokens=LENGTH, **self.warps):
            found[tuple(g.output)] += 1
        return found

    def _chi_square(self, found: NDArray[np.float64]) -> float:
        sampler = Sampler(SamplingParams.of(**self.warps))
        probs = self.target.sequence_probs(self.prompt.token_ids, LENGTH, sampler).numpy()
        if found[probs == 0].sum():
            return float("inf")
        expected = probs * found.sum()
        rare = expected < RARE
        seen = np.append(found[~rare], found[rare].sum())
        wanted = np.append(expected[~rare], max(expected[rare].sum(), 1e-9))
        freedom = len(seen) - 1
        return float((((seen - wanted) ** 2 / wanted).sum() - freedom) / np.sqrt(2 * freedom))
