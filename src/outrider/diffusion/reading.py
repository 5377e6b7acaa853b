"""Forwards over the texts of one request: with and without the prompt, and their branches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray, as_ids
from outrider.diffusion.caching import Plan
from outrider.protocols.denoiser import Denoiser, Reading, RowStore

_NOTHING = as_ids(())


@dataclass(slots=True, eq=False)
class Reader:
    """Reads the answer of one request.

    With guidance, each forward reads two texts: one with the prompt, one with a masked prompt. The
    logits are `u + (s + 1) (l - u)`.

    Attributes:
        model: the denoiser.
        prompt: ids of the prompt.
        slots: slots of the answer at the beginning. The texts keep this length, since stores are
            for one length; slots that an early end has dropped are neither computed nor stored, so
            that no row sees them.
        guidance: the scale s; 0: only the text with the prompt is read.
        stores: one for each text; empty if nothing is stored.
        forwards: forwards so far.
        rows: rows that they computed.
    """

    model: Denoiser
    prompt: IntArray
    slots: int
    guidance: float = 0.0
    stores: list[RowStore] = field(default_factory=list[RowStore])
    forwards: int = 0
    rows: int = 0

    def open_stores(self) -> None:
        """Create the stores."""
        self.stores = [self.model.new_store(len(self.prompt) + self.slots) for _ in self.prompts]

    @property
    def prompts(self) -> list[IntArray]:
        """The prompt of each text."""
        if not self.guidance:
            return [self.prompt]
        return [self.prompt, np.full_like(self.prompt, self.model.mask_id)]

    @property
    def stored(self) -> IntArray:
        """Positions of which rows are stored."""
        return self.stores[0].positions if self.stores else _NOTHING

    def drop(self, positions: IntArray | None = None) -> None:
        """Forget stored rows; with None, all of them."""
        for store in self.stores:
            store.drop(positions)

    def read_prompt(self) -> None:
        """Store the rows of the prompt, which sees nothing of the answer."""
        if len(self.prompt):
            rows = np.arange(len(self.prompt))
            self.read([_NOTHING], _NOTHING, Plan(rows=rows, keep=rows))

    def read(
        self, answers: Sequence[IntArray], slots: IntArray, plan: Plan
    ) -> list[Float[Tensor, "slots vocab"]]:
        """Return the logits of the slots for each answer, in one forward.

        Args:
            answers: answers of the same length; all read the same stores.
            slots: positions of the answer, ascending.
            plan: which rows are computed and stored.
        """
        if plan.fresh:
            self.drop()
        before, uses = len(self.prompt), plan.rows is not None or plan.keep is not None
        readings: list[Reading] = []
        for answer in answers:
            dropped = np.full(self.slots - len(answer), self.model.mask_id, dtype=np.int64)
            rows = plan.rows
            if rows is None and len(dropped):
                rows = np.arange(before + len(answer))
            for at, prompt in enumerate(self.prompts):
                readings.append(
                    Reading(
                        ids=np.concatenate([prompt, answer, dropped]),
                        want=slots + before,
                        rows=rows,
                        store=self.stores[at] if self.stores and uses else None,
                        keep=plan.keep,
                    )
                )
        logits = self.model.read(readings)
        self.forwards += 1
        self.rows += sum(len(one.ids if one.rows is None else one.rows) for one in readings)
        if not self.guidance:
            return logits
        return [
            guided(*pair, self.guidance) for pair in zip(logits[::2], logits[1::2], strict=True)
        ]


def guided(
    given: Float[Tensor, "slots vocab"], free: Float[Tensor, "slots vocab"], scale: float
) -> Float[Tensor, "slots vocab"]:
    """Return `u + (s + 1) (l - u)`. Where u is minus infinity there is nothing to contrast with,
    and l is returned; where l is minus infinity the token stays impossible."""
    mixed = free + (scale + 1.0) * (given - free)
    return torch.where((free == -torch.inf) | (given == -torch.inf), given, mixed)
