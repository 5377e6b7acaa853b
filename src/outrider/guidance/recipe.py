"""A guidance method with its options: which sources it mixes, and how."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import torch

from outrider.core.checks import Range
from outrider.core.expression import quoted
from outrider.inputs.given import GivenPrompt, TextCodec
from outrider.protocols import LanguageModel
from outrider.protocols.method import Value, text_of

PLAUSIBLE = Range(0.0, 1.0, hint="Give a share of the best token's probability, such as 0.1")
"""Of the option `alpha` of methods that exclude implausible tokens."""

OtherModel = str | Path | LanguageModel
"""A model beside the target: a folder, a known model, a hub name, or a built model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a recipe builds from.

    Attributes:
        target: the model whose text is guided.
        models: the other models, by role (`Recipe.models`).
        codec: the tokenizer of the target, if there is one.
    """

    target: LanguageModel
    models: Mapping[str, LanguageModel]
    codec: TextCodec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(ABC):
    """A guidance method; its plain fields are its options.

    Attributes:
        readings: how many texts of a request the target reads, for the memory plan.
        reads_contrast: whether another prompt may be given with each prompt (`Prompt.contrast`).
    """

    name: ClassVar[str]
    readings: ClassVar[int] = 1
    reads_contrast: ClassVar[bool] = False

    def models(self) -> Mapping[str, OtherModel]:
        """Return the other models that are loaded, by role. All share the target's vocabulary."""
        return {}

    def adapters(self) -> Mapping[str, str]:
        """Return the LoRA adapters of these models, by role."""
        return {}

    def contrast(self, prompt: GivenPrompt) -> GivenPrompt | None:
        """Return the other prompt that is read for this one, if the method derives one from it.

        It becomes `Prompt.contrast`, unless the user gives another one.
        """
        return None

    @abstractmethod
    def build(self, parts: Parts) -> LanguageModel:
        """Return the guided model. Raises `OutriderError` if the models do not fit."""

    def __str__(self) -> str:
        """The recipe as an expression, with the options that differ from their defaults."""
        changed = [
            f"{one.name}={_shown(value)}"
            for one in fields(self)
            if (value := getattr(self, one.name)) != one.default
        ]
        return f"{self.name}({','.join(changed)})" if changed else self.name


def _shown(value: Value | Path | LanguageModel | torch.nn.Module) -> str:
    """Return a value as text; a built model by its name, one of `transformers` by its class."""
    if isinstance(value, LanguageModel):
        return quoted(value.info.name)
    if isinstance(value, torch.nn.Module):
        return quoted(type(value).__name__)
    return text_of(str(value) if isinstance(value, Path) else value)
