"""FS-GEN: a small model writes, and asks a larger one where it is unsure.

"Fast and Slow Generating: An Empirical Study on Large and Small Language Models Collaborative
Decoding" (arXiv 2406.12295): speculative, contrastive and proxy decoding as one loop, with a router
that decides when the slow side is called.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range
from outrider.core.errors import OptionError, nearest
from outrider.core.types import Exactness
from outrider.guidance.mix import mix
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Found, Gate, Mask, Mixer
from outrider.guidance.recipe import PLAUSIBLE, OtherModel, Parts, Recipe
from outrider.guidance.routing import routers
from outrider.guidance.source import Source
from outrider.protocols import LanguageModel
from outrider.protocols.method import Method, Paper

ROUTERS = ("max-prob", "gap", "svm", "always", "never")
SLOW_SIDES = ("oracle", "contrast", "proxy")

_STRENGTH = Range(0.0, below=True, hint="Give a number of at least 0")
_THRESHOLDS = {
    "max-prob": Range(0.0, 1.0, optional=True, hint="Give a probability, such as 0.5"),
    "gap": Range(
        0.0,
        0.5,
        below=True,
        optional=True,
        hint="Give half a distance of two probabilities, below 0.5, which would ask at every token",
    ),
}
_DEFAULTS = {"max-prob": 0.5, "gap": 0.15}


@dataclass(frozen=True, slots=True, kw_only=True)
class FsGen(Recipe):
    """The small model `small` is read for each token; the target, the slow side, only where the
    router asks. It then catches up in one forward.

    Routers look at the next-token distribution of the small model: `max-prob` asks if its largest
    probability is below the threshold, `gap` if half the distance of the two largest is, `svm` if a
    support vector machine says so, `always`, `never`. The paper's threshold of 0.5 for `gap` asks
    at every token, since half a distance is never larger; it is refused.

    Slow sides, with the logits l of the target and s of the small model: `oracle` is l. `contrast`
    is `s + beta * (l - s)` among the tokens with `l >= log(alpha) + max(l)`; with the paper's beta
    of 0.5 this is an average of the two models, and only beta above 1 moves away from the small
    model. `proxy` is `l + strength * (t - s)`, with the logits t of the small model after tuning.

    The paper's speculative side is not one of them: it is drafting with the small model
    (`drafter="model"`), which writes the text of the target.

    Attributes:
        small: a smaller model with the target's vocabulary.
        router: `max-prob`, `gap`, `svm`, `always` or `never`.
        threshold: of `max-prob` or `gap`; None: 0.5 (the paper) and 0.15 (ours).
        svm: the file of the machine (`routing.routers.Machine`).
        slow: `oracle`, `contrast` or `proxy`.
        beta: how far `contrast` goes from the small model to the target; 1 is the target.
        alpha: the share of the largest probability that a token of `contrast` must have.
        tuned: the small model after tuning, for `proxy`; None: `small` with `adapter`.
        adapter: the folder of a LoRA adapter of `small`, in peft's format, for `proxy`.
        strength: of `proxy`; 0 is the target.
    """

    name: ClassVar[str] = "fs-gen"

    small: OtherModel
    router: str = "max-prob"
    threshold: float | None = None
    svm: str | None = None
    slow: str = "oracle"
    beta: float = 0.5
    alpha: float = 0.1
    tuned: OtherModel | None = None
    adapter: str | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.router not in ROUTERS:
            raise OptionError(f"router is {self.router!r}", hint=nearest(self.router, ROUTERS))
        if self.slow not in SLOW_SIDES:
            raise OptionError(f"slow is {self.slow!r}", hint=nearest(self.slow, SLOW_SIDES))
        if self.router in _THRESHOLDS:
            _THRESHOLDS[self.router].check("threshold", self.threshold)
        elif self.threshold is not None:
            raise OptionError(
                f"router {self.router!r} has no threshold", hint="Use router=max-prob or router=gap"
            )
        if (self.router == "svm") != (self.svm is not None):
            raise OptionError("router=svm and svm=FILE go together", hint="Give both or neither")
        PLAUSIBLE.check("alpha", self.alpha)
        _STRENGTH.check("beta", self.beta)
        _STRENGTH.check("strength", self.strength)
        for one in fields(self):
            side = _OF_SIDES.get(one.name, self.slow)
            if side != self.slow and getattr(self, one.name) != one.default:
                raise OptionError(
                    f"{one.name} is given, and slow={self.slow} does not read it",
                    hint=f"Give slow={side} as well, or leave {one.name} out",
                )
        given = (self.tuned is not None) + (self.adapter is not None)
        if given != (self.slow == "proxy"):
            raise OptionError(
                "fs-gen needs either `tuned` or `adapter` for slow=proxy, and neither otherwise",
                hint="Give the tuned small model, or the adapter that makes it of `small`",
            )

    def models(self) -> Mapping[str, OtherModel]:
        """Return the small model, and its tuned version for `proxy`."""
        if self.slow != "proxy":
            return {"small": self.small}
        return {"small": self.small, "tuned": self.small if self.tuned is None else self.tuned}

    def adapters(self) -> Mapping[str, str]:
        """Return the adapter of the tuned model, if there is one."""
        return {} if self.adapter is None else {"tuned": self.adapter}

    def build(self, parts: Parts) -> LanguageModel:
        """Return the pair of models. Raises `OptionError` if the router's file is not valid."""
        models = parts.target, *(parts.models[role] for role in self.models())
        sources = [Source(model=model) for model in models]
        return Mixed(sources, Asking(self, self._asks()), str(self))

    def _asks(self) -> Gate:
        if self.svm is not None:
            return routers.Machine.load(Path(self.svm))
        threshold = self.threshold
        if threshold is None:
            threshold = _DEFAULTS.get(self.router, 0.0)
        return {
            "max-prob": routers.max_prob(threshold),
            "gap": routers.gap(threshold),
            "always": routers.always,
            "never": routers.never,
        }[self.router]


