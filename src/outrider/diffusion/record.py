"""The record of a way to write texts whose positions are written in any order."""

from dataclasses import dataclass

from outrider.core.types import Exactness
from outrider.diffusion.rule import Diffusion
from outrider.protocols.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionMethod(Method[Diffusion]):
    """The description of a commit rule. It makes the text of a masked denoiser.

    No two rules promise the same text: which positions are written together changes what the model
    reads when it predicts the others.
    """

    promise: Exactness = Exactness.LOSSY
    needs: str = "a masked denoiser"
