"""The record of one long input read by one model: the figures that users get."""

from dataclasses import dataclass, replace

from outrider.context.selection import Selection
from outrider.core.values import JsonValue


@dataclass(slots=True)
class Reading:
    """The record of one selection by one model, for reports only.

    Attributes:
        selection: the chunks read, when, and their scores over time.
        selector: how chunks are scored.
        encoder: the encoder of text as vectors; None if there is none.
        prompt_tokens: number of tokens of the whole prompt.
        held_tokens: number of prompt tokens held now: head, chosen chunks, instruction.
        kv_tokens: largest number of rows held at any time, with generated tokens.
        bytes_per_token: bytes of keys and values per token; 0 if unknown.
        refreshes: number of refreshes during generation.
        select_seconds: seconds for scoring chunks before the prompt was read.
        refresh_seconds: seconds for scoring and for reading swapped chunks during generation.
        recomputed: number of tokens read in refreshes, again or for the first time.
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
        """Number of chunks admitted after the first choice."""
        return sum(len(decision.admitted) for decision in self.selection.decisions[1:])

    def of(self, selection: Selection) -> "Reading":
        """Return the same record for another selection that continues it."""
        return replace(self, selection=selection)

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain numbers for JSON."""
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
            "decisions": [
                {
                    "generated": decision.generated,
                    "admitted": list(decision.admitted),
                    "evicted": list(decision.evicted),
                }
                for decision in self.selection.decisions
            ],
        }