_OF_SIDES = {"beta": "contrast", "alpha": "contrast", "strength": "proxy"}
"""Options that one slow side reads."""


_LARGE, _SMALL, _TUNED = range(3)


@dataclass(frozen=True, slots=True)
class Asking(Mixer):
    """The second source writes where `asks` does not ask; the others are read where it does.

    Attributes:
        recipe: says how the row of the slow side is made.
        asks: which rows of the small model are left to the slow side.
    """

    recipe: FsGen
    asks: Gate

    @property
    def stages(self) -> tuple[tuple[int, ...], ...]:
        """The small model first: it decides about the others."""
        slow = (_LARGE, _TUNED) if self.recipe.slow == "proxy" else (_LARGE,)
        return (_SMALL,), slow

    def wanted(self, source: int, found: Found) -> Mask | None:
        """Return all rows for the small model, and those for which it asks for the others."""
        if source == _SMALL:
            return None
        return found.masks[_LARGE] if source == _TUNED else self.asks(found.logits(_SMALL))

    def mixed(self, found: Found) -> Float[Tensor, "rows vocab"]:
        """Put the rows of the slow side in the place of those for which it was asked."""
        fast, mask = found.logits(_SMALL), found.masks[_LARGE]
        large = found.rows[_LARGE]
        if large is None or mask is None:
            return fast
        slow = self._slow(found, large.logits, fast[mask])
        if bool(mask.all()):
            return slow
        out = fast.to(torch.promote_types(fast.dtype, slow.dtype), copy=True)
        out[mask] = slow.to(out.dtype)
        return out

    def _slow(self, found: Found, large: Tensor, small: Tensor) -> Tensor:
        """Return the rows of the slow side, given those of the two models."""
        recipe = self.recipe
        if recipe.slow == "contrast":
            weights = recipe.beta, 1.0 - recipe.beta
            return mix([large, small], weights, space="logprob", alpha=recipe.alpha)
        if recipe.slow == "proxy":
            tuned = found.rows[_TUNED]
            assert tuned is not None
            return mix([large, tuned.logits, small], (1.0, recipe.strength, -recipe.strength))
        return large


METHOD = Method(
    name="fs-gen",
    cls=FsGen,
    summary="a small model writes, and asks the target where it is unsure",
    paper=Paper("FS-GEN", "2406.12295"),
    promise=Exactness.LOSSY,
    needs="a smaller model of the same vocabulary",
    memory="the smaller model and its cache",
)
