"""Sequential Monte Carlo over forks of one text: samples of the model's distribution over whole
allowed texts, where masking token by token follows the distribution over allowed tokens.

Each particle is a fork of the prompt; all of them share each forward. A step gives each one a token
and multiplies its weight by an estimate of the allowed probability (`awrs.py`). Where the weights
have become uneven, particles are drawn anew in proportion to them. The mean weight is at all times
an unbiased estimate of the probability that a text of the model is allowed so far.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from outrider.constraints.monte_carlo.awrs import NONE_ALLOWED, GrammarTest, Weighted
from outrider.core.checks import shown
from outrider.core.errors import LogitsError, OptionError
from outrider.decoding import Generation, Session, Stage
from outrider.sampling.checker import TokenTest
from outrider.sampling.noise import Purpose, stream_key, uniform

Critic = Callable[[Generation], float]
"""The logarithm of a weight of a text, whole or not; -inf gives it up."""


@dataclass(slots=True)
class Particle:
    """One text and its weight.

    Attributes:
        generation: the text. Particles that were drawn several times after their end share it.
        log_weight: logarithm of the weight, the critic's part included.
        score: what the critic says of the text.
    """

    generation: Generation
    log_weight: float = 0.0
    score: float = 0.0

    @property
    def running(self) -> bool:
        """Whether the text continues."""
        return self.generation.running and self.log_weight > -math.inf


@dataclass(slots=True, kw_only=True)
class Particles:
    """The particles of one prompt.

    Attributes:
        stage: the target, without a drafter; its rule is replaced.
        generations: one request for each particle, whose number is that of its sample.
        tests: what the text of each may be.
        critic: weighs texts in addition; None: the model alone does.
        resample_below: particles are drawn anew where the effective size is below this share.
        exact: weights are the allowed probability itself, which needs grammars as `tests`.
        most: refused tokens at one place after which a particle is given up.
        steps: forwards of all running particles together.
        resampled: how often particles were drawn anew.
        given_up: particles that were given up after `most` refused tokens.
    """

    stage: Stage
    generations: Sequence[Generation]
    tests: Sequence[TokenTest]
    critic: Critic | None = None
    resample_below: float = 0.5
    exact: bool = False
    most: int | None = None
    steps: int = field(default=0, init=False)
    resampled: int = field(default=0, init=False)
    given_up: int = field(default=0, init=False)
    particles: list[Particle] = field(default_factory=list, init=False)
    _rule: Weighted = field(init=False)
    _earlier: int = field(default=0, init=False)
    _cancelled: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._rule = Weighted(dict(enumerate(self.tests)), self.exact, self.most)

    def cancel(self) -> None:
        """End all texts before the next step; they keep their weights."""
        self._cancelled = True

    @property
    def calls(self) -> int:
        """How often the predicates were called."""
        tests = {id(test): test for test in self._rule.tests.values()}
        return self._earlier + sum(test.calls for test in tests.values())

    @property
    def log_evidence(self) -> float:
        """Logarithm of the mean weight."""
        return _log_mean([p.log_weight for p in self.particles])

    @property
    def weights(self) -> list[float]:
        """The weights, which sum to one."""
        return _normalised([p.log_weight for p in self.particles])

    @property
    def effective_size(self) -> float:
        """1 over the sum of the squared weights: from 1, where one particle has all the weight, to
        the number of particles."""
        return 1.0 / sum(weight * weight for weight in self.weights)

    def run(self) -> None:
        """Write all texts.

        Raises:
            LogitsError: no particle is left, or the model's logits cannot be used.
            ContextError: the prompt does not fit.
            OptionError: the critic returns no log-weight.
        """
        session = Session(replace(self.stage, rule=self._rule))
        session.add(self.generations)
        self.particles = [Particle(generation) for generation in self.generations]
        while any(particle.running for particle in self.particles):
            if self._cancelled:
                for generation in session.generations:
                    generation.cancel()
                continue
            self._step(session)

    def _step(self, session: Session) -> None:
        moving = [particle for particle in self.particles if particle.running]
        self._rule.steps.clear()
        session.step()
        self.steps += 1
        for particle in moving:
            self._weigh(particle)
            if particle.generation.running and particle.log_weight == -math.inf:
                session.drop(particle.generation)
        if all(particle.log_weight == -math.inf for particle in self.particles):
            self._fail()
        uneven = self.effective_size < self.resample_below * len(self.particles)
        if uneven and any(particle.running for particle in self.particles):
            self._resample(session)

    def _weigh(self, particle: Particle) -> None:
        """Multiply the weight of a particle by that of its newest token."""
        generation = particle.generation
        step = self._rule.steps.get(generation.request.sampler.sample)
        if step is None:
            if generation.error is not None:  # not a matter of what is allowed: NaN, for example
                raise generation.error
            return
        if step.token is None and self.most is not None and step.refused >= self.most:
            self.given_up += 1
        particle.log_weight += step.log_weight
        if self.critic is None or particle.log_weight == -math.inf:
            return
        score = _checked(self.critic(generation))
        particle.log_weight += score - particle.score
        particle.score = score

    def _resample(self, session: Session) -> None:
        """Draw as many particles as there are, by systematic resampling, and give each the mean
        weight. Copies of a running text are forks with the noise of a dropped particle's sample."""
        count, mean = len(self.particles), self.log_evidence
        sampler = self.generations[0].request.sampler
        step = max(len(p.generation.output) for p in self.particles)
        start = uniform(stream_key(sampler.seed, 0, step, Purpose.RESAMPLE))
        copies = systematic(self.weights, start)
        free = [i for i, number in enumerate(copies) if number == 0]
        for place in free:
            if self.particles[place].generation.running:
                session.drop(self.particles[place].generation)
        for place, number in enumerate(copies):
            for _ in range(number - 1):
                taken = free.pop()
                self.particles[taken] = self._copy(self.particles[place], taken, session)
        assert not free and len(self.particles) == count
        for particle in self.particles:
            particle.log_weight = mean
        self.resampled += 1

    def _copy(self, one: Particle, sample: int, session: Session) -> Particle:
        if not one.generation.running:
            return replace(one)
        tests = self._rule.tests
        test = tests[one.generation.request.sampler.sample]
        if isinstance(test, GrammarTest):
            self._earlier += tests[sample].calls
            tests[sample] = GrammarTest(test.walk.fork())
        return replace(one, generation=session.fork(one.generation, sample))

    def _fail(self) -> None:
        """Raise the error for particles of which none is left."""
        written = max(len(p.generation.output) for p in self.particles)
        if self.given_up:
            reason = f"each was refused {self.most} tokens at one place"
            hint = "Raise max_checks of the checker, or give more particles"
        elif any(p.score == -math.inf for p in self.particles):
            reason, hint = "the critic gives every text weight 0", "Let it allow more"
        else:
            reason = NONE_ALLOWED
            hint = "Give more particles, loosen top_k, top_p and min_p, or the constraint"
        raise LogitsError(f"no particle is left after {written} tokens: {reason}", hint=hint)


