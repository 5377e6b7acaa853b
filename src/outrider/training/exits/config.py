"""The configuration of the training of a draft model with early exits, read from a TOML file."""

from dataclasses import dataclass

from outrider.core.errors import OptionError
from outrider.core.layers import Exits
from outrider.training.core.config import Corpus, Stage
from outrider.training.heads.prompts import PromptFile


@dataclass(frozen=True, kw_only=True, slots=True)
class ExitsRecipe:
    """All options of `outrider train exits`.

    Attributes:
        name: name of the draft model.
        start: the model that it is made of: a folder, or a tier of a family (`tiny:qualifier`).
        layers: number of its layers: the first ones of `start`, and new ones after them.
        exits: number of layers before each exit, ascending; the last is `layers`.
        corpus: what it is trained on.
        stage: length and learning rate of the training.
        targets: models for which thresholds are chosen, each a folder, a family (its target) or a
            tier of one.
        prompts: files of prompts on which thresholds are chosen, below the data folder.
        measured: number of these prompts.
        longest: largest number of tokens of their answers.
        longest_prompt: prompts with more tokens are left out.
        depth: largest number of tokens of a draft.
        grid: thresholds that are tried; equal at all exits.
        out: folder of the run.
        data: folder of the data sets.
        seed: seed of the corpus, the windows and the prompts.
        threads: threads of PyTorch; 0 lets it choose.
        checkpoint_minutes: minutes between two checkpoints.
        evaluate_minutes: minutes between two evaluations.

    Raises:
        OptionError: exits that do not ascend, or do not end with the last layer.
    """

    name: str
    start: str
    layers: int
    exits: tuple[int, ...]
    corpus: Corpus
    stage: Stage
    targets: tuple[str, ...] = ()
    prompts: tuple[PromptFile, ...] = ()
    measured: int = 24
    longest: int = 64
    longest_prompt: int = 320
    depth: int = 5
    grid: tuple[float, ...] = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)
    out: str = "runs/exits"
    data: str = "data"
    seed: int = 0
    threads: int = 0
    checkpoint_minutes: float = 5.0
    evaluate_minutes: float = 5.0

    def __post_init__(self) -> None:
        Exits(layers=self.exits).check(self.layers, self.name)
        if self.targets and not self.prompts:
            raise OptionError(
                "thresholds are chosen for targets, but there are no prompts",
                hint="Add a table [[prompts]], or leave out targets",
            )
