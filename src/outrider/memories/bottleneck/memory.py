"""Labels by the values of fetched keys, of which only those that were fetched ever change.

Source: Traeuble et al., Discrete Key-Value Bottleneck, ICML 2023 (arXiv 2207.11240).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.memories.bottleneck.files import Origin, read_files, write_files
from outrider.memories.bottleneck.keys import Keys
from outrider.protocols.trained import TrainedFiles


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Bottleneck:
    """A memory from hidden states to labels.

    The scores of a state are the mean of the values that its nearest key of each book fetches. A
    step of `learn` changes these values and no others, so that what was learned about states with
    other keys stays as it was, bit by bit.

    Attributes:
        keys: finds the nearest keys; it never changes.
        values: the values of all keys, which `learn` changes in place.
        used: the keys whose values have been learned.
        labels: the name of each label.
        origin: which states it reads.
    """

    keys: Keys
    values: Float[Tensor, "books keys labels"]
    used: Bool[Tensor, "books keys"]
    labels: tuple[str, ...]
    origin: Origin = field(default_factory=Origin)

    @classmethod
    def empty(cls, keys: Keys, labels: Sequence[str], origin: Origin | None = None) -> "Bottleneck":
        """Make a memory that has learned nothing: all values are 0.

        Raises:
            OptionError: there are no labels, or two have the same name.
        """
        if not labels or len({*labels}) < len(labels):
            raise OptionError(
                f"labels are {list(labels)!r:.60}", hint="Give at least one, each of them once"
            )
        books, count, _ = keys.keys.shape
        return cls(
            keys=keys,
            values=torch.zeros(books, count, len(labels)),
            used=torch.zeros(books, count, dtype=torch.bool),
            labels=tuple(labels),
            origin=origin or Origin(),
        )

    @classmethod
    def read(cls, folder: str | Path) -> "Bottleneck":
        """Read the files that `save` and `outrider train bottleneck` write.

        Raises:
            CheckpointError: files that are missing or damaged.
        """
        return cls._of(*read_files(folder))

    @classmethod
    def _of(cls, files: TrainedFiles, labels: tuple[str, ...], origin: Origin) -> "Bottleneck":
        keys = files.tensor("keys", -1, -1, -1)
        books, count, size = keys.shape
        scale = files.tensor("scale", -1)
        if not bool((scale > 0.0).all()):
            raise files.damaged("a scale is not above 0")
        return cls(
            keys=Keys(
                projections=files.tensor("projections", books, len(scale), size),
                keys=keys,
                mean=files.tensor("mean", len(scale)),
                scale=scale,
            ),
            values=files.tensor("values", books, count, len(labels)),
            used=files.tensor("used", books, count) > 0.0,
            labels=labels,
            origin=origin,
        )

    def save(self, folder: str | Path) -> None:
        """Write `bottleneck.json` and `bottleneck.safetensors`; earlier files are replaced.

        Raises:
            OptionError: the system refuses to write there.
        """
        tensors = {
            "projections": self.keys.projections,
            "keys": self.keys.keys,
            "mean": self.keys.mean,
            "scale": self.keys.scale,
            "values": self.values,
            "used": self.used.to(torch.uint8),
        }
        write_files(Path(folder).expanduser(), tensors, self.labels, self.origin)

    def scores(self, fetched: Int64[Tensor, "rows books"]) -> Float[Tensor, "rows labels"]:
        """Return the mean value over the books, for keys that `Keys.fetch` has found."""
        return self.values[torch.arange(len(self.values)), fetched].mean(1)

    def learn(
        self, fetched: Int64[Tensor, "rows books"], labels: Int64[Tensor, " rows"], rate: float
    ) -> float:
        """Take one step of gradient descent on the mean cross-entropy; return the loss before it.

        There is no momentum and no decay: both would change values that were not fetched.

        Args:
            fetched: of each row, the keys that `Keys.fetch` has found.
            labels: of each row, the place of its label in `labels`.
            rate: the learning rate.
        """
        scores = self.scores(fetched)
        books, count, size = self.values.shape
        wrong = scores.softmax(1) - F.one_hot(labels, size)
        places = (torch.arange(books) * count + fetched).flatten()
        step = (wrong * (-rate / (books * len(labels)))).repeat_interleave(books, dim=0)
        self.values.view(-1, size).index_add_(0, places, step)
        self.used.view(-1)[places] = True
        return float(F.cross_entropy(scores, labels))

    def chances(
        self, states: Float[Tensor, "..."], *, used_only: bool = False
    ) -> Float[Tensor, "rows labels"]:
        """Return the chance of each label.

        Args:
            states: `[rows, hidden]`, which is checked.
            used_only: leave out keys whose values were never learned. The next nearest key answers
                for them; states all of whose keys are used get the same chances.

        Raises:
            OptionError: states of another size, or `used_only` before anything was learned.
        """
        if used_only and not bool(self.used.any(1).all()):
            raise OptionError("the memory has learned nothing", hint="Leave out used_only")
        return self.scores(self.keys.fetch(states, self.used if used_only else None)).softmax(1)

    def classify(self, states: Float[Tensor, "..."], *, used_only: bool = False) -> list[str]:
        """Return the most likely label of each state. Arguments and errors are those of
        `chances`."""
        best = self.chances(states, used_only=used_only).argmax(1).tolist()
        return [self.labels[place] for place in best]
