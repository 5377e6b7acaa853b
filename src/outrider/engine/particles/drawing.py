"""Whole texts of a generator that a constraint allows: `Generator.sample_constrained`."""

from typing import TYPE_CHECKING, Protocol, Unpack

from outrider.constraints.restrictions import Restrictions
from outrider.engine.searches.searching import Searching
from outrider.inputs.given import GivenImages, GivenPrompt
from outrider.sampling.options import SamplingOptions

if TYPE_CHECKING:
    from outrider.engine.particles.posterior import Posterior
    from outrider.engine.particles.sampling import LegalMass, TextCritic


class Drawing(Searching, Protocol):
    """What a generator has besides `sample_constrained`; it is mixed into `Generator`."""

    restrictions: Restrictions

    def sample_constrained(
        self,
        prompt: GivenPrompt,
        *,
        particles: int = 8,
        critic: "TextCritic | None" = None,
        resample_below: float = 0.5,
        legal_mass: "LegalMass | None" = None,
        images: GivenImages = None,
        contrast: GivenPrompt | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> "Posterior":
        """Sample whole texts that a constraint or a checker allows, in proportion to their
        probability under the model (AWRS and sequential Monte Carlo, arXiv 2504.05410).

        The arguments are those of `ParticleOptions`, and of `generate`; nothing is drafted, and
        the temperature is 1 unless given. Raises `OptionError`, `ContextError`, and `LogitsError`
        if no particle is left.
        """
        from outrider.engine.particles.sampling import ParticleOptions, sample_constrained

        how = ParticleOptions(
            particles=particles,
            critic=critic,
            resample_below=resample_below,
            legal_mass=legal_mass,
        )
        read = self.prompt(prompt, images=images, contrast=contrast)
        return sample_constrained(self, read, how, sampling)
