"""One request, in the form that all tiers share."""

from dataclasses import dataclass, field, replace

from outrider.core.types import (
    Prompt,
)
from outrider.protocols.cache import Cache
from outrider.protocols.denoiser import Completable
from outrider.sampling import Sampler


@dataclass(slots=True)
class Request:
    """One request, in the form that all tiers share. Only the outermost loop appends to
    `output`."""

    prompt: Prompt
    sampler: Sampler
    output: list[int] = field(default_factory=list)
    draft_prompt: Prompt | None = None
    """The prompt of the lower tiers, if it differs from the target's prompt."""
    target_cache: Cache | None = None
    """The cache of the target; drafters may only read it."""
    prediction: tuple[int, ...] = ()
    """Tokens of a text that the answer is expected to resemble; only drafters that copy read it."""
    in_parts: bool = False
    """Whether draft models read the text in parts, as `Budget.reading` allows."""
    completable: Completable | None = None
    """What a masked denoiser may write; models that write from left to right follow the walk of the
    sampler."""

    @property
    def source_ids(self) -> tuple[int, ...]:
        """The tokens that drafters may copy from: the prediction, then the prompt."""
        return (*self.prediction, *self.prompt.token_ids)

    def for_drafts(self) -> "Request":
        """Return the request in the form that drafters read. Its `output` is the same list.

        Logits processors that may keep a state are left out: only the target calls them.
        """
        sampler = self.sampler.for_drafts()
        return self if sampler is self.sampler else replace(self, sampler=sampler)
