"""The configuration of the training of a masked draft model, read from a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError
from outrider.training.heads.answers import AnswerSettings
from outrider.training.heads.prompts import PromptFile

_STAGE: Mapping[str, Range] = {
    "passes": Range(0, above=True, hint="Give a number of passes above 0"),
    "learning_rate": Range(0, above=True, hint="Give a learning rate above 0"),
    "max_minutes": Range(0, above=True, optional=True, hint="Give a number of minutes above 0"),
    "growth": Range(0.5, 2, hint="Give a number from 0.5 to 2; the paper takes 1.01"),
}
_RANGES: Mapping[str, Range] = {
    "block": Range(2, 64, whole=True, hint="Give 2 to 64 tokens"),
    "plain": Range(0, hint="Give a weight of at least 0"),
    "cuts": AT_LEAST_ONE,
    "texts": AT_LEAST_ONE,
    "held_out": AT_LEAST_ONE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecipe:
    """One stage of the training.

    Attributes:
        passes: passes over the texts.
        learning_rate: of AdamW; it falls linearly.
        max_minutes: minutes by the clock after which the stage ends; None: after all passes.
        growth: the weight of a token relative to that of the token after it; stage II only.
    """

    passes: float
    learning_rate: float
    max_minutes: float | None = None
    growth: float = 1.01

    def __post_init__(self) -> None:
        check_ranges(self, _STAGE)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeerRecipe:
    """All options of `outrider train deer`.

    Attributes:
        name: name of the draft model.
        target: the model for which it drafts: a folder, a GGUF file or a family.
        draft: the model whose weights it starts with: the same, `tiny:qualifier` for that tier of a
            family, or a family for its draft model.
        prompts: files of prompts, below the data folder.
        answers: how the target answers the prompts.
        block: the largest number of tokens of a block that it learns to draft.
        both: whether a masked row reads the masks behind it, as in the paper, or only those before.
        plain: the weight of the loss of all next tokens of an answer, relative to that of blocks,
            whose first tokens are next tokens. 0: as in the paper, there is no such loss.
        cuts: places of a text behind which a block is masked in one step.
        texts: texts of a step.
        first: stage I: some of the tokens of a block are masked.
        second: stage II: all of them are, and a block has 1 to `block` tokens.
        held_out: texts on which right tokens are counted.
        out: folder of the run.
        data: folder of the data sets.
        seed: seed of the training.
        threads: threads of PyTorch; 0: as they are.
    """

    name: str
    target: str
    draft: str
    prompts: tuple[PromptFile, ...]
    first: StageRecipe
    second: StageRecipe
    answers: AnswerSettings = field(default_factory=AnswerSettings)
    block: int = 16
    both: bool = True
    plain: float = 1.0
    cuts: int = 12
    texts: int = 8
    held_out: int = 48
    out: str = "runs/deer"
    data: str = "data"
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if not self.prompts:
            raise OptionError("there are no prompts", hint="Add a table [[prompts]]")
