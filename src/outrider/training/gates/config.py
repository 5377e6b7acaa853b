"""The configuration of `outrider train gates`, read from a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError, reject_unknown
from outrider.training.gates.problems import TASKS

METHODS = ("rlkv", "duo")
_ABOVE_ZERO = Range(0, above=True, below=True, hint="Give a number above 0")
_FROM_ZERO = Range(0, below=True, hint="Give a number of at least 0")
_ALL: Mapping[str, Range] = {
    "sinks": Range(0, whole=True, hint="Give 0 or more tokens"),
    "recent": AT_LEAST_ONE,
    "facts": Range(2, whole=True, hint="Give at least 2 facts"),
    "filler": Range(0, whole=True, hint="Give 0 or more tokens"),
    "problems": AT_LEAST_ONE,
    "attempts": AT_LEAST_ONE,
}
_RLKV: Mapping[str, Range] = {
    "steps": AT_LEAST_ONE,
    "queries": AT_LEAST_ONE,
    "samples": Range(2, whole=True, hint="Give at least 2 samples, which are compared"),
    "temperature": _ABOVE_ZERO,
    "learning_rate": _ABOVE_ZERO,
    "penalty": _FROM_ZERO,
    "threshold": Range(0, 1, hint="Give a reward from 0 to 1"),
}
_DUO: Mapping[str, Range] = {
    "steps": AT_LEAST_ONE,
    "texts": AT_LEAST_ONE,
    "learning_rate": _ABOVE_ZERO,
    "penalty": _FROM_ZERO,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RlkvRecipe:
    """The options of RLKV.

    Attributes:
        steps: steps of the training.
        queries: problems of a step.
        samples: answers to each.
        temperature: of the answers.
        learning_rate: of AdamW, as in the paper.
        penalty: beta, the weight of the mean gate; 1e-3 in the paper.
        threshold: tau: the penalty is 0 while the mean reward of a step is not above it.
    """

    steps: int = 60
    queries: int = 8
    samples: int = 4
    temperature: float = 1.0
    learning_rate: float = 1e-2
    penalty: float = 1e-3
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_ranges(self, _RLKV)


@dataclass(frozen=True, kw_only=True, slots=True)
class DuoRecipe:
    """The options of DuoAttention.

    Attributes:
        steps: steps of the training.
        texts: texts of a step.
        learning_rate: of AdamW, as in the paper.
        penalty: weight of the mean gate, as in the paper.
    """

    steps: int = 60
    texts: int = 8
    learning_rate: float = 2e-2
    penalty: float = 0.05

    def __post_init__(self) -> None:
        check_ranges(self, _DUO)


@dataclass(frozen=True, kw_only=True, slots=True)
class GatesRecipe:
    """All options of `outrider train gates`.

    Attributes:
        name: name of the files: NAME-rlkv.safetensors and NAME-duo.safetensors.
        target: the model whose heads are ranked: a folder, a GGUF file or a family.
        methods: what is trained: `rlkv`, `duo` or both.
        tasks: kinds of problems: `codes`, `places`.
        facts: facts of each pass of a text.
        filler: tokens of sentences without facts between the facts of a text.
        problems: problems of the training, all solved by the model with full attention.
        attempts: largest number of problems that are tried for them.
        sinks: first tokens that local attention reads.
        recent: most recent tokens that it reads, the current one included.
        rlkv: the options of RLKV.
        duo: the options of DuoAttention.
        max_minutes: minutes after which each training ends; None: after all steps.
        out: folder of the run.
        seed: seed of problems and answers.
        threads: threads of PyTorch; 0: as they are.
    """

    name: str
    target: str
    methods: tuple[str, ...] = METHODS
    tasks: tuple[str, ...] = ("codes",)
    facts: int = 8
    filler: int = 0
    problems: int = 128
    attempts: int = 4096
    sinks: int = 4
    recent: int = 16
    rlkv: RlkvRecipe = field(default_factory=RlkvRecipe)
    duo: DuoRecipe = field(default_factory=DuoRecipe)
    max_minutes: float | None = None
    out: str = "runs/gates"
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _ALL)
        reject_unknown("method", self.methods, METHODS)
        reject_unknown("task", self.tasks, TASKS)
        if not self.methods or not self.tasks:
            raise OptionError("there is no method or no task", hint="Name at least one of each")
