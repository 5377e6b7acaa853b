"""What one model has read of one long input: the figures that users see."""

from dataclasses import dataclass, replace

from outrider.context.selection import Selection
from outrider.core.values import JsonValue


@dataclass(slots=True)
class Reading:
    """The record of one selection by one model. Reports read it; nothing is decided by it.

    Attributes:
        selection: which chunks, when, and their scores over time.
        selector: how chunks are scored.
        encoder: what turned text into vectors; None for nothing.
        prompt_tokens: ids of the whole prompt, everything that could have been read.
        held_tokens: prompt tokens that are held now: head, chosen chunks, instruction.
        kv_tokens: most rows that were held at any time, generated ones included.
        bytes_per_token: of keys and values; 0 where the model does not tell.
        refreshes: looks at the scores while writing.
        select_seconds: scoring chunks before the prompt was read.
        refresh_seconds: scoring, and reading what was swapped in, while writing.
        recomputed: tokens read again, or for the first time, in refreshes.
    """

    selection: Selection
    selector: str
    encoder: str | None
    prompt_tokens: int
    held_tokens: int = 0
    kv_tokens: int = 0
    bytes_per_token: int = 0
    refreshes: int = 0
    select_seconds: float = 0.0
    refresh_seconds: float = 0.0
    recomputed: int = 0

    @property
    def swaps(self) -> int:
        """Chunks admitted after the first choice."""
        return sum(len(look.admitted) for look in self.selection.looks[1:])

    def of(self, selection: Selection) -> "Reading":
        """The same record, going on with another selection."""
        return replace(self, selection=selection)

    def to_dict(self) -> dict[str, JsonValue]:
        """Plain numbers for JSON."""
        context = self.selection.context
        return {
            "tokens": context.num_tokens,
            "chunks": len(context.chunks),
            "kept_chunks": len(self.selection.chosen),
            "kept_tokens": sum(len(context.chunks[i]) for i in self.selection.chosen),
            "kv_tokens": self.kv_tokens,
            "kv_bytes": self.kv_tokens * self.bytes_per_token,
            "swaps": self.swaps,
            "refreshes": self.refreshes,
            "refresh_seconds": self.refresh_seconds,
            "select_seconds": self.select_seconds,
            "recomputed_tokens": self.recomputed,
            "selector": self.selector,
            "encoder": self.encoder,
            "looks": [
                {
                    "generated": look.generated,
                    "admitted": list(look.admitted),
                    "evicted": list(look.evicted),
                }
                for look in self.selection.looks
            ],
        }
