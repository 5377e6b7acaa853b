"""The configuration of a head's training, read from a TOML file."""

from dataclasses import dataclass, field

from outrider.core.errors import OptionError
from outrider.models.heads.config import HeadKind
from outrider.training.heads.answers import AnswerSettings
from outrider.training.heads.prompts import PromptFile

TRAINED = (
    HeadKind.HINTED,
    HeadKind.EAGLE3,
    HeadKind.EAGLE1,
    HeadKind.FSPAD,
    HeadKind.MEDUSA,
    HeadKind.CHIMERA,
    HeadKind.CLOVER,
)
"""Kinds of heads that can be trained."""
MOST_HEADS = 8
"""The paper trains three to five."""
MOST_LAYERS = 8
"""Clover has two layers."""
_STORED = {
    HeadKind.EAGLE3: "EAGLE-3 heads are written in float32",
    HeadKind.MEDUSA: "Medusa heads are written with 8 bits",
    HeadKind.CHIMERA: "heads of Chimera are written with 8 bits",
    HeadKind.CLOVER: "Clover heads are written with 8 bits",
}
"""Kinds whose files have no choice of bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadTraining:
    """How a head is trained.

    Attributes:
        single: passes over the texts in which one step is trained.
        unrolled: passes after them, in which `steps` steps are trained.
        steps: number of steps of a chain that are trained; of Clover in both parts of the training.
        learning_rate: the largest one; it rises in the first batches and then falls as a cosine.
        entry_rate: learning rate of the matrices that enter the stream, which the ridge fit has
            set, relative to that of the others.
        texts: texts of a batch.
        start: folder of a head of the same kind, states and width that is trained further, with its
            draft vocabulary and its table of hints. Empty: a fresh head.
        bits: bits of the matrices of the finished head: 8, or 4, to which forwards then round them
            during training. EAGLE-3 heads are written in float32.
        share: share of the recorded texts that is used, for studies of the amount of data.
        random: whether the head starts at random instead of with the target's last layer.
        ridge: whether the matrices that enter the stream are fitted first; not for EAGLE-3.
        noise: strength of the noise on the final states that heads of EAGLE-1 and FSPAD read.
        soft: for kind chimera: weight of the target's distribution beside the true tokens.
        hints: whether hints are read; without them, all have level 0.
        held_out: texts on which acceptance is measured during training.
        evaluate_minutes: minutes between two measurements.
        max_minutes: minutes after which training ends; the learning rate falls with the larger of
            the share of batches and the share of minutes.
    """

    single: float = 2.0
    unrolled: float = 3.0
    steps: int = 3
    learning_rate: float = 1e-3
    entry_rate: float = 0.2
    texts: int = 4
    start: str = ""
    bits: int = 8
    share: float = 1.0
    random: bool = False
    ridge: bool = True
    noise: float = 0.2
    soft: float = 1.0
    hints: bool = True
    held_out: int = 48
    evaluate_minutes: float = 5.0
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        for name, given in (("noise", self.noise), ("soft", self.soft)):
            if not 0 <= given < float("inf"):
                raise OptionError(
                    f"training has {name} {given:g}", hint="Give a number of at least 0"
                )
        if self.steps < 1 or self.texts < 1 or not 0 < self.share <= 1:
            raise OptionError(
                f"training has {self.steps} steps, batches of {self.texts} texts and a share of "
                f"{self.share:g}",
                hint="Give at least one step and one text, and a share above 0 and at most 1",
            )
        if self.bits not in (4, 8):
            raise OptionError(f"training.bits is {self.bits}", hint="Give 8 or 4")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadRecipe:
    """All options of `outrider train head`.

    Attributes:
        name: name of the head.
        target: the model for which it drafts: a folder, a GGUF file or a family.
        prompts: files of prompts, below the data folder.
        kind: the kind of the head.
        sampling: for kind fspad: whether the token is mixed into the state in a wider space first.
        alignment: for kind fspad: whether logits may leave the predicted state.
        trigram: for kind chimera: whether its encoder reads three tokens; else the last one only.
        context: for kind chimera: whether a layer reads the target's final states.
        layers: for kind clover: layers of the augmenting block; 0 leaves it out.
        regressive: for kind clover: whether later heads read the token that was drafted before.
        heads: number of heads of kinds medusa and chimera, which are trained together in both parts
            of the training.
        states: numbers of the target's hidden states that are recorded; the last one is the final
            state, which a head of EAGLE-3 does not fuse, and all others but hinted ones read alone.
            Empty: after layer 2, in the middle, three layers before the end, and the end.
        draft_vocab: number of tokens that it can draft, beside hints.
        train_vocab: number of tokens over which it is trained, beside those of each batch.
        answers: how the answers are written.
        training: how the head is trained.
        out: folder of the run.
        data: folder of the data sets.
        seed: seed of the training.
        threads: threads of PyTorch and of the target; 0: what is fastest when the run begins. Other
            programs on the same processors can mislead that choice.
    """

    name: str
    target: str
    prompts: tuple[PromptFile, ...]
    kind: str = "hinted"
    sampling: bool = True
    alignment: bool = True
    trigram: bool = True
    context: bool = True
    layers: int = 2
    regressive: bool = True
    heads: int = 4
    states: tuple[int, ...] = ()
    draft_vocab: int = 4096
    train_vocab: int = 2048
    answers: AnswerSettings = field(default_factory=AnswerSettings)
    training: HeadTraining = field(default_factory=HeadTraining)
    out: str = "runs/head"
    data: str = "data"
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        if self.kind not in TRAINED:
            raise OptionError(f"kind is {self.kind!r}", hint=f"Give one of {', '.join(TRAINED)}")
        if (stored := _STORED.get(HeadKind(self.kind))) and self.training.bits != 8:
            raise OptionError(
                f"training.bits is {self.training.bits}, and {stored}",
                hint="Leave out training.bits",
            )
        if self.kind == HeadKind.FSPAD and not (self.sampling or self.alignment):
            raise OptionError(
                "a head of FSPAD has neither sampling nor alignment",
                hint='Switch one of them on, or give kind = "eagle1", which is the same head',
            )
        if not 1 <= self.heads <= MOST_HEADS:
            raise OptionError(f"heads is {self.heads}", hint=f"Give 1 to {MOST_HEADS} heads")
        if not 0 <= self.layers <= MOST_LAYERS:
            raise OptionError(f"layers is {self.layers}", hint=f"Give 0 to {MOST_LAYERS} layers")
        if self.kind == HeadKind.EAGLE3 and len(self.states) == 1:
            raise OptionError(
                f"states are {self.states[0]:g} only, and an EAGLE-3 head leaves out the last one",
                hint="Give at least one more, before it",
            )

    def numbers(self, num_layers: int) -> tuple[int, ...]:
        """Return the numbers of the recorded states for a target of so many layers.

        Raises:
            OptionError: they do not ascend, or do not end with the final state.
        """
        if self.states:
            if list(self.states) != sorted(set(self.states)) or self.states[-1] != num_layers:
                raise OptionError(
                    f"states are {list(self.states)}, and the target has {num_layers} layers",
                    hint="Give ascending numbers that end with the number of layers",
                )
            return self.states
        low, middle, high = min(2, num_layers), num_layers // 2, max(num_layers - 3, 0)
        return tuple(sorted({low, middle, high, num_layers}))
