"""The configuration of `outrider train lud`, read from a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError, reject_unknown
from outrider.training.heads.answers import AnswerSettings
from outrider.training.heads.prompts import PromptFile

FORMS = ("in-place", "beside")
"""Where pads stand in training: in place of the tokens, as in the paper, or beside the text, as
they do in decoding."""
_RANGES: Mapping[str, Range] = {
    "k": Range(2, 32, whole=True, hint="Give 2 to 32 tokens of a pass"),
    "alpha": Range(0, 1, hint="Give a probability from 0 to 1"),
    "plain_share": Range(0, 1, hint="Give a share from 0 to 1"),
    "rank": Range(1, 1024, whole=True, hint="Give a rank from 1 to 1024"),
    "lora_alpha": Range(0, above=True, hint="Give a number above 0"),
    "ranks": Range(1, 64, whole=True, hint="Give 1 to 64 ranks"),
    "texts": AT_LEAST_ONE,
    "passes": Range(0, above=True, hint="Give a number of passes above 0"),
    "learning_rate": Range(0, above=True, hint="Give a learning rate above 0"),
    "held_out": AT_LEAST_ONE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LudRecipe:
    """All options of `outrider train lud`.

    Attributes:
        name: name of the adapter.
        target: the model that is tuned: a folder, a GGUF file or a family.
        prompts: files of prompts, below the data folder.
        k: tokens of a pass: k - 1 pads guess beside the next token.
        alpha: a unit is a run of tokens to which the frozen target gives more than this.
        form: `in-place`, as in the paper: pads replace tokens, and later tokens read them;
            `beside`: pads are further rows that no token reads, as in decoding.
        plain_share: share of the texts without pads; with `beside`, the text of every sample is
            plain.
        rank: rank of the LoRA updates of all matrices in layers.
        lora_alpha: the updates are multiplied by `lora_alpha / rank`.
        ranks: guesses of each pad that are counted for drafts.
        answers: how the target answers the prompts.
        texts: texts of a step.
        passes: passes over the texts.
        learning_rate: the first one; it falls linearly to zero.
        max_minutes: minutes after which training ends; None: after all passes.
        held_out: texts on which loss and guesses are measured.
        out: folder of the run.
        data: folder of the data sets.
        seed: seed of the training.
        threads: threads of PyTorch; 0: as they are.
    """

    name: str
    target: str
    prompts: tuple[PromptFile, ...]
    k: int = 4
    alpha: float = 0.9
    form: str = "in-place"
    plain_share: float = 0.5
    rank: int = 16
    lora_alpha: float = 32.0
    ranks: int = 1
    answers: AnswerSettings = field(default_factory=AnswerSettings)
    texts: int = 8
    passes: float = 2.0
    learning_rate: float = 1e-3
    max_minutes: float | None = None
    held_out: int = 32
    out: str = "runs/lud"
    data: str = "data"
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        reject_unknown("form", {self.form: None}, FORMS)
        if not self.prompts:
            raise OptionError("there are no prompts", hint="Add a table [[prompts]]")
