"""Records answers of a target for trainings that need their ids alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model
from outrider.training.core.loop import StopSignal
from outrider.training.heads.answers import AnswerSettings, Recorder, record
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