def systematic(weights: Sequence[float], start: float) -> list[int]:
    """Return how often each particle is drawn by systematic resampling: the expected number is its
    weight times the number of particles, and the number is one of the two whole ones around it.

    Args:
        weights: sum to one.
        start: a uniform number in (0, 1).
    """
    count, total, copies, drawn = len(weights), 0.0, [0] * len(weights), 0
    for place, weight in enumerate(weights):
        total += weight * count
        while drawn < count and start + drawn < total:
            copies[place] += 1
            drawn += 1
    if drawn < count:  # the weights sum to less than one by rounding
        copies[max(i for i, weight in enumerate(weights) if weight > 0.0)] += count - drawn
    return copies


def _checked(score: float) -> float:
    given: object = score
    if not isinstance(given, int | float) or math.isnan(score) or score == math.inf:
        raise OptionError(
            f"the critic returns {shown(score)}",
            hint="Let it return a log-weight: a number or -inf",
        )
    return float(score)


def _normalised(logs: Sequence[float]) -> list[float]:
    most = max(logs)
    weights = [math.exp(log - most) for log in logs] if most > -math.inf else [1.0] * len(logs)
    total = sum(weights)
    return [weight / total for weight in weights]


def _log_mean(logs: Sequence[float]) -> float:
    most = max(logs)
    if most == -math.inf:
        return most
    return most + math.log(sum(math.exp(log - most) for log in logs) / len(logs))
