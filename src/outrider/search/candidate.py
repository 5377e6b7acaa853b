"""Results of a search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from outrider.core.values import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One text that a search returns.

    Attributes:
        token_ids: its tokens, an end token included.
        score: what candidates are ordered by; larger is better. Each strategy says what it is.
        logprob: sum of the log-probabilities of its tokens under the model; None: not computed.
        finish_reason: `stop` at an end token or stop string, `length` at the limit, `unfinished`
            where the search ended before.
        text: the text; empty without a tokenizer. `Task.candidate` fills it in.
        about: more about it, as plain data.
    """

    token_ids: tuple[int, ...]
    score: float
    logprob: float | None = None
    finish_reason: str = "stop"
    text: str = ""
    about: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data for JSON, which has no infinite numbers."""
        return {
            "text": self.text,
            "token_ids": list(self.token_ids),
            "score": _finite(self.score),
            "logprob": _finite(self.logprob),
            "finish_reason": self.finish_reason,
            "about": {
                name: _finite(value) if isinstance(value, float) else value
                for name, value in self.about.items()
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search has found.

    Attributes:
        candidates: the texts, the best first; at least one.
        strategy: name of the strategy.
        stopped: why it ended before it was done, such as a limit or an error of the scorer; empty
            if it was done.
        forwards: forwards of the model after the prompt.
        tokens: rows that they computed.
        scorer_calls: texts that the scorer judged.
        cache_rows: most rows of caches in use at once, the prompt included; 0: not counted.
        seconds: wall-clock seconds.
        seed: the seed that gives the same result again.
    """

    candidates: Sequence[Candidate]
    strategy: str
    stopped: str = ""
    forwards: int = 0
    tokens: int = 0
    scorer_calls: int = 0
    cache_rows: int = 0
    seconds: float = 0.0
    seed: int = 0

    @property
    def best(self) -> Candidate:
        """The best candidate."""
        return self.candidates[0]

    @property
    def text(self) -> str:
        """The text of the best candidate."""
        return self.best.text

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data for JSON."""
        return {
            "strategy": self.strategy,
            "candidates": [one.to_dict() for one in self.candidates],
            "stopped": self.stopped,
            "forwards": self.forwards,
            "tokens": self.tokens,
            "scorer_calls": self.scorer_calls,
            "cache_rows": self.cache_rows,
            "seconds": self.seconds,
            "seed": self.seed,
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
