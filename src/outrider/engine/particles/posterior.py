"""Weighted texts: the result of `Generator.sample_constrained`."""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider.constraints.monte_carlo.particles import Particles
from outrider.core.values import JsonValue
from outrider.sampling.noise import Purpose, stream_key, uniform


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedText:
    """One particle at its end.

    Attributes:
        text: what it wrote.
        token_ids: its tokens.
        finish_reason: `stop`; `length` for an unfinished text that the limit cut; `error` for one
            that could not go on, with weight 0; `cancelled`.
        log_weight: logarithm of its weight. Texts that were drawn anew begin with the mean weight.
        weight: its share of all weights.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    log_weight: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """An estimate of the model's distribution over allowed texts. It becomes the distribution
    itself as the number of particles grows.

    Attributes:
        particles: the texts and their weights, of which the same text may occur several times.
        log_evidence: logarithm of an unbiased estimate of the probability that a text of the model
            is allowed, or of the mean weight by the critic if there is one.
        effective_size: 1 over the sum of squared weights.
        checker_calls: how often the checker or the grammar was asked.
        resampled: how often particles were drawn anew in proportion to their weights.
        given_up: particles that were given up after `max_checks` refused tokens. If there are any,
            the estimates are too low.
        forwards: forwards of the model after the prompt.
        exactness: what the weighted texts are, in words.
        seed: the seed that reproduces them.
    """

    particles: tuple[WeightedText, ...]
    log_evidence: float
    effective_size: float
    checker_calls: int
    resampled: int
    given_up: int
    forwards: int
    exactness: str
    seed: int

    @property
    def texts(self) -> dict[str, float]:
        """The different texts with their weights, the largest first; texts of weight 0 are left
        out."""
        found: dict[str, float] = {}
        for one in self.particles:
            if one.weight > 0.0:
                found[one.text] = found.get(one.text, 0.0) + one.weight
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    @property
    def best(self) -> WeightedText:
        """A particle of the text with the largest weight."""
        text = next(iter(self.texts))
        return max((p for p in self.particles if p.text == text), key=lambda p: p.weight)

    def draw(self, number: int = 0) -> WeightedText:
        """Draw a particle by its weight. The same `number` always gives the same one."""
        at = uniform(stream_key(self.seed, 0, number, Purpose.RESAMPLE, tier=1))
        for one in self.particles:
            at -= one.weight
            if at < 0.0:
                return one
        return self.best  # the weights sum to less than one by rounding

    def to_dict(self) -> dict[str, JsonValue]:
        """Plain data for JSON; a weight of 0 has no logarithm there."""
        return {
            "particles": [
                {
                    "text": one.text,
                    "token_ids": list(one.token_ids),
                    "finish_reason": one.finish_reason,
                    "log_weight": one.log_weight if one.weight > 0.0 else None,
                    "weight": one.weight,
                }
                for one in self.particles
            ],
            "best": self.best.text,
            "drawn": self.draw().text,
            "log_evidence": self.log_evidence,
            "effective_size": self.effective_size,
            "checker_calls": self.checker_calls,
            "resampled": self.resampled,
            "given_up": self.given_up,
            "forwards": self.forwards,
            "exactness": self.exactness,
            "seed": self.seed,
        }


def posterior(run: Particles) -> Posterior:
    """Build the result of particles that have ended."""
    count = len(run.particles)
    return Posterior(
        particles=_texts(run, run.weights),
        log_evidence=run.log_evidence,
        effective_size=run.effective_size,
        checker_calls=run.calls,
        resampled=run.resampled,
        given_up=run.given_up,
        forwards=run.steps,
        exactness=f"conditional ({count} particle{'s' if count > 1 else ''})",
        seed=run.generations[0].request.sampler.seed,
    )


def _texts(run: Particles, weights: Sequence[float]) -> tuple[WeightedText, ...]:
    return tuple(
        WeightedText(
            text=one.generation.text,
            token_ids=tuple(one.generation.output),
            finish_reason=str(one.generation.finish),
            log_weight=one.log_weight,
            weight=weight,
        )
        for one, weight in zip(run.particles, weights, strict=True)
    )
