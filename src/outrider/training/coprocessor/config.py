"""The configuration of `outrider train coprocessor`, read from a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError
from outrider.training.core.config import Corpus, Stage

_RANGES: Mapping[str, Range] = {
    "latents": Range(1, 256, whole=True, hint="Give 1 to 256 latents"),
    "ahead": Range(1, 256, whole=True, hint="Give 1 to 256 tokens"),
    "points": AT_LEAST_ONE,
    "rank": Range(1, 1024, whole=True, hint="Give a rank from 1 to 1024"),
    "lora_alpha": Range(0, above=True, hint="Give a number above 0"),
    "held_out": AT_LEAST_ONE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CoprocessorRecipe:
    """All options of `outrider train coprocessor`.

    Attributes:
        name: name of the coprocessor.
        target: the model whose cache is augmented: a folder, a GGUF file or a family.
        corpus: the texts of the training, and those on which loss is measured.
        stage: length and learning rate of the training; `sequence_length` counts the tokens of a
            text.
        latents: number of latents, the N of the paper.
        ahead: tokens after the latents whose loss is trained, the N_A of the paper.
        points: places of a text at which latents are inserted; none reads another.
        rank: rank of the LoRA updates of all matrices in layers.
        lora_alpha: the updates are multiplied by `lora_alpha / rank`.
        held_out: texts of each domain on which loss is measured.
        out: folder of the run.
        data: folder of the data sets.
        seed: seed of the corpus, the places and the training.
        threads: threads of PyTorch; 0: as they are.
        checkpoint_minutes: minutes between two checkpoints.
        evaluate_minutes: minutes between two evaluations.

    Raises:
        OptionError: a number out of range, or texts that are too short for their points.
    """

    name: str
    target: str
    corpus: Corpus
    stage: Stage
    latents: int = 16
    ahead: int = 16
    points: int = 12
    rank: int = 32
    lora_alpha: float = 32.0
    held_out: int = 24
    out: str = "runs/coprocessor"
    data: str = "data"
    seed: int = 0
    threads: int = 0
    checkpoint_minutes: float = 3.0
    evaluate_minutes: float = 5.0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        room = self.stage.sequence_length - self.ahead - 1
        if room < self.points:
            raise OptionError(
                f"a text of {self.stage.sequence_length} tokens has {max(room, 0)} places with "
                f"{self.ahead} tokens after the next one, and there are {self.points} points",
                hint="Raise sequence_length, or lower points or ahead",
            )
