"""A mixer that takes each row from exactly one source."""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.guidance.mixer import Found, Mask, Mixer


class Routed(Mixer):
    """Takes each row from the first or from the second source.

    Subclasses say which rows the first source writes.
    """

    @property
    def stages(self) -> tuple[tuple[int, ...], ...]:
        """Both together: the text decides, which is known."""
        return ((0, 1),)

    @abstractmethod
    def leads(self, found: Found) -> Mask:
        """Return the rows that the first source writes."""

    def wanted(self, source: int, found: Found) -> Mask:
        """Return the rows of each source."""
        mask = self.leads(found)
        return ~mask if source else mask

    def mixed(self, found: Found) -> Float[Tensor, "rows vocab"]:
        """Put the rows of both sources in order."""
        read = [
            (rows.logits, mask)
            for rows, mask in zip(found.rows, found.masks, strict=True)
            if rows is not None and mask is not None
        ]
        like = read[0][0]
        out = torch.empty(len(found), like.shape[-1], dtype=like.dtype, device=like.device)
        for logits, mask in read:
            out[mask] = logits.to(out.dtype)
        return out
