"""The configuration of `outrider train denoiser`, read from a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError, reject_unknown
from outrider.diffusion.parallel.catalogue import TASKS
from outrider.training.core.config import Source

_RANGES: Mapping[str, Range] = {
    "epsilon": Range(0, 1, above=True, hint="Give a share above 0, such as 0.02"),
    "longest_prompt": AT_LEAST_ONE,
    "longest_answer": AT_LEAST_ONE,
    "batch": AT_LEAST_ONE,
    "steps": AT_LEAST_ONE,
    "learning_rate": Range(0, above=True, hint="Give a learning rate above 0"),
    "evaluate_items": AT_LEAST_ONE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskShare:
    """A task of `outrider.diffusion.parallel` and its weight in the mixture."""

    name: str
    weight: float

    def __post_init__(self) -> None:
        reject_unknown("task", [self.name], TASKS)


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiserRecipe:
    """All options of `outrider train denoiser`.

    Attributes:
        name: name of the model.
        start: the autoregressive model that training starts from: a folder or a family.
        tasks: the generated tasks; training draws items of their training split.
        sources: files of further prompts and answers, below the data folder.
        shifted: row i predicts position i + 1, as in the model that training starts from; else it
            predicts its own position.
        epsilon: the smallest share of masked positions of an answer.
        longest_prompt: longer prompts are left out, in tokens.
        longest_answer: longer answers are left out, in tokens with their end token.
        source_pairs: at most so many prompts and answers of a source are read.
        batch: texts of a step.
        steps: steps after which training ends.
        max_minutes: minutes after which training ends; None: after all steps.
        learning_rate: the first one; it falls linearly.
        final_learning_rate: the last one.
        warmup_steps: steps in which the rate rises.
        checkpoint_minutes: time between two checkpoints.
        evaluate_minutes: time between two evaluations.
        export_minutes: when the weights are exported besides the end.
        evaluate_items: test items of each task in an evaluation.
        out: folder of the run.
        data: folder of the data sets.
        seed: seed of the training.
        threads: threads of PyTorch; 0: as they are.
    """

    name: str
    start: str
    tasks: tuple[TaskShare, ...]
    sources: tuple[Source, ...] = ()
    shifted: bool = True
    epsilon: float = 0.02
    longest_prompt: int = 96
    longest_answer: int = 64
    source_pairs: int = 20_000
    batch: int = 32
    steps: int = 10_000
    max_minutes: float | None = None
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-4
    warmup_steps: int = 50
    checkpoint_minutes: float = 3.0
    evaluate_minutes: float = 10.0
    export_minutes: tuple[float, ...] = ()
    evaluate_items: int = 8
    out: str = "runs/denoiser"
    data: str = "data"
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if not self.tasks and not self.sources:
            raise OptionError("there is nothing to learn", hint="Add a table [[tasks]]")
