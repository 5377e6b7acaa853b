"""A denoiser whose joint distribution is given: the predictions are its exact conditionals.

The test suite uses it as ground truth, and the closed forms of what is lost by writing several
positions at once are computed with it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.errors import ContextError
from outrider.core.types import IntArray, as_ids
from outrider.protocols.denoiser import Reading, RowStore
from outrider.protocols.info import ModelInfo

_NO_POSITIONS = as_ids(())


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """A distribution over whole texts, the prompt included, as a list of texts with weights.

    Attributes:
        texts: `[texts, length]`.
        weights: `[texts]`, not negative; they need not sum to one.
    """

    texts: NDArray[np.int64]
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.texts.ndim != 2 or self.weights.shape != self.texts.shape[:1]:
            raise ValueError("a joint holds texts [texts, length] and one weight for each text")
        if not (self.weights >= 0).all() or not self.weights.sum() > 0:
            raise ValueError("the weights of a joint are not negative, and one is positive")

    @classmethod
    def of(cls, table: Float[Tensor, "..."], prompt: Sequence[int] = ()) -> "Joint":
        """Return the joint of a prompt and a table of probabilities with one axis for each position
        behind it."""
        probs = table.double().numpy()
        answers = np.argwhere(probs > 0).astype(np.int64)
        before = np.tile(as_ids(prompt), (len(answers), 1)).astype(np.int64)
        return cls(np.concatenate([before, answers], axis=1), probs[probs > 0])

    def given(self, known: dict[int, int]) -> NDArray[np.float64]:
        """Return the weights of the texts, given the tokens at some positions.

        Tokens that no text holds together have probability zero. Then the texts that differ from
        them at the fewest positions are left, which is the limit of texts with rare changes.
        """
        if not known:
            return self.weights
        places = as_ids([*known])
        equal = (self.texts[:, places] == as_ids([*known.values()])).sum(axis=1)
        return self.weights * (equal == equal[self.weights > 0].max())


class TabularStore:
    """What a table needs of a stored row: the token that was there when the row was computed."""

    def __init__(self) -> None:
        self.tokens: dict[int, int] = {}

    @property
    def positions(self) -> IntArray:
        """The positions that are stored, ascending."""
        return as_ids(sorted(self.tokens))

    def drop(self, positions: IntArray | None = None) -> None:
        """Forget these positions; with None, all of them."""
        for position in [*self.tokens] if positions is None else positions.tolist():
            self.tokens.pop(position, None)

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        return 8 * len(self.tokens)


class TabularDenoiser:
    """Predicts each masked position by its exact conditional, given all tokens that are seen.

    A position that was computed in an earlier forward and is only stored is seen as it was then, as
    in a model of one layer: a position that was masked stays masked for the model until it is
    computed again. A position that holds a token predicts this token.

    Args:
        joint: the distribution; or a function that returns it for a text, which is called with the
            ids that the model gets.
        vocab_size: number of tokens; the mask is one more unless `mask_id` is given.
        mask_id: the id of a masked position; None: `vocab_size`, and the logits are one wider.
        context_length: the window.
        end_ids: tokens that end a text.

    Attributes:
        forwards: forwards so far.
        rows: positions that they computed, of all texts.
    """

    def __init__(
        self,
        joint: Joint | Callable[[IntArray], Joint],
        *,
        vocab_size: int,
        mask_id: int | None = None,
        context_length: int = 1 << 20,
        end_ids: tuple[int, ...] = (),
        name: str = "tabular-denoiser",
    ) -> None:
        self._joint = joint
        self._mask_id = vocab_size if mask_id is None else mask_id
        self._info = ModelInfo(
            name=name,
            vocab_size=max(vocab_size, self._mask_id + 1),
            context_length=context_length,
            find_fingerprint=lambda: hashlib.sha256(name.encode()).hexdigest()[:16],
            end_ids=end_ids,
            batch_invariant=True,
            dtype=torch.float64,
        )
        self.forwards = 0
        self.rows = 0

    @classmethod
    def random(
        cls,
        *,
        vocab_size: int = 4,
        length: int = 4,
        prompt: Sequence[int] = (),
        scale: float = 2.0,
        seed: int = 0,
        end_ids: tuple[int, ...] = (),
    ) -> "TabularDenoiser":
        """Return a denoiser with a joint of random weights: the exponentials of normal numbers of
        the given scale."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn([vocab_size] * length, generator=generator, dtype=torch.float64)
        table = torch.softmax(scale * noise.flatten(), 0).reshape(noise.shape)
        return cls(Joint.of(table, prompt), vocab_size=vocab_size, end_ids=end_ids)

    @property
    def info(self) -> ModelInfo:
        """The properties of the model."""
        return self._info

    @property
    def mask_id(self) -> int:
        """The id of a masked position."""
        return self._mask_id

    def new_store(self, length: int) -> RowStore:
        """Return an empty store; it serves texts of any length."""
        return TabularStore()

    def read(self, readings: Sequence[Reading]) -> list[Float[Tensor, "want vocab"]]:
        """Return the logarithms of the conditionals of the wanted positions of each text.

        Raises:
            ContextError: a text is longer than the window.
            ValueError: positions are outside the text, or `want` or `keep` is not among `rows`.
        """
        self.forwards += 1
        return [self._read(one) for one in readings]

    def _read(self, reading: Reading) -> Float[Tensor, "want vocab"]:
        ids, length = reading.ids, len(reading.ids)
        if length > self._info.context_length:
            raise ContextError(
                f"a text of {length} positions exceeds the window of {self._info.context_length}"
            )
        rows = np.arange(length) if reading.rows is None else reading.rows
        keep = _NO_POSITIONS if reading.keep is None else reading.keep
        _check(rows, reading.want, keep, length)
        self.rows += len(rows)
        seen: dict[int, int] = {}
        if reading.store is not None:
            assert isinstance(reading.store, TabularStore)
            stored = reading.store.tokens
            seen = {position: token for position, token in stored.items() if position < length}
        seen |= zip(rows.tolist(), ids[rows].tolist(), strict=True)
        logits = self._conditionals(ids, seen, reading.want)
        if isinstance(reading.store, TabularStore):
            reading.store.tokens |= zip(keep.tolist(), ids[keep].tolist(), strict=True)
        return logits

    def _conditionals(
        self, ids: IntArray, seen: dict[int, int], want: IntArray
    ) -> Float[Tensor, "want vocab"]:
        joint = self._joint if isinstance(self._joint, Joint) else self._joint(ids)
        known = {place: token for place, token in seen.items() if token != self._mask_id}
        weights = joint.given(known)
        probs = np.zeros((len(want), self._info.vocab_size))
        for row, position in enumerate(want.tolist()):
            if position in known:
                probs[row, known[position]] = 1.0
            else:
                np.add.at(probs[row], joint.texts[:, position], weights)
        probs /= probs.sum(axis=1, keepdims=True)
        logits = torch.from_numpy(probs).log()
        logits[:, self._mask_id] = -torch.inf
        return logits


def _check(rows: IntArray, want: IntArray, keep: IntArray, length: int) -> None:
    """Raise `ValueError` for positions that a forward cannot have."""
    if len(rows) and not (rows.min() >= 0 and rows.max() < length):
        raise ValueError("rows are outside the text")
    for name, positions in (("want", want), ("keep", keep)):
        if not np.isin(positions, rows).all():
            raise ValueError(f"{name} holds positions that are not computed")
