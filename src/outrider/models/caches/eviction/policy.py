"""What a policy of the cache decides, and what it may read for that.

A policy acts at *points*: numbers of rows after which rows are dropped, or dropped ones fetched
again. Between two points no row goes. Points depend on the text only, and no draft crosses one
(`Cache.horizon`), so drafted and undrafted texts are equal under the same policy.
"""

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.types import BoolArray, IntArray
from outrider.protocols.method import Value, text_of

UNBOUNDED = 1 << 20
"""Longest text under a policy that moves positions into the window of the model."""

_EVERY = Range(0, hint="Give the tokens between two points, such as 64; 0 for none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The shape of the caches of one model.

    Attributes:
        reads_all: for each layer whether a row reads all rows before it. Layers with a window keep
            their rows.
        rotary: for each layer whether its keys are turned by their positions.
        context_length: the window for which the model was trained.
        cap: soft cap of the scores of attention; 0: none.
        find_fingerprint: computes the fingerprint of the model.
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    reads_all: tuple[bool, ...]
    rotary: tuple[bool, ...]
    context_length: int
    cap: float = 0
    find_fingerprint: Callable[[], str] = str

    @property
    def planes(self) -> int:
        """Number of pairs of a layer and a key-value head."""
        return self.num_layers * self.num_kv_heads

    @property
    def group(self) -> int:
        """Number of query heads that share a key-value head."""
        return self.num_heads // self.num_kv_heads

    def of_layer(self, layer: int) -> range:
        """Return the planes of a layer."""
        return range(layer * self.num_kv_heads, (layer + 1) * self.num_kv_heads)


@runtime_checkable
class View(Protocol):
    """What a policy may read at a point."""

    @property
    def shape(self) -> Shape:
        """The shape of the cache."""
        ...

    @property
    def rows(self) -> int:
        """Number of rows of the text, dropped ones included."""
        ...

    @property
    def prompt(self) -> int:
        """Number of rows of the prompt; 0 for a policy that does not tell it from other text."""
        ...

    @property
    def asked(self) -> IntArray:
        """Rows since the last point whose queries were kept, ascending."""
        ...

    def kept(self, plane: int) -> IntArray:
        """Return the rows that a plane holds, ascending."""
        ...

    def keys(self, layer: int) -> list[Float[Tensor, "kept head_dim"]]:
        """Return the keys of the rows that each head holds, float32."""
        ...

    def stored_keys(self, layer: int, rows: IntArray) -> Float[Tensor, "kv_heads rows head_dim"]:
        """Return keys as they were read, float32, of the archive as far as it holds them."""
        ...

    def turned(
        self, layer: int, keys: Float[Tensor, "kv_heads rows head_dim"], turns: IntArray
    ) -> Float[Tensor, "kv_heads rows head_dim"]:
        """Return keys of a layer as if their rows were `turns` positions further on."""
        ...

    def queries(self, layer: int) -> Float[Tensor, "asked heads head_dim"]:
        """Return the queries of `asked`, multiplied by the factor of the scores."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The rows that planes hold from now on.

    Attributes:
        rows: for each plane, rows of the text, ascending. Rows that a plane has dropped can only
            be chosen if the policy keeps an archive.
        turns: for each plane, by how many positions the keys of its first rows are moved, from the
            positions at which they were read; rows without a number are not moved. Empty: no keys
            are moved.
    """

    rows: Sequence[IntArray]
    turns: Sequence[IntArray] = ()


@runtime_checkable
class Eviction(Protocol):
    """A policy at work on one text."""

    @property
    def nbytes(self) -> int:
        """Bytes of what it notes about the text."""
        return 0

    def asks(self, rows: IntArray, prompt: int) -> BoolArray | None:
        """Return for which rows of the text queries are to be kept until the next point; None: for
        none of any text.

        Args:
            rows: numbers of rows.
            prompt: as in `View`.
        """
        ...

    def choose(self, view: View) -> Choice | None:
        """Choose rows at a point; None: nothing changes."""
        ...

    def copy(self) -> "Eviction":
        """Return an independent copy."""
        ...


@dataclass(frozen=True, kw_only=True)
class KvPolicy:
    """The options that all policies share.

    Attributes:
        name: the name of the method; empty for one that is not in the catalogue.
        budget: the rows of a head that are kept at a point: a share of the rows of the text, up to
            1, or a number of rows above 1. Until the next point, the rows of new tokens follow.
        chunk: tokens of a prompt between two points; 0: the prompt is read whole, and the first
            point is its end: all its tokens have been read, the last one in the first round.
        every: tokens of the text after the prompt between two points; 0: none.

    Raises:
        OptionError: a value is out of range.
    """

    name: ClassVar[str] = ""

    budget: float = field(default=0.25)
    chunk: int = 0
    every: int = 64

    def __post_init__(self) -> None:
        if not self.budget > 0 or (self.budget > 1 and self.budget != int(self.budget)):
            raise OptionError(
                f"the budget of the cache is {self.budget:g}",
                hint="Give a share of the rows, such as 0.25, or a number of rows, such as 1024",
            )
        _EVERY.check("chunk", self.chunk)
        _EVERY.check("every", self.every)

    @property
    def reads_texts(self) -> bool:
        """Whether what is kept depends on the text only, not on where its prompt ended. Only then
        may a text be read in parts, resumed, and continued as a prompt."""
        return self.chunk == self.every > 0

    @property
    def moves(self) -> bool:
        """Whether positions are moved into the window of the model, so that longer texts are
        read."""
        return False

    def archived(self, rows: int) -> int:
        """Return how many of the first `rows` rows are also stored as they were read."""
        return 0

    @abstractmethod
    def begin(self, shape: Shape) -> Eviction:
        """Return the policy for one text. Raises `OptionError` if it does not fit the model."""

    def budget_of(self, rows: int) -> int:
        """Return the rows that a head may keep of a text of `rows` rows, at least 1."""
        return max(round(self.budget * rows), 1) if self.budget <= 1 else int(self.budget)

    def __str__(self) -> str:
        """The policy as an expression, with the options that differ from their defaults."""
        values = [(one, getattr(self, one.name)) for one in fields(self)]
        changed = [f"{one.name}={_shown(value)}" for one, value in values if value != one.default]
        name = self.name or type(self).__name__
        return f"{name}({','.join(changed)})" if changed else name


def _shown(value: Value | Hashable) -> str:
    """Return a value as text; an object by its class."""
    if value is None or isinstance(value, bool | int | float | str):
        return text_of(value)
    return type(value).__name__


def whole(view: View) -> list[IntArray]:
    """Return the rows that all planes hold."""
    return [view.kept(plane) for plane in range(view.shape.planes)]


def with_planes(view: View, chosen: Sequence[IntArray | None]) -> Choice | None:
    """Return the choice of these rows; planes with None, and all of layers that have a window, keep
    what they hold. None if nothing changes."""
    shape, rows, changes = view.shape, whole(view), False
    for plane, own in enumerate(chosen):
        if own is not None and shape.reads_all[plane // shape.num_kv_heads]:
            changes = changes or len(own) != len(rows[plane])
            rows[plane] = own
    return Choice(rows=rows) if changes else None


def ends(rows: IntArray, first: int, last: int) -> IntArray:
    """Return the first `first` and the last `last` of ascending rows, each once."""
    if first + last >= len(rows):
        return rows
    return np.concatenate((rows[:first], rows[len(rows) - last :]))
