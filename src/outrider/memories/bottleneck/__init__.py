"""A memory of labels that forgets little: frozen keys, and values of which few change at a time."""

from outrider.memories.bottleneck.keys import Keys, KeySettings, fit_keys, random_keys
from outrider.memories.bottleneck.memory import Bottleneck, Origin

__all__ = ["Bottleneck", "KeySettings", "Keys", "Origin", "fit_keys", "random_keys"]
