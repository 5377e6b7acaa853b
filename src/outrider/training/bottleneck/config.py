"""The configuration of the training of a memory of labels, read from a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError
from outrider.memories.bottleneck import KeySettings
from outrider.training.bottleneck.fit import Fitting

_RANGES: Mapping[str, Range] = {
    "per_label": AT_LEAST_ONE,
    "held_out": AT_LEAST_ONE,
    "unlabelled_texts": AT_LEAST_ONE,
    "layer": Range(-1, whole=True, hint="Give a layer, or -1 for the last states"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFile:
    """A file of records below the data folder, `.jsonl` or `.jsonl.zst`.

    Attributes:
        file: its path.
        text: the field of the text.
        label: the field of the label; empty: the records have none.
        licence: of the records, for the card.
    """

    file: str
    text: str = "text"
    label: str = ""
    licence: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Labels that are learned together; the records of later tasks are not known then."""

    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BottleneckRecipe:
    """All options of `outrider train bottleneck`.

    Attributes:
        name: name of the memory.
        target: the model whose states it reads: a folder, a GGUF file or a family.
        labelled: the texts with labels.
        unlabelled: texts for the keys. Those whose label is in a task are left out.
        tasks: which labels are learned first, second and so on.
        layer: which states, as in `HiddenStates`; -1: the last ones.
        form: what the model reads, with `{text}` where the text stands.
        per_label: texts of a label that are learned.
        held_out: further texts of a label, on which the memory is measured.
        unlabelled_texts: largest number of texts for the keys.
        books: number of books.
        keys: number of keys of a book.
        size: numbers of a key.
        decay: of the running means that make the keys.
        key_epochs: passes over the unlabelled texts.
        rate: learning rate of the values.
        epochs: passes over the texts of a task.
        batch: texts of a step.
        out: folder of the run.
        data: folder of the data sets.
        seed: seed of the texts, the keys and the order of texts.
        threads: threads of PyTorch; 0 lets it choose.
    """

    name: str
    target: str
    labelled: TextFile
    unlabelled: TextFile
    tasks: tuple[Task, ...]
    layer: int = -1
    form: str = "{text}"
    per_label: int = 400
    held_out: int = 100
    unlabelled_texts: int = 4096
    books: int = 256
    keys: int = 1024
    size: int = 14
    decay: float = 0.95
    key_epochs: int = 10
    rate: float = 30.0
    epochs: int = 20
    batch: int = 32
    out: str = "runs/bottleneck"
    data: str = "data"
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if not self.labelled.label:
            raise OptionError("labelled texts have no field of labels", hint="Add label = FIELD")
        labels = self.labels
        if not labels or not all(task.labels for task in self.tasks):
            raise OptionError("a task has no labels", hint="Add tables [[tasks]] with labels")
        if len({*labels}) < len(labels):
            twice = next(one for one in labels if labels.count(one) > 1)
            raise OptionError(f"label {twice!r} is in two places", hint="Name each label once")
        _ = self.key_settings, self.fitting  # both check their ranges

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels in the order of the tasks."""
        return tuple(label for task in self.tasks for label in task.labels)

    @property
    def key_settings(self) -> KeySettings:
        """How the keys are made."""
        return KeySettings(
            books=self.books,
            keys=self.keys,
            size=self.size,
            decay=self.decay,
            epochs=self.key_epochs,
            seed=self.seed,
        )

    @property
    def fitting(self) -> Fitting:
        """How the values are learned."""
        return Fitting(rate=self.rate, epochs=self.epochs, batch=self.batch, seed=self.seed)
