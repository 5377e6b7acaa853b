"""The configuration of the training of prompt tokens, read from a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError
from outrider.training.heads.answers import AnswerSettings
from outrider.training.heads.prompts import PromptFile

_RANGES: Mapping[str, Range] = {
    "prompt_tokens": Range(1, 8, whole=True, hint="Give 1 to 8 prompt tokens"),
    "copies": Range(1, 8, whole=True, hint="Give 1 to 8 copies"),
    "ranks": Range(1, 64, whole=True, hint="Give 1 to 64 ranks"),
    "places": AT_LEAST_ONE,
    "texts": AT_LEAST_ONE,
    "passes": Range(0, above=True, hint="Give a number of passes above 0"),
    "learning_rate": Range(0, above=True, hint="Give a learning rate above 0"),
    "held_out": AT_LEAST_ONE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PpdRecipe:
    """All options of `outrider train ppd`.

    Attributes:
        name: name of the prompt tokens.
        target: the model that reads them: a folder, a GGUF file or a family.
        prompts: files of prompts, below the data folder.
        prompt_tokens: number of prompt tokens: how many tokens after the next one are guessed.
        copies: embeddings of each; their logits are averaged, and each takes a row.
        ranks: guesses of each prompt token.
        answers: how the target answers the prompts.
        places: places of a text after which prompt tokens are trained in one step.
        texts: texts of a step.
        passes: passes over the texts.
        learning_rate: of Adam; it falls as a cosine.
        max_minutes: minutes after which training ends; None: after all passes.
        held_out: texts on which the guesses of each rank are counted.
        out: folder of the run.
        data: folder of the data sets.
        seed: seed of the training.
        threads: threads of PyTorch; 0: what is fastest when the run begins.
    """

    name: str
    target: str
    prompts: tuple[PromptFile, ...]
    prompt_tokens: int = 3
    copies: int = 1
    ranks: int = 10
    answers: AnswerSettings = field(default_factory=AnswerSettings)
    places: int = 32
    texts: int = 2
    passes: float = 1.0
    learning_rate: float = 1e-2
    max_minutes: float | None = None
    held_out: int = 24
    out: str = "runs/ppd"
    data: str = "data"
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if not self.prompts:
            raise OptionError("there are no prompts", hint="Add a table [[prompts]]")
