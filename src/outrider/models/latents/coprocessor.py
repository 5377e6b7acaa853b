"""The files of a coprocessor: a LoRA adapter, and the soft tokens that the adapted model reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.protocols.trained import read_trained

KIND, FORMAT = "coprocessor", "outrider-coprocessor-1"
"""Name of the files beside those of the adapter, and the value of `format`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coprocessor:
    """What a folder of `outrider train coprocessor` holds beside the adapter.

    Attributes:
        folder: the folder, which is also that of the adapter.
        soft: `[latents, hidden]` the embeddings that the adapted model reads.
        scale: the factor of its last states in latents.
        fingerprint: that of the model that it was trained for.
        facts: how it was trained.
    """

    folder: Path
    soft: Float[Tensor, "latents hidden"]
    scale: float
    fingerprint: str
    facts: Mapping[str, JsonValue]

    @classmethod
    def read(cls, folder: str | Path) -> "Coprocessor":
        """Read the files, without those of the adapter.

        Raises:
            CheckpointError: files that are missing or damaged.
        """
        files = read_trained(folder, KIND, FORMAT)
        made_for = files.facts.get("fingerprint")
        if not isinstance(made_for, str):
            raise files.damaged(f"fingerprint is {made_for!r:.60}, and a text is expected")
        return cls(
            folder=files.folder,
            soft=files.tensor("soft", -1, -1),
            scale=float(files.tensor("scale", 1)),
            fingerprint=made_for,
            facts=files.facts,
        )

    def check_made_for(self, fingerprint: str, name: str) -> None:
        """Raise `CheckpointError` unless it was trained for the model with this fingerprint."""
        if fingerprint != self.fingerprint:
            raise CheckpointError(
                f"the coprocessor at {self.folder} was trained for another model than {name}",
                hint="Give that model, without an adapter, or train a coprocessor for this one",
            )
