"""CAAD: adds the logits that followed similar contexts in verified answers.

"Context-Aware Adaptive Decoding for Truthful Text Generation" (arXiv 2508.02184), later called
Retrieval-Augmented Decoding.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range
from outrider.core.types import Exactness
from outrider.guidance.mix import wide
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Found, Mixer
from outrider.guidance.recipe import Parts, Recipe
from outrider.guidance.retrieval.nearest import Nearest
from outrider.guidance.retrieval.store import Fingerprinted, LogitStore
from outrider.guidance.source import Source, states_of
from outrider.protocols import LanguageModel
from outrider.protocols.method import Method, Paper

_WEIGHT = Range(0.0, below=True, hint="Give a number of at least 0, such as 0.5")
_COUNT = Range(1, whole=True, hint="Give a number of contexts, such as 5")
_TEMPERATURE = Range(0.0, above=True, below=True, hint="Give a number above 0, such as 0.1")
_COSINE = Range(-1.0, 1.0, hint="Give a cosine from -1 to 1, such as 0.5")
_SHARE = Range(0.0, 1.0, hint="Give a probability; 0 allows all tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caad(Recipe):
    """`logits + alpha * mean(stored logits after similar contexts)`.

    A context is described by the hidden state of its last token. Where no stored context is similar
    the row stays as it is. The store belongs to one model (`guidance.retrieval.building`).

    Attributes:
        store: a file of `outrider datastore answers`, or a store in memory.
        alpha: weight of the stored logits.
        nearest: how many contexts are averaged at most.
        temperature: divides the cosines before they become weights.
        least: contexts with a smaller cosine are left out.
        floor: in rows with similar contexts, tokens to which the target gives a smaller probability
            are excluded, but for its best one.
        centred: subtract the mean of the store from all states before cosines are taken.
    """

    name: ClassVar[str] = "caad"

    store: str | Path | LogitStore
    alpha: float = 0.5
    nearest: int = 5
    temperature: float = 0.1
    least: float = 0.5
    floor: float = 0.01
    centred: bool = True

    def __post_init__(self) -> None:
        _WEIGHT.check("alpha", self.alpha)
        _COUNT.check("nearest", self.nearest)
        _TEMPERATURE.check("temperature", self.temperature)
        _COSINE.check("least", self.least)
        _SHARE.check("floor", self.floor)

    def build(self, parts: Parts) -> LanguageModel:
        """Return the target with its store.

        Raises:
            StoreError: the store cannot be read, or was built with another model or tokenizer.
            StrategyError: the target does not return the states of its layers.
        """
        target = parts.target
        states_of(target, "'caad'")
        store = self.opened()
        codec = parts.codec
        store.check(target.info, codec if isinstance(codec, Fingerprinted) else None)
        source = Source(model=target, layers=(store.origin.layer,))
        model = Mixed([source], Retrieving(self, store), str(self))
        found = model.info
        # The expression names the file only, and the texts depend on its content.
        told = replace(found, find_fingerprint=lambda: f"{found.fingerprint}-{store.digest}")
        model.info = told
        return model

    def opened(self) -> LogitStore:
        """Return the store. Raises `StoreError`."""
        return (
            self.store if isinstance(self.store, LogitStore) else LogitStore.open(Path(self.store))
        )


class Retrieving(Mixer):
    """Adds the average of the stored logits to each row.

    Args:
        recipe: its options.
        store: the contexts.
    """

    def __init__(self, recipe: Caad, store: LogitStore) -> None:
        self._recipe = recipe
        self._memory = Nearest(
            store,
            count=recipe.nearest,
            least=recipe.least,
            temperature=recipe.temperature,
            centred=recipe.centred,
        )

    def mixed(self, found: Found) -> Float[Tensor, "rows vocab"]:
        """Return the rows; those without a similar context are those of the target."""
        rows = found.rows[0]
        assert rows is not None and rows.states is not None
        return self.shifted(rows.logits, rows.states[0])

    def shifted(
        self, logits: Float[Tensor, "rows vocab"], states: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "rows vocab"]:
        """Return the rows, given the states of the layer that the store describes."""
        if self._recipe.alpha == 0.0:
            return logits
        known = {
            row: after
            for row, state in enumerate(states)
            if (after := self._memory.after(state)) is not None
        }
        if not known:
            return logits
        out = wide(logits).clone()
        for row, after in known.items():
            out[row] = self._row(out[row], after)
        return out

    def _row(
        self, logits: Float[Tensor, " vocab"], after: Float[Tensor, " vocab"]
    ) -> Float[Tensor, " vocab"]:
        shifted = logits + (self._recipe.alpha * after).to(logits)
        if self._recipe.floor == 0.0:
            return shifted
        probs = torch.softmax(logits, dim=-1)
        excluded = probs < self._recipe.floor
        excluded[int(probs.argmax())] = False
        return shifted.masked_fill(excluded, -torch.inf)


METHOD = Method(
    name="caad",
    cls=Caad,
    summary="adds what followed similar contexts in a store of verified answers",
    paper=Paper("CAAD", "2508.02184"),
    promise=Exactness.LOSSY,
    needs="a store of `outrider datastore answers`, and a target that returns the states of its "
    "layers",
    memory="the store",
)
