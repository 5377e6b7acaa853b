"""Labels of texts, by a trained memory and the model whose states it reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from outrider.core.checks import Range
from outrider.core.errors import OptionError, VocabularyError, nearest
from outrider.engine.labels.states import Encoder, StateReader
from outrider.memories.bottleneck import Bottleneck
from outrider.protocols import LanguageModel

if TYPE_CHECKING:
    from outrider.engine.generator import Generator

_RATE = Range(0.0, above=True, hint="Give a learning rate above 0")


class Labeller:
    """Says to which label a text belongs, and can be taught more while it is in use.

    Args:
        model: the model for which the memory was trained.
        codec: its tokenizer.
        memory: the memory, which `teach` changes.

    Raises:
        VocabularyError: the memory was trained on states of another model.
        OptionError: it reads a layer that the model does not have.
        StrategyError: the model does not return its states.
    """

    def __init__(self, model: LanguageModel, codec: Encoder, memory: Bottleneck) -> None:
        self.memory = memory
        self._reader = StateReader(model, codec, memory.origin.layer, memory.origin.form)
        if (own := memory.origin.model) != model.info.fingerprint:
            raise VocabularyError(
                f"the memory was trained on states of another model ({own[:12]}, and "
                f"{model.info.name} is {model.info.fingerprint[:12]})",
                hint="Train it for this one: outrider train bottleneck CONFIG",
            )

    @classmethod
    def of(cls, generator: "Generator", folder: str | Path) -> "Labeller":
        """Read the files of a memory for the target of a generator.

        Raises:
            CheckpointError: files that are missing or damaged.
            OptionError: the generator has no tokenizer.
        """
        if generator.tokenizer is None:
            raise OptionError("labels of texts need a tokenizer", hint="Give one to load")
        return cls(generator.strategy.target, generator.tokenizer, Bottleneck.read(folder))

    def label(self, texts: Sequence[str]) -> list[str]:
        """Return the most probable label of each text.

        Raises:
            OptionError: there are no texts, or one has no tokens.
            ContextError: a text does not fit into the window of the model.
        """
        return self.memory.classify(self._reader.read(texts))

    def teach(
        self, texts: Sequence[str], labels: Sequence[str], *, rate: float, epochs: int = 1
    ) -> None:
        """Learn the labels of texts. Values of keys that none of the texts fetches stay.

        Args:
            texts: the texts.
            labels: the label of each.
            rate: the learning rate.
            epochs: steps, each on all texts.

        Raises:
            OptionError: a label that the memory does not know, another number of labels than of
                texts, or what `label` raises.
        """
        _RATE.check("rate", rate)
        if len(labels) != len(texts):
            raise OptionError(
                f"there are {len(labels)} labels for {len(texts)} texts", hint="Give one for each"
            )
        places = {name: place for place, name in enumerate(self.memory.labels)}
        for name in labels:
            if name not in places:
                raise OptionError(f"unknown label {name!r}", hint=nearest(name, places))
        fetched = self.memory.keys.fetch(self._reader.read(texts))
        for _ in range(epochs):
            self.memory.learn(fetched, torch.tensor([places[name] for name in labels]), rate)
