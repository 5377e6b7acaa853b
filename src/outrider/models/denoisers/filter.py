"""The unmasking filter of Learn2PD (arXiv 2509.25188): which predictions of a block are final.

A network of two layers reads the probabilities of the most likely tokens at all positions of a
block, and returns for each position the probability that its most likely token is the one that
decoding would end with. It is trained for one model and one length of blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from outrider.core.errors import CheckpointError, OptionError, in_short, writing
from outrider.models.sources.families import families_folder, family, family_names

FORMAT = "outrider unmasking filter 1"
FILE = "filter.safetensors"
_MOST_BYTES = 1 << 26
_NAMES = ("inner.weight", "inner.bias", "outer.weight", "outer.bias")
_HINT = "Give a file that `outrider train unmasking` has written"


@dataclass(frozen=True, slots=True, eq=False)
class UnmaskingFilter:
    """`sigmoid(outer(relu(inner(confidences))))`, with both layers as wide as a block.

    Attributes:
        weights: `inner.weight` and `outer.weight` `[block, block]`, `inner.bias` and `outer.bias`
            `[block]`, in float32.
        fingerprint: that of the model for which it was trained (`ModelInfo.fingerprint`).
    """

    weights: Mapping[str, Tensor]
    fingerprint: str

    @property
    def block(self) -> int:
        """The length of blocks."""
        return len(self.weights["outer.bias"])

    def __call__(self, confidences: Float[Tensor, "rows block"]) -> Float[Tensor, "rows block"]:
        """Return for each position the probability that its most likely token is final.

        Args:
            confidences: the largest probability at each position of a block, committed ones too.

        Raises:
            ValueError: the rows are not as long as a block.
        """
        if confidences.shape[-1] != self.block:
            raise ValueError(f"rows of {confidences.shape[-1]} for blocks of {self.block}")
        return self.scores(confidences).sigmoid()

    def scores(self, confidences: Float[Tensor, "rows block"]) -> Float[Tensor, "rows block"]:
        """Return the logits of the probabilities."""
        own, rows = self.weights, confidences.to("cpu", torch.float32)
        inner = (rows @ own["inner.weight"].T + own["inner.bias"]).relu()
        return inner @ own["outer.weight"].T + own["outer.bias"]

    def check(self, fingerprint: str, block: int) -> None:
        """Raise an error unless the filter is for this model and this length of blocks.

        Raises:
            OptionError: it is for another model or another length.
        """
        if block != self.block:
            raise OptionError(
                f"the unmasking filter is for blocks of {self.block} positions, not {block}",
                hint=f"Use blocks of {self.block}, or train a filter for {block}",
            )
        if fingerprint != self.fingerprint:
            raise OptionError(
                "the unmasking filter was trained for another model",
                hint="Train one for this model with `outrider train unmasking`",
            )

    def save(self, file: str | Path) -> None:
        """Write it to `file`. Raises `OptionError` if the system refuses."""
        facts = {"format": FORMAT, "fingerprint": self.fingerprint, "block": str(self.block)}
        kept = {name: self.weights[name].detach().float().contiguous() for name in _NAMES}
        with writing(file):
            Path(file).write_bytes(save(kept, metadata=facts))

    @classmethod
    def load(cls, source: str | Path) -> "UnmaskingFilter":
        """Read a filter from a file, from `filter.safetensors` of a folder (`~` allowed), or of a
        family.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind or too large.
        """
        place = Path(source).expanduser()
        if not place.exists() and str(source) in family_names(families_folder()):
            place = family(str(source))["target"]
        file = place / FILE if place.is_dir() else place
        if not file.is_file():
            raise CheckpointError(f"there is no unmasking filter at {file}", hint=_HINT)
        if file.stat().st_size > _MOST_BYTES:
            raise _damaged(file, f"it is larger than {_MOST_BYTES:,} bytes")
        try:
            with safe_open(str(file), framework="pt") as opened:
                facts = opened.metadata() or {}
                found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise _damaged(file, in_short(error)) from None
        if facts.get("format") != FORMAT:
            raise _damaged(file, f"its format is {facts.get('format')!r:.60}, not {FORMAT!r}")
        return cls(_checked(file, found), facts.get("fingerprint", ""))


def _checked(file: Path, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in float32. Raises `CheckpointError` for other shapes or NaN."""
    missing = [name for name in _NAMES if name not in found]
    if missing:
        raise _damaged(file, f"there is no tensor {missing[0]!r}")
    size = found["outer.bias"].numel()
    for name in _NAMES:
        shape = (size, size) if name.endswith("weight") else (size,)
        if tuple(found[name].shape) != shape or not size:
            raise _damaged(file, f"tensor {name!r} has shape {list(found[name].shape)}")
        if not bool(found[name].isfinite().all()):
            raise _damaged(file, f"tensor {name!r} holds numbers that are not finite")
    return {name: found[name].float() for name in _NAMES}


def _damaged(file: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"the unmasking filter {file} cannot be used: {problem}", hint=_HINT)
