"""The probe of `Judge`: a logistic regression on the verifier's last hidden state."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import StrategyError, VocabularyError
from outrider.core.values import JsonValue
from outrider.protocols.model import LanguageModel
from outrider.protocols.trained import float64, read_trained

KIND, FORMAT = "judge", "outrider-judge-1"
"""Name of the files, and the value of `format` in `judge.json`."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Probe:
    """The chance that a drafted token is correct: sigmoid(w e + b).

    `e` is the verifier's last hidden state, after the final norm, of the row that has read the
    token.

    Attributes:
        weight: w `[hidden]`, float64.
        bias: b.
        threshold: the threshold that training has chosen.
        special_ids: ids of tokens that stand for no text; the probe never decides about them.
        vocab_size: number of tokens of the verifier; None: unknown.
        place: the folder of its files; empty: it was not read from files.
        facts: how it was trained.
    """

    weight: Float[Tensor, " hidden"]
    bias: float
    threshold: float = 0.5
    special_ids: frozenset[int] = frozenset()
    vocab_size: int | None = None
    place: str = ""
    facts: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])

    @classmethod
    def read(cls, folder: str | Path) -> "Probe":
        """Read the files that `outrider train judge` writes.

        Raises:
            CheckpointError: files that are missing or damaged.
        """
        files = read_trained(folder, KIND, FORMAT)
        threshold = files.number("threshold")
        if not 0.0 <= threshold <= 1.0:
            raise files.damaged(f"its threshold is {threshold:g}")
        return cls(
            weight=float64(files.tensor("weight", -1)),
            bias=float(files.tensor("bias", 1)),
            threshold=threshold,
            special_ids=files.ids("special_ids"),
            vocab_size=int(files.number("vocab_size")),
            place=str(folder),
            facts=files.facts,
        )

    def odds(self, states: Float[Tensor, "rows hidden"]) -> list[float]:
        """Return the log-odds of each row. A row of NaN has NaN."""
        # Sums over each row alone: a product of matrices may round a row differently beside others.
        return ((float64(states) * self.weight).sum(-1) + self.bias).tolist()

    def check_target(self, target: LanguageModel) -> None:
        """Check that this model returns the states that the probe reads.

        Raises:
            StrategyError: it returns no states, or states of another size.
            VocabularyError: it has another number of tokens.
        """
        states, name, own = target.hidden_states, target.info.name, len(self.weight)
        if states is None:
            raise StrategyError(
                f"Judge reads the hidden states of {name}, which does not return them",
                hint="Use another rule, or a model that returns its states",
            )
        if states.width != own:
            raise StrategyError(
                f"the probe {self} reads states of size {own}, {name} has {states.width}",
                hint="Train a probe for this target: outrider train judge",
            )
        if self.vocab_size not in (None, target.info.vocab_size):
            raise VocabularyError(
                f"the probe {self} expects {self.vocab_size} tokens, {name} has "
                f"{target.info.vocab_size}",
                hint="Train a probe for this target: outrider train judge",
            )

    def __str__(self) -> str:
        return self.place or "(built)"
