"""Proxy tuning: steers a large model by what tuning has changed in a small one.

Liu et al., "Tuning Language Models by Proxy" (arXiv 2401.08565).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Weighted
from outrider.guidance.recipe import OtherModel, Parts, Recipe
from outrider.guidance.source import Source
from outrider.protocols import LanguageModel
from outrider.protocols.method import Method, Paper

_STRENGTH = Range(0.0, below=True, hint="Give a number of at least 0; the paper uses 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyTuning(Recipe):
    """`target + alpha * (tuned - untuned)`, in logits.

    Attributes:
        untuned: a small model with the target's vocabulary, before tuning.
        tuned: the same after tuning; None: `untuned` with `adapter`.
        adapter: the folder of a LoRA adapter of `untuned`, in peft's format.
        alpha: strength; 0 is the target.
    """

    name: ClassVar[str] = "proxy-tuning"

    untuned: OtherModel
    tuned: OtherModel | None = None
    adapter: str | None = None
    alpha: float = 1.0

    def __post_init__(self) -> None:
        _STRENGTH.check("alpha", self.alpha)
        if (self.tuned is None) == (self.adapter is None):
            raise OptionError(
                "proxy-tuning needs either `tuned` or `adapter`",
                hint="Give the tuned small model, or the adapter that makes it of the untuned one",
            )

    def models(self) -> Mapping[str, OtherModel]:
        """Return the tuned and the untuned model."""
        tuned = self.untuned if self.tuned is None else self.tuned
        return {"tuned": tuned, "untuned": self.untuned}

    def adapters(self) -> Mapping[str, str]:
        """Return the adapter of the tuned model, if there is one."""
        return {} if self.adapter is None else {"tuned": self.adapter}

    def build(self, parts: Parts) -> LanguageModel:
        """Return the target, steered by the two small models."""
        models = parts.target, parts.models["tuned"], parts.models["untuned"]
        weights = (1.0, self.alpha, -self.alpha)
        return Mixed(
            [Source(model=model) for model in models], Weighted(weights=weights), str(self)
        )


METHOD = Method(
    name="proxy-tuning",
    cls=ProxyTuning,
    summary="adds to a large model what tuning has changed in a small one",
    paper=Paper("Tuning Language Models by Proxy", "2401.08565"),
    promise=Exactness.LOSSY,
    needs="a small model of the same vocabulary, tuned and untuned",
    memory="both small models and their caches",
)
