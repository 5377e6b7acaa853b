"""The configuration of the training of an unmasking filter, read from a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass

from outrider.core.checks import AT_LEAST_ONE, SHARE, Range, check_ranges
from outrider.core.errors import reject_unknown
from outrider.diffusion.parallel.catalogue import TASKS

_RANGES: Mapping[str, Range] = {
    "items": Range(10, hint="Give at least 10: one tenth of them is held out"),
    "block": AT_LEAST_ONE,
    "sure": SHARE,
    "accept": SHARE,
    "steps": AT_LEAST_ONE,
    "evaluate_every": AT_LEAST_ONE,
    "learning_rate": Range(0.0, above=True, hint="Give a number above 0"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class UnmaskingRecipe:
    """All options of `outrider train unmasking`.

    Attributes:
        name: name of the filter.
        target: the masked denoiser: a folder or a family.
        tasks: tasks of `outrider.diffusion.parallel` whose training items are answered; empty: all.
        items: answers of each task.
        block: positions of a block; a filter is for one length.
        sure: a round of an answer writes its surest token, and all above this probability; at 1,
            one token alone as in the paper. Below it, answers cost fewer forwards.
        accept: the probability above which decoding takes a prediction for final; errors are
            measured there.
        steps: steps over all training rows together.
        evaluate_every: steps between two looks at the validation rows, whose best weights stay.
        learning_rate: of AdamW.
        out: folder of the run.
        seed: seed of the items, the split and the first weights.
        threads: threads of PyTorch; 0 lets it choose.
    """

    name: str
    target: str
    tasks: tuple[str, ...] = ()
    items: int = 40
    block: int = 32
    sure: float = 1.0
    accept: float = 0.96
    steps: int = 8000
    evaluate_every: int = 100
    learning_rate: float = 3e-3
    out: str = "runs/unmasking"
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        reject_unknown("task", self.tasks, TASKS)
