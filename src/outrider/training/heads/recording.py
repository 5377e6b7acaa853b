"""Records and reads answers of a target for trainings that need their ids alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from outrider.core.errors import OptionError
from outrider.core.types import IntArray
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model
from outrider.training.core.loop import StopSignal
from outrider.training.heads.answers import AnswerSettings, Recorder, record
from outrider.training.heads.data import RecordedTexts
from outrider.training.heads.prompts import PromptFile, training_prompts


class AnswerRecipe(Protocol):
    """The options on which recorded answers depend."""

    @property
    def prompts(self) -> tuple[PromptFile, ...]:
        """Files of prompts."""
        ...

    @property
    def answers(self) -> AnswerSettings:
        """How the target answers them."""
        ...

    @property
    def threads(self) -> int:
        """Threads of the target; 0: the best number."""
        ...


def record_answers(
    recipe: AnswerRecipe,
    source: Path,
    data: Path,
    folder: Path,
    report: Callable[[str], None],
    stop: StopSignal,
) -> None:
    """Write the answers that `folder` still lacks, with the last states of the target.

    Raises:
        TrainingStopped: `stop` asked for it; the next run continues.
    """
    target = load_model(source, threads=recipe.threads or None)
    states = target.hidden_states
    layers = (states.num_layers,) if states is not None else ()
    recorder = Recorder.of(target, Tokenizer.load(source), layers, recipe.answers)
    prompts = training_prompts(recipe.prompts, data, recipe.answers.seed)
    record(recorder, prompts, folder, report, stop)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A recorded text.

    Attributes:
        ids: `[tokens]` of prompt and answer.
        first: the place of the last token of the prompt.
    """

    ids: IntArray
    first: int

    def places(self, ahead: int) -> IntArray:
        """Return all places of the answer that have `ahead` further tokens after the next one."""
        return np.arange(self.first, len(self.ids) - 1 - ahead)


def recorded(folder: Path, vocab_size: int) -> list[Example]:
    """Return all recorded texts. Raises `OptionError` if there are none."""
    texts = RecordedTexts(folder, vocab_size, 1, hints=False)
    return [Example(texts.ids(place), place.prompt - 1) for place in texts.places]


def split_held_out(
    examples: Sequence[Example], held_out: int
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return the first `held_out` texts, and all others, on which a model is trained.

    Raises:
        OptionError: there are no others.
    """
    training = examples[held_out:]
    if not training:
        raise OptionError(
            f"{len(examples)} answers are long enough, and {held_out} are held out",
            hint="Record more answers, or lower held_out",
        )
    return examples[:held_out], training
