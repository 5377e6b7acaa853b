"""From a prompt and a constraint to weighted texts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from outrider.constraints.monte_carlo.awrs import GrammarTest
from outrider.constraints.monte_carlo.particles import Critic, Particles
from outrider.constraints.restrictions import Restrictions
from outrider.core.checks import Range, check_ranges, shown
from outrider.core.errors import OptionError
from outrider.core.types import Prompt
from outrider.core.values import JsonValue
from outrider.decoding import Generation
from outrider.engine.particles.posterior import Posterior, posterior
from outrider.engine.requests import ModelDefaults, copied_params, params_for, warn_of_stops
from outrider.guidance.recipe import Recipe
from outrider.inputs.images.messages import check_reads_images
from outrider.sampling import SamplingParams
from outrider.sampling.checker import TokenTest
from outrider.sampling.walk import Walk
from outrider.strategy import Strategy
from outrider.strategy.guiding import check_contrast

TextCritic = Callable[[str], float]
"""The logarithm of a weight of a text, which may be unfinished; -inf gives it up."""

LegalMass = Literal["estimated", "exact"]
"""How a step's allowed probability is found: estimated by AWRS, or summed over a grammar's mask."""

_RANGES: Mapping[str, Range] = {
    "particles": Range(1, whole=True, hint="Give at least 1 particle"),
    "resample_below": Range(0.0, 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticleOptions:
    """How particles are weighed and drawn.

    Attributes:
        particles: their number: more of them are nearer to the model's distribution.
        critic: called with each text after each token. Weights are multiplied by `exp` of what it
            returns for the text, in place of what it returned for the text before.
        resample_below: particles are drawn anew in proportion to their weights where the effective
            size is below this share of their number.
        legal_mass: `estimated` by AWRS, which asks about a few tokens; `exact`, by the mask of a
            constraint. None: exact for a constraint, estimated for a checker.

    Raises:
        OptionError: a value is out of range.
    """

    particles: int = 8
    critic: TextCritic | None = None
    resample_below: float = 0.5
    legal_mass: LegalMass | None = None

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if self.critic is not None and not callable(self.critic):  # pyright: ignore[reportUnnecessaryComparison]
            raise OptionError(
                f"critic is {shown(self.critic)}", hint="Give a function of a text to a log-weight"
            )
        if self.legal_mass not in (None, "estimated", "exact"):
            raise OptionError(
                f"legal_mass is {shown(self.legal_mass)}", hint="Give estimated or exact"
            )


class Writer(Protocol):
    """What is needed of a `Generator`."""

    context_length: int | None
    defaults: ModelDefaults
    guidance: Recipe | None

    @property
    def restrictions(self) -> Restrictions:
        """Its constraints and checkers."""
        ...

    def strategy_for(self, params: SamplingParams) -> Strategy:
        """Build the strategy for requests with these parameters."""
        ...

    def generation(self, prompt: Prompt, params: SamplingParams, sample: int = 0) -> Generation:
        """Make the record of one request."""
        ...


def sample_constrained(
    generator: Writer,
    prompt: Prompt,
    options: ParticleOptions,
    sampling: Mapping[str, JsonValue],
) -> Posterior:
    """Write the particles of one prompt, and return their texts with weights.

    Raises:
        OptionError: an option does not fit.
        LogitsError: no particle is left.
        ContextError: the prompt does not fit.
    """
    run = particles_of(generator, prompt, options, sampling)
    run.run()
    return posterior(run)


def particles_of(
    generator: Writer,
    prompt: Prompt,
    options: ParticleOptions,
    sampling: Mapping[str, JsonValue],
) -> Particles:
    """Prepare the particles of one prompt, for callers that cancel them.

    Args:
        generator: the model and its tokenizer. Nothing is drafted: all particles share the rows of
            a forward, and are drawn anew after the same number of tokens.
        prompt: the prompt.
        options: of particles.
        sampling: options of `SamplingParams`, one of them the constraint or the checker. The
            temperature is 1 unless it is given. The model's distribution is what remains after
            penalties, temperature and truncation.

    Raises:
        OptionError: there is no constraint and no checker, or the temperature is 0.
        ContextError: the prompt leaves no token for the answer.
    """
    params = _params(generator, prompt, sampling)
    tests, exact = _tests(generator, params, options)
    bare = replace(params, constraint=None, checker=None, logprobs=None)
    generations = [
        generator.generation(prompt, copied_params(bare), sample)
        for sample in range(options.particles)
    ]
    if options.critic is not None and any(g.stream is None for g in generations):
        raise OptionError("a critic needs a tokenizer", hint="Load one with the model")
    return Particles(
        stage=generator.strategy_for(params).undrafted.stage,
        generations=generations,
        tests=tests,
        critic=None if options.critic is None else _of_texts(options.critic),
        resample_below=options.resample_below,
        exact=exact,
        most=None if params.checker is None else params.checker.max_checks,
    )


def _params(generator: Writer, prompt: Prompt, sampling: Mapping[str, JsonValue]) -> SamplingParams:
    given = {"temperature": 1.0, **sampling}
    params = generator.defaults.params(given)
    if params.constraint is None and params.checker is None:
        raise OptionError(
            "there is nothing to sample under", hint="Give a constraint, or a checker"
        )
    if params.temperature == 0.0:
        raise OptionError(
            "temperature is 0: there is no distribution to sample", hint="Give 1 for the model's"
        )
    warn_of_stops(params)
    target = generator.strategy_for(params).target
    check_reads_images(target, [prompt])
    check_contrast([prompt], target, generator.guidance)
    return params_for(
        prompt,
        params,
        target,
        defaults=generator.defaults,
        given=given,
        context_length=generator.context_length,
    )


def _tests(
    generator: Writer, params: SamplingParams, options: ParticleOptions
) -> tuple[list[TokenTest], bool]:
    """Return what the text of each particle may be, and whether masses are exact."""
    if params.constraint is None:
        if options.legal_mass == "exact":
            raise OptionError(
                "legal_mass is exact, which would ask the checker about every token",
                hint="Leave it out, or give a constraint",
            )
        checks = generator.restrictions.checks(params.checker)
        assert checks is not None
        return [checks] * options.particles, False
    grammar = generator.restrictions.grammars.of(params.constraint)
    tests: list[TokenTest] = [GrammarTest(Walk(grammar.begin())) for _ in range(options.particles)]
    return tests, options.legal_mass != "estimated"


def _of_texts(critic: TextCritic) -> Critic:
    return lambda generation: critic(generation.text)
