"""Rules of acceptance for values: the exact one, and the one of the released code."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from outrider.core.errors import LogitsError
from outrider.core.types import Exactness
from outrider.diffusion.continuous.noise import SequenceNoise
from outrider.diffusion.continuous.residual import Correction, published_draw, residual_draw
from outrider.diffusion.continuous.values import Densities, ValueDraft, ValueVerdict

TEMPERATURE = 42.0
"""By which the released code divides z-scores before it compares them."""


@runtime_checkable
class ValueRule(Protocol):
    """Decides which drafted values are kept: the counterpart of `AcceptanceRule`."""

    @property
    def exactness(self) -> Exactness:
        """What the rule guarantees for the distribution of sequences."""
        ...

    @property
    def last_noise(self) -> bool:
        """Whether values have the noise of the last step; if not, they are its means."""
        ...

    def log_ratios(self, draft: ValueDraft, target: Densities) -> Float[Tensor, "images n"]:
        """Return the logarithm of the number below which a uniform number accepts each value."""
        ...

    def correct(
        self, target: Densities, draft: Densities, noise: SequenceNoise, image: int, place: int
    ) -> Correction:
        """Return the value that stands for a rejected one; both densities are single rows."""
        ...


@dataclass(frozen=True, slots=True)
class ExactRatio:
    """Accept x with probability min(1, p(x) / q(x)); otherwise draw from max(p - q, 0), normalised.

    Given the noise of both trajectories but that of the last step, p and q are normal densities, so
    the value has the density p whatever q is (the argument of speculative sampling, arXiv
    2211.17192, for densities). Over the noise, it has the distribution of the target.
    """

    exactness = Exactness.DISTRIBUTION
    last_noise = True

    def log_ratios(self, draft: ValueDraft, target: Densities) -> Float[Tensor, "images n"]:
        """Return log(p / q) of each drafted value."""
        return target.log_density(draft.values) - draft.densities.log_density(draft.values)

    def correct(
        self, target: Densities, draft: Densities, noise: SequenceNoise, image: int, place: int
    ) -> Correction:
        """Draw from the residual."""
        return residual_draw(target, draft, noise.tries(image, place))


@dataclass(frozen=True, slots=True)
class Published:
    """The rule of the released code of CSpD (github.com/MarkXCloud/CSpD); it is lossy.

    Values have no noise of the last step, so that they have no density: the ratio compares
    densities that they are not drawn from. It has the factor Sigma, the ratio of the products of
    the standard deviations of all steps, and z-scores are divided by 42, which accepts nearly
    everything where standard deviations are equal. Corrections take at most 100 tries. The released
    code tests positions that are drawn at once; here they are a chain.
    """

    temperature: float = TEMPERATURE

    exactness = Exactness.LOSSY
    last_noise = False

    def log_ratios(self, draft: ValueDraft, target: Densities) -> Float[Tensor, "images n"]:
        """Return the logarithm of the published ratio of each drafted value."""
        mine, q = draft.values, draft.densities
        scores = [((mine - one.mean) / one.std / self.temperature) ** 2 for one in (target, q)]
        ratios = 0.5 * (scores[1] - scores[0]) + q.std.log() - target.std.log()
        return ratios.sum(-1) + target.log_spread - q.log_spread

    def correct(
        self, target: Densities, draft: Densities, noise: SequenceNoise, image: int, place: int
    ) -> Correction:
        """Take at most 100 tries."""
        log_sigma = float(target.log_spread - draft.log_spread)
        return published_draw(target, draft, log_sigma, noise.tries(image, place))


def accept(
    rule: ValueRule,
    draft: ValueDraft,
    target: Densities,
    noise: SequenceNoise,
    done: Int[Tensor, " images"],
) -> ValueVerdict:
    """Apply a rule to drafts.

    Args:
        rule: the rule.
        draft: `n` drafted values of each sequence, or fewer.
        target: the target's densities `[images, n + 1]`, from the first drafted position on.
        noise: of the sequences.
        done: committed values of each sequence.

    Raises:
        LogitsError: a density of the target that decides is not finite.
    """
    count, size = len(done), target.mean.shape[-1]
    most = draft.values.shape[1]
    rows = torch.arange(count)
    columns = torch.arange(most)
    tests = noise.tests[
        rows[:, None], (done[:, None] + columns).clamp(max=noise.tests.shape[1] - 1)
    ]
    ratios = rule.log_ratios(draft, target[:, :most])
    good = (tests.log() < ratios) & (columns < draft.lengths[:, None])  # with NaN, reject
    accepted = good.long().cumprod(1).sum(1)
    usable = target[rows, accepted].usable & (
        target.usable[:, :most] | (columns >= accepted[:, None])
    ).all(1)
    if not bool(usable.all()):
        raise LogitsError("the density of the target is not finite", hint="Check its weights")
    rejected = accepted < draft.lengths
    own = target[rows, accepted]
    places = done + accepted
    chosen = own.drawn(noise.target[rows, places, -1]) if rule.last_noise else own.mean.clone()
    tries = torch.zeros(count, dtype=torch.long)
    enveloped, bounded = torch.zeros(2, count, dtype=torch.bool)
    for image in rejected.nonzero().flatten().tolist():
        at = int(accepted[image])
        found = rule.correct(
            own[image], draft.densities[image, at], noise, image, int(places[image])
        )
        chosen[image] = found.value
        tries[image], enveloped[image] = found.tries, found.enveloped
        bounded[image] = found.bounded
    assert chosen.shape == (count, size)
    return ValueVerdict(accepted, chosen, rejected, tries, enveloped, bounded)
