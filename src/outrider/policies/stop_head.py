"""The trained head of `SpecDecPlus`: from the draft model's last hidden state to a chance."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.protocols.trained import read_trained

KIND, FORMAT = "stop", "outrider-stop-1"
"""Name of the files, and the value of `format` in `stop.json`."""
_MOST_LAYERS = 64


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StopHead:
    """The chance that a drafted token is kept: softmax(A x + a)[1], where x begins as the hidden
    state after the token and becomes x + SiLU(W x) in each layer.

    Attributes:
        layers: W `[hidden, hidden]` of each layer.
        weight: A `[2, hidden]`: refused, kept.
        bias: a `[2]`.
        mismatch_weight: how often a refused token counted in training. The chances are lower than
            the shares by this weight; see `unweighted`.
        place: the folder of its files; empty: it was not read from files.
    """

    layers: tuple[Float[Tensor, "hidden hidden"], ...]
    weight: Float[Tensor, "2 hidden"]
    bias: Float[Tensor, " 2"]
    mismatch_weight: float = 1.0
    place: str = ""

    @classmethod
    def read(cls, folder: str | Path) -> "StopHead":
        """Read the files that `outrider train stop` writes.

        Raises:
            CheckpointError: files that are missing or damaged.
        """
        files = read_trained(folder, KIND, FORMAT)
        count, weight = files.number("layers"), files.number("mismatch_weight")
        if count not in range(_MOST_LAYERS + 1) or not 0.0 < weight < float("inf"):
            raise files.damaged(f"it has {count:g} layers and a weight of {weight:g}")
        out = files.tensor("out.weight", 2, -1)
        width = out.shape[1]
        names = [f"layers.{i}.weight" for i in range(int(count))]
        return cls(
            layers=tuple(files.tensor(name, width, width) for name in names),
            weight=out,
            bias=files.tensor("out.bias", 2),
            mismatch_weight=weight,
            place=str(folder),
        )

    @property
    def width(self) -> int:
        """Size of the hidden states that it reads."""
        return self.weight.shape[1]

    def odds(self, states: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows"]:
        """Return the log-odds that the token of each row is kept."""
        x = states
        for layer in self.layers:
            x = x + F.silu(F.linear(x, layer))
        refused, kept = F.linear(x, self.weight, self.bias).unbind(-1)
        return kept - refused

    def unweighted(self, odds: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """Return the estimated share of tokens that are kept: the odds without the weight of
        refused tokens, as chances."""
        return (odds.double() + torch.tensor(self.mismatch_weight).double().log()).sigmoid()

    def __call__(self, state: Float[Tensor, " hidden"]) -> float:
        """Return the chance that the token that this row has read is kept.

        Raises:
            OptionError: the state has another size.
        """
        if len(state) != self.width:
            raise OptionError(
                f"the stop head {self} reads states of size {self.width}, the draft model has "
                f"{len(state)}",
                hint="Train a head for this draft model: outrider train stop",
            )
        with torch.no_grad():
            return float(self.odds(state.to("cpu", torch.float32)).sigmoid())

    def __str__(self) -> str:
        return self.place or "(built)"
