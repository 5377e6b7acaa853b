"""What models around another model (selecting, seeing, guided) hand on unchanged."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from outrider.core.layers import LayerSet
from outrider.protocols import Cache, LanguageModel


class LayeredAround:
    """`protocols.Layered` by the model inside. Put it before the class that wraps `inner`."""

    inner: Any

    def _inside(self, cache: Cache) -> Cache:
        """The cache of the model inside, in which the text is drafted on."""
        return cache

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return self.inner.num_layers

    def subset(self, layers: LayerSet) -> LanguageModel:
        """A part of the model inside: it reads what the whole one has read."""
        return self.inner.subset(layers)

    def borrow(self, cache: Cache) -> Cache:
        """A cache over the committed rows of `cache`."""
        return self.inner.borrow(self._inside(cache))

    def watch(self, cache: Cache, on: bool) -> None:
        """Whether forwards over `cache` return `Rows.streams` from now on."""
        self.inner.watch(self._inside(cache), on)

    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """The final norm and the head over residual streams."""
        return self.inner.read_out(states)
