"""The configuration of the training of a stop head, read from a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass

from outrider.core.checks import AT_LEAST_ONE, SHARE, ZERO_OR_MORE, Range, check_ranges
from outrider.core.errors import OptionError
from outrider.training.heads.prompts import PromptFile

_ABOVE = Range(0.0, above=True, hint="Give a number above 0")
_RANGES: Mapping[str, Range] = {
    "texts": AT_LEAST_ONE,
    "held_out": AT_LEAST_ONE,
    "longest": Range(2, hint="Give at least 2 tokens"),
    "temperature": Range(0.0, above=True, hint="Give a number above 0: tokens are sampled"),
    "copied": SHARE,
    "layers": ZERO_OR_MORE,
    "mismatch_weight": _ABOVE,
    "epochs": AT_LEAST_ONE,
    "batch": AT_LEAST_ONE,
    "learning_rate": _ABOVE,
    "warmup": SHARE,
    "depth": AT_LEAST_ONE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRecipe:
    """All options of `outrider train stop`.

    Attributes:
        name: name of the head.
        target: the model that verifies: a folder, a GGUF file or a family.
        prompts: files of prompts, below the data folder.
        draft: the model whose states the head reads; empty: the draft model of the family.
        texts: number of answers on which the head is trained.
        held_out: number of further answers on which it is measured.
        longest: largest number of tokens of an answer.
        longest_prompt: prompts with more tokens are left out.
        temperature: of the answers and of drafted tokens.
        copied: share of the tokens of the input that are the answer's own; the others are drafted.
        layers: number of residual layers.
        mismatch_weight: weight of refused tokens in the loss.
        epochs: passes over the tokens.
        batch: tokens of a step.
        learning_rate: the largest one; it falls as a cosine.
        warmup: share of the steps in which the learning rate rises.
        depth: tokens of the drafts in the measurement.
        out: folder of the run.
        data: folder of the data sets.
        seed: seed of the prompts, the samples and the training.
        threads: threads of PyTorch; 0 lets it choose.
    """

    name: str
    target: str
    prompts: tuple[PromptFile, ...]
    draft: str = ""
    texts: int = 400
    held_out: int = 40
    longest: int = 96
    longest_prompt: int = 320
    temperature: float = 1.0
    copied: float = 0.15
    layers: int = 3
    mismatch_weight: float = 6.0
    epochs: int = 3
    batch: int = 256
    learning_rate: float = 1e-3
    warmup: float = 0.03
    depth: int = 12
    out: str = "runs/stop"
    data: str = "data"
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if not self.prompts:
            raise OptionError("there are no prompts", hint="Add a table [[prompts]]")
        if self.copied == 1.0:
            raise OptionError("copied is 1", hint="Give a share below 1: no token would be drafted")
