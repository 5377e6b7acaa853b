"""Reward models: sequence classifiers of `transformers`, from a local folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from outrider.core.errors import CheckpointError, OptionError, in_short

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Classifier:
    """A sequence classifier that reads prompt and text as a pair.

    With one output, the score is that output: a reward model. With several, it is the
    log-probability of one label.

    Attributes:
        folder: the folder, for names.
        model: the classifier.
        tokenizer: its tokenizer.
        label: number of the label; 0 for a model with one output.
    """

    folder: str
    model: Any
    tokenizer: Any
    label: int

    @classmethod
    def load(cls, folder: str | Path, label: str | None = None) -> "Classifier":
        """Load a classifier; nothing is downloaded and no code of the folder is run.

        Args:
            folder: a local folder in the format of `transformers`, with safetensors.
            label: name of the label; None for a model with one output.

        Raises:
            CheckpointError: the folder holds no classifier that can be loaded.
            OptionError: the label is missing or unknown.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        place = Path(folder).expanduser()
        if not (place / "config.json").is_file():
            raise CheckpointError(
                f"there is no classifier at {folder}", hint="Give a folder with config.json"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                place, local_files_only=True, trust_remote_code=False
            )
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                place, use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"the classifier {folder} cannot be loaded: {in_short(error)}",
                hint="Give a folder of a sequence classifier with safetensors",
            ) from None
        return cls(str(folder), model.eval(), tokenizer, _label(model, label))

    @property
    def name(self) -> str:
        """Its name."""
        return f"classifier:{self.folder}"

    @property
    def _longest(self) -> int:
        """Most tokens that it reads."""
        window = self.model.config.to_dict().get("max_position_embeddings")
        return min(self.tokenizer.model_max_length, window or self.tokenizer.model_max_length)

    @torch.inference_mode()
    def score(self, prompt: str, texts: Sequence[str]) -> list[float]:
        """Return the reward, or the log-probability of the label, for each text."""
        found: list[float] = []
        for first in range(0, len(texts), _BATCH):
            part = list(texts[first : first + _BATCH])
            inputs = self.tokenizer(
                [prompt] * len(part),
                part,
                padding=True,
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            )
            logits = self.model(**inputs).logits.float()
            if logits.shape[1] > 1:
                logits = logits.log_softmax(-1)
            found += logits[:, self.label].tolist()
        return found


def _label(model: Any, label: str | None) -> int:
    names = {str(name): int(number) for number, name in model.config.id2label.items()}
    if len(names) == 1 and label is None:
        return 0
    if label in names:
        return names[str(label)]
    raise OptionError(
        f"the label of the classifier is {label!r:.60}",
        hint=f"Give one of {', '.join(sorted(names))}: classifier:FOLDER#LABEL",
    )
