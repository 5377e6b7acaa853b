"""Gates of KV heads: how much each head needs the whole text, and the heads that keep it.

Training writes them (`outrider train gates`): RLKV (arXiv 2510.08525) or DuoAttention (Xiao et al.
2024, arXiv 2410.10819). Heads with low gates keep the first tokens of a text and the most recent
ones.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from outrider.core.checks import Range
from outrider.core.errors import OptionError, one_line, writing
from outrider.core.values import JsonValue

FORMAT = "outrider-gates-1"
"""The value of `format` in the metadata of a file."""
RANDOM = "random"
"""The method of gates that fit every model of their shape."""
_TENSOR = "gates"
_TRAIN = "Train gates for this model: outrider train gates"
_NO_FILE = "Give a file that outrider train gates has written"
_COUNT = Range(0, whole=True)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Gates:
    """One number from 0 to 1 for each layer and KV head of a model.

    Attributes:
        values: `[layers, kv_heads]`; 1: the head needs the whole text.
        method: how they were found: `rlkv`, `duo`, `random` or other text.
        fingerprint: that of the model.
        sinks: first tokens that the other heads kept in training.
        recent: most recent tokens that they kept in training, the current one included.
        facts: how they were trained.

    Raises:
        OptionError: values outside 0 to 1, not in two dimensions or none, or faulty counts.
    """

    values: Float32[ndarray, "layers kv_heads"]
    method: str = RANDOM
    fingerprint: str = ""
    sinks: int = 0
    recent: int = 0
    facts: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float32)
        if values.ndim != 2 or not values.size:
            raise OptionError(
                f"gates have the shape {list(values.shape)}",
                hint="Give one number for each layer and KV head",
            )
        if not ((values >= 0) & (values <= 1)).all():  # NaN is refused as well
            raise OptionError("a gate is not from 0 to 1", hint="Give numbers from 0 to 1")
        _COUNT.check("sinks", self.sinks)
        _COUNT.check("recent", self.recent)
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @classmethod
    def random(cls, layers: int, kv_heads: int, seed: int) -> "Gates":
        """Return gates drawn uniformly from 0 to 1: the baseline of trained ones."""
        drawn = np.random.default_rng(seed).random((layers, kv_heads), dtype=np.float32)
        return cls(values=drawn)

    @classmethod
    def load(cls, path: str | Path) -> "Gates":
        """Read a file of `save`.

        Raises:
            OptionError: it is missing, damaged or holds something else.
        """
        place = Path(path)
        if not place.is_file():
            raise OptionError(f"there is no file of gates at {place}", hint=_NO_FILE)
        try:
            with safe_open(place, framework="numpy") as file:
                about: dict[str, str] = file.metadata() or {}
                if about.get("format") != FORMAT or list(file.keys()) != [_TENSOR]:
                    raise OptionError(f"{place} holds no gates", hint=_NO_FILE)
                values = file.get_tensor(_TENSOR)
        except (SafetensorError, OSError, TypeError) as error:
            raise OptionError(
                f"{place} is no safetensors file: {one_line(str(error))[:100]}", hint=_NO_FILE
            ) from None
        if values.dtype != np.float32:
            raise OptionError(f"the gates in {place} are {values.dtype}", hint=_NO_FILE)
        try:
            return cls(
                values=values,
                method=about["method"],
                fingerprint=about["fingerprint"],
                sinks=int(about["sinks"]),
                recent=int(about["recent"]),
                facts=_facts(about["facts"]),
            )
        except KeyError as error:
            raise OptionError(f"{place} lacks {error.args[0]}", hint=_NO_FILE) from None
        except (OptionError, ValueError, RecursionError) as error:
            problem = error.problem if isinstance(error, OptionError) else "a faulty number"
            raise OptionError(f"{place} is damaged: {problem}", hint=_NO_FILE) from None

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, completely or not at all.

        Raises:
            OptionError: it cannot be written.
        """
        place = Path(path)
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        about = {
            "format": FORMAT,
            "method": self.method,
            "fingerprint": self.fingerprint,
            "sinks": str(self.sinks),
            "recent": str(self.recent),
            "facts": json.dumps(dict(self.facts)),
        }
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file({_TENSOR: np.ascontiguousarray(self.values)}, part, metadata=about)
            except SafetensorError as error:
                raise OSError(str(error)) from None
            os.replace(part, place)

    def check(self, fingerprint: str, layers: int, kv_heads: int) -> None:
        """Check that the gates belong to a model; random ones belong to every one of their shape.

        Args:
            fingerprint: `ModelInfo.fingerprint` of the model.
            layers: its number of layers.
            kv_heads: its number of KV heads.

        Raises:
            OptionError: they were trained for another model, or have another shape.
        """
        if self.method != RANDOM and self.fingerprint != fingerprint:
            raise OptionError(
                f"the gates were trained for another model ({self.fingerprint[:12] or 'none'}, "
                f"and this one is {fingerprint[:12]})",
                hint=_TRAIN,
            )
        if self.values.shape != (layers, kv_heads):
            raise OptionError(
                f"the gates are for {self.values.shape[0]} layers of {self.values.shape[1]} KV "
                f"heads, the model has {layers} of {kv_heads}",
                hint=_TRAIN,
            )

    def full_heads(self, sparsity: float) -> Bool[ndarray, "layers kv_heads"]:
        """Return which heads keep the whole text: the largest `1 - sparsity` of the gates.

        The number of the others is rounded. Of equal gates, those of lower layers and heads stay.

        Args:
            sparsity: share of the heads that keep sinks and recent tokens only, from 0 to 1.

        Raises:
            OptionError: a sparsity outside 0 to 1.
        """
        Range(0, 1, hint="Give a share from 0 to 1").check("sparsity", sparsity)
        order = np.argsort(-self.values.ravel(), kind="stable")
        dropped = round(sparsity * self.values.size)
        full = np.zeros(self.values.size, dtype=np.bool_)
        full[order[: self.values.size - dropped]] = True
        return full.reshape(self.values.shape)


def _facts(text: str) -> dict[str, JsonValue]:
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise ValueError(text)
    return facts
