"""Early exits of a model: after which layers a token may leave it, and at which confidence."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from outrider.core.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Exits:
    """The layers after which a model was trained to predict the next token.

    Attributes:
        layers: number of layers before each exit, ascending; the last one is the whole model.
        thresholds: for the fingerprint of a target, the confidence above which a token leaves at
            each exit but the last.

    Raises:
        OptionError: layers that do not ascend from 1, or thresholds that do not fit them.
    """

    layers: tuple[int, ...]
    thresholds: Mapping[str, tuple[float, ...]] = field(
        default_factory=dict[str, tuple[float, ...]]
    )

    def __post_init__(self) -> None:
        ascend = all(a < b for a, b in zip((0, *self.layers), self.layers, strict=False))
        if not self.layers or not ascend:
            raise OptionError(
                f"exits are after layers {list(self.layers)}",
                hint="Give ascending numbers of layers from 1, such as (2,4,6)",
            )
        for found in self.thresholds.values():
            check_thresholds(found, len(self.layers))

    def check(self, num_layers: int, name: str) -> None:
        """Raise `OptionError` unless the last exit is that of a model with `num_layers` layers."""
        if self.layers[-1] != num_layers:
            raise OptionError(
                f"the last exit of {name} is after layer {self.layers[-1]} of {num_layers}",
                hint=f"End with {num_layers}: the last exit is the whole model",
            )


def check_thresholds(thresholds: tuple[float, ...], exits: int) -> None:
    """Raise `OptionError` unless each exit but the last has a threshold from 0 to 1."""
    if len(thresholds) != exits - 1 or not all(0 <= one <= 1 for one in thresholds):
        raise OptionError(
            f"{exits} exits have the thresholds {list(thresholds)}",
            hint=f"Give {exits - 1} numbers from 0 to 1: none for the last exit",
        )


def even_exits(num_layers: int) -> Exits:
    """Return up to three exits at thirds of a model, as for one without trained exits."""
    return Exits(layers=tuple(sorted({-(-num_layers * part // 3) for part in (1, 2, 3)})))
