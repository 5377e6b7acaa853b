"""One request, as every tier sees it."""

from dataclasses import dataclass, field

from outrider.core.types import (
    Prompt,
)
from outrider.protocols.cache import Cache
from outrider.sampling import Sampler


@dataclass(slots=True)
class Request:
    """One request as every tier sees it. `output` is grown by the outermost loop alone."""

    prompt: Prompt
    sampler: Sampler
    output: list[int] = field(default_factory=list)
    draft_prompt: Prompt | None = None
    """What the lower tiers read, where it differs from the target's prompt."""
    target_cache: Cache | None = None
    """The target's cache, read-only for drafters."""
