"""Subsets of the layers of a model, and early exits.

A decoder layer has two halves, attention and MLP. Each half adds its output to the residual stream.
Either half can be left out, and the remaining halves still form a working model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor

from outrider.core.errors import OptionError
from outrider.core.values import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSet:
    """The halves of layers that are run; layers are numbered from 0.

    Attributes:
        num_layers: number of layers of the whole model.
        attention: layers whose attention is run, ascending.
        mlp: layers whose MLP is run, ascending.

    Raises:
        OptionError: no half is kept, or a layer does not exist.
    """

    num_layers: int
    attention: tuple[int, ...]
    mlp: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise OptionError(f"num_layers is {self.num_layers}", hint="Give at least 1")
        for half in ("attention", "mlp"):
            object.__setattr__(self, half, self._sorted(half, getattr(self, half)))
        if not self.attention and not self.mlp:
            raise OptionError("no layer is kept", hint="Keep at least one half of one layer")

    def _sorted(self, half: str, layers: Iterable[int]) -> tuple[int, ...]:
        kept = sorted(set(layers))
        if kept and not 0 <= kept[0] <= kept[-1] < self.num_layers:
            raise OptionError(
                f"{half} holds layer {kept[0] if kept[0] < 0 else kept[-1]}, but the model has "
                f"{self.num_layers} layers",
                hint=f"Layers are numbered from 0 to {self.num_layers - 1}",
            )
        return tuple(int(layer) for layer in kept)

    # -- constructors -----------------------------------------------------------------------

    @classmethod
    def of_layers(cls, num_layers: int, layers: Iterable[int]) -> "LayerSet":
        """Return the set in which both halves of each of `layers` are run."""
        kept = tuple(layers)
        return cls(num_layers=num_layers, attention=kept, mlp=kept)

    @classmethod
    def everything(cls, num_layers: int) -> "LayerSet":
        """Return the set of all layers, which is the model itself."""
        return cls.of_layers(num_layers, range(num_layers))

    @classmethod
    def skipping(
        cls, num_layers: int, *, attention: Iterable[int] = (), mlp: Iterable[int] = ()
    ) -> "LayerSet":
        """Return the set of all halves except the given ones."""
        less_attention, less_mlp, everything = set(attention), set(mlp), set(range(num_layers))
        for half, skipped in (("attention", less_attention), ("mlp", less_mlp)):
            if skipped - everything:
                raise OptionError(
                    f"{half} of layer {min(skipped - everything)} cannot be skipped: there are "
                    f"{num_layers} layers",
                    hint=f"Layers are numbered from 0 to {num_layers - 1}",
                )
        return cls(
            num_layers=num_layers,
            attention=tuple(everything - less_attention),
            mlp=tuple(everything - less_mlp),
        )

    @classmethod
    def exit_at(cls, num_layers: int, depth: int) -> "LayerSet":
        """Return the set of the first `depth` layers (early exit)."""
        if not 1 <= depth <= num_layers:
            raise OptionError(
                f"the exit layer is {depth}, but the model has {num_layers} layers",
                hint=f"Give a number from 1 to {num_layers}",
            )
        return cls.of_layers(num_layers, range(depth))

    @classmethod
    def evenly(cls, num_layers: int, keep: int) -> "LayerSet":
        """Return `keep` evenly spaced whole layers, including the first and the last.

        Unified Layer Skipping (arXiv 2404.06954): the multiples of floor(L / (n - 1)) from 0 up,
        then the last layer, where L is `num_layers` and n is `keep`. The last gap is the widest.
        """
        if not 2 <= keep <= num_layers:
            raise OptionError(
                f"keep is {keep} for a model with {num_layers} layers",
                hint=f"Give a number from 2 (the first and the last) to {num_layers}",
            )
        step = num_layers // (keep - 1)
        return cls.of_layers(num_layers, [*(i * step for i in range(keep - 1)), num_layers - 1])

    @classmethod
    def for_speedup(cls, num_layers: int, speedup: float) -> "LayerSet":
        """Return `evenly` with floor(num_layers / speedup) layers; a speedup of 1 keeps all.

        Raises:
            OptionError: a speedup below 1, or one that leaves fewer than two layers.
        """
        most = num_layers / 2
        if not 1 <= speedup <= most:
            raise OptionError(
                f"speedup is {speedup:g} for a model with {num_layers} layers",
                hint=f"Give a number from 1 to {most:g}: the first and the last layer are kept",
            )
        return cls.evenly(num_layers, floor(num_layers / speedup))

    # -- properties -------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of which at least one half is run, ascending."""
        return tuple(sorted({*self.attention, *self.mlp}))

    @property
    def num_halves(self) -> int:
        """Number of halves that are run, out of `2 * num_layers`."""
        return len(self.attention) + len(self.mlp)

    @property
    def is_everything(self) -> bool:
        """Whether the set contains all halves of all layers."""
        return self.num_halves == 2 * self.num_layers

    def check(self, num_layers: int, name: str) -> None:
        """Raise `OptionError` unless this set belongs to a model with `num_layers` layers."""
        if self.num_layers != num_layers:
            raise OptionError(
                f"the set is for {self.num_layers} layers, but model {name} has {num_layers}",
                hint="Build the set for this model's number of layers",
            )

    def __str__(self) -> str:
        whole = self.attention == self.mlp
        kept = f"{len(self.layers)} of {self.num_layers} layers"
        return kept if whole else f"{self.num_halves} halves in {kept}"

    # -- serialization ----------------------------------------------------------------------

    def to_dict(self) -> dict[str, JsonValue]:
        """Return a JSON-compatible form, which `from_dict` reads."""
        return {
            "num_layers": self.num_layers,
            "attention": list(self.attention),
            "mlp": list(self.mlp),
        }

    @classmethod
    def from_dict(cls, saved: dict[str, JsonValue]) -> "LayerSet":
        """Read the form that `to_dict` writes. Raises `OptionError` for any other value."""
        try:
            halves: list[Sequence[int]] = [saved["attention"], saved["mlp"]]
            attention, mlp = (tuple(int(layer) for layer in half) for half in halves)
            return cls(num_layers=int(saved["num_layers"]), attention=attention, mlp=mlp)
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError(
                f"{str(saved)[:60]} is not a set of layers", hint="Give what to_dict wrote"
            ) from error


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
