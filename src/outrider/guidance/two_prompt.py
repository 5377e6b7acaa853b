"""Contrast of two prompts: prefers tokens that one prompt makes more likely than another one.

The only part of CoPA that is built here: contrastive decoding between two prompts of one model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from outrider.core.checks import Range
from outrider.core.types import Exactness, Message
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Weighted
from outrider.guidance.recipe import PLAUSIBLE, Parts, Recipe
from outrider.guidance.source import Source, contrast
from outrider.inputs.given import GivenPrompt
from outrider.inputs.images.messages import is_chat
from outrider.protocols import LanguageModel
from outrider.protocols.method import Method, Paper

_STRENGTH = Range(0.0, below=True, hint="Give a number of at least 0, such as 0.5")


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoPrompt(Recipe):
    """`(1 + strength) * first - strength * other`, in logits, among plausible tokens of the first.

    The other prompt is given with each request (`Generator.prompt(..., contrast=...)`), or made
    of the first one with another system message.

    Attributes:
        strength: 0 is the first prompt alone.
        alpha: a token is plausible if its probability is at least this share of the largest one.
        system: the system message of the other prompt, or the text before it; empty: none is made,
            and prompts without another one are not guided.
    """

    name: ClassVar[str] = "two-prompt"
    readings: ClassVar[int] = 2
    reads_contrast: ClassVar[bool] = True

    strength: float = 0.5
    alpha: float = 0.1
    system: str = ""

    def __post_init__(self) -> None:
        _STRENGTH.check("strength", self.strength)
        PLAUSIBLE.check("alpha", self.alpha)

    def contrast(self, prompt: GivenPrompt) -> GivenPrompt | None:
        """Return the prompt with the other system message."""
        if not self.system:
            return None
        if isinstance(prompt, str):
            return self.system + prompt
        if not is_chat(prompt):
            return None
        messages = [m for m in cast("Sequence[Message]", prompt) if m["role"] != "system"]
        return [{"role": "system", "content": self.system}, *messages]

    def build(self, parts: Parts) -> LanguageModel:
        """Return the target, with two prompts."""
        target = parts.target
        sources = Source(model=target), Source(model=target, view=contrast)
        weights = (1.0 + self.strength, -self.strength)
        return Mixed(sources, Weighted(weights=weights, alpha=self.alpha), str(self))


METHOD = Method(
    name="two-prompt",
    cls=TwoPrompt,
    summary="prefers tokens that a prompt makes more likely than another prompt does",
    paper=Paper("contrast of two prompts, as in CoPA (EMNLP 2025)"),
    promise=Exactness.LOSSY,
    needs="another prompt with each request, or a system message for it",
    memory="a second cache of each text",
)
