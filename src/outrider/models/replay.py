"""A model that knows the text it will write: recorded texts pass through the ordinary loop again.

`Match` keeps a drafted token exactly if it is the token of the text. So a text that was written
once, run again with another drafter, has the rounds, drafts and acceptances that this drafter would
have had, without a forward of the target. `outrider tune` compares hundreds of drafters in this
way. Only rules that never change the text can be replayed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from outrider.core.errors import StrategyError
from outrider.core.types import NO_IDS, IntArray, Prompt, Rows, as_ids
from outrider.models.caches.narrowing import narrowed
from outrider.models.caches.prefill import start_caches
from outrider.models.tabular import TabularCache
from outrider.policies.surface import Forward
from outrider.protocols import Cache, LanguageModel, Segment
from outrider.sampling import Sampler

RECORDED = 32
"""Best tokens of each row that are recorded."""

_UNKNOWN = 0
"""The token that follows where nothing is recorded; no kept token comes from there."""


@dataclass(frozen=True, slots=True)
class TopRows:
    """The best tokens of the rows of a text, for drafters that learn from rows.

    Attributes:
        ids: `[rows, best]` the tokens with the largest logits, best first.
        logits: `[rows, best]` their logits.
        rest: `[rows]` the logit that stands for each other token: with it, the probabilities of the
            recorded tokens are those of the whole row.
    """

    ids: Int[Tensor, "rows best"]
    logits: Float[Tensor, "rows best"]
    rest: Float[Tensor, " rows"]

    @classmethod
    def of(cls, rows: Float[Tensor, "rows vocab"], best: int = RECORDED) -> "TopRows":
        """Record the best tokens of each row."""
        count = rows.shape[1]
        values, ids = torch.topk(rows, min(best, count), dim=1)
        others = count - ids.shape[1]
        if not others:
            return cls(ids, values, torch.full((len(rows),), -torch.inf, dtype=rows.dtype))
        whole = torch.logsumexp(rows.double(), dim=1)
        share = (values.double() - whole[:, None]).exp().sum(dim=1).clamp(max=1.0)
        rest = whole + torch.log1p(-share) - np.log(others)
        return cls(ids, values, torch.minimum(rest.to(rows.dtype), values[:, -1]))

    def fill(self, number: int, row: Float[Tensor, " vocab"]) -> None:
        """Write row `number` into `row`."""
        row.fill_(float(self.rest[number]))
        row[self.ids[number]] = self.logits[number].to(row.dtype)


@dataclass(frozen=True, slots=True)
class Recording:
    """One text that the target wrote.

    Attributes:
        prompt: ids of the prompt, at least one.
        tokens: ids of the text that followed.
        rows: the target's row for each token of the text; None: not recorded.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    rows: TopRows | None = None


def with_rows(model: LanguageModel, recording: Recording, best: int = RECORDED) -> Recording:
    """Return `recording` with the best tokens of the rows, which one forward of `model` reads.

    Raises:
        ContextError: the text does not fit into the window of `model`.
    """
    if not recording.tokens:
        return recording
    [cache] = model.start([Prompt(token_ids=recording.prompt)])
    read = as_ids(recording.tokens[:-1])
    [rows] = model.forward([Segment(cache, read)], [np.arange(-1, len(read))])
    return replace(recording, rows=TopRows.of(rows.logits.cpu(), best))


class ReplayCache(TabularCache):
    """A cache without tensors, of a text that is known in advance."""

    recording: Recording | None = None

    def _share(self) -> "ReplayCache":
        twin = cast("ReplayCache", super()._share())
        twin.recording = self.recording
        return twin

    def following(self, rows: Sequence[int], known: Recording) -> list[int]:
        """Return, for each speculative row (-1: the end of the text), the index of the recorded
        token that follows it; -1 for rows off the recorded text and behind its end."""
        begin = len(self._text) - len(known.prompt)
        if tuple(self._text[len(known.prompt) :]) != known.tokens[:begin]:
            raise StrategyError(
                "a replayed text differs from its record: the rule kept another token",
                hint="Replay only rules that keep the target's own tokens, such as match",
            )
        found: dict[int, int] = {-1: begin}
        for row, (token, parent) in enumerate(zip(self._tokens, self._parents, strict=True)):
            place = found[parent]
            on = 0 <= place < len(known.tokens) and known.tokens[place] == token
            found[row] = place + 1 if on else -1
        ends = len(known.tokens)
        return [found[row] if found[row] < ends else -1 for row in rows]


class ReplayModel:
    """A `LanguageModel` that writes the recorded texts.

    The choice after a row of the recorded text is the next token of the text, whatever the settings
    of the request. Without recorded rows, a row holds -inf except at that token. With them it holds
    the recorded best tokens; a row off the text then holds what followed its last token at its
    newest place in the text, since the row itself is unknown.

    It has no layers and no hidden states, so drafters that read them cannot be replayed.

    Args:
        like: the model that wrote the texts; its description is used.
        recordings: the texts; each prompt occurs once.
    """

    layered = segmented = chain_decoder = hidden_states = selector = embed = None

    def __init__(self, like: LanguageModel, recordings: Sequence[Recording]) -> None:
        self.info = replace(
            like.info,
            device=torch.device("cpu"),
            batch_invariant=True,
            reads_prompts=False,
            find_bytes_per_token=lambda: 0,
        )
        self.recordings = {recording.prompt: recording for recording in recordings}
        self.asked: list[Forward] = []
        """The forwards of the target that the texts have needed so far."""

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[ReplayCache]:
        """Create one cache for each prompt. Raises `StrategyError` for an unknown prompt."""
        unknown = next((p for p in prompts if p.token_ids not in self.recordings), None)
        if unknown is not None:
            raise StrategyError(
                f"no text is recorded for a prompt of {len(unknown)} tokens",
                hint="Record the text of every prompt before it is replayed",
            )
        old = [c if isinstance(c, ReplayCache) else None for c in reuse] if reuse else None
        caches = start_caches(self, prompts, old, lambda: ReplayCache(self.info.context_length))
        for cache, prompt in zip(caches, prompts, strict=True):
            cache.recording = self.recordings[prompt.token_ids]
        return caches

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Return the recorded rows, with the choices of the text.

        Raises:
            ContextError: a row would lie beyond the context window.
            StrategyError: the text is not the recorded one.
        """
        rows = sum(len(own) for own in want)
        if rows:
            context = sum(len(segment.cache.text) for segment in segments)
            asked = Forward(sequences=len(segments), rows=rows, context=context)
            self.asked.append(asked)
        return [
            self._rows(narrowed(segment.cache, ReplayCache, self.info.name), segment, rows)
            for segment, rows in zip(segments, want, strict=True)
        ]

    def _rows(self, cache: ReplayCache, segment: Segment, want: IntArray) -> Rows:
        cache.feed(segment, want)
        known = cache.recording
        if known is None or not len(want):
            return Rows(torch.empty(0, self.info.vocab_size))
        rows = want.tolist()
        places = cache.following(rows, known)
        tokens = [known.tokens[place] if place >= 0 else _UNKNOWN for place in places]
        logits = torch.full((len(rows), self.info.vocab_size), -torch.inf)
        if known.rows is None:
            logits[torch.arange(len(rows)), torch.tensor(tokens)] = 0.0
        else:
            seen = _newest(known, len(cache.text) - len(known.prompt))
            for number, (row, place) in enumerate(zip(rows, places, strict=True)):
                last = cache.ending_at(row, 1)[0]
                place = place if place >= 0 else seen.get(last, -1)
                if place >= 0:
                    known.rows.fill(place, logits[number])
                else:
                    logits[number] = 0.0
        return Rows(logits, chooser=_Choices(as_ids(tokens)))


@dataclass(frozen=True, slots=True)
class _Choices:
    """Returns the tokens of the text in place of the sampler's choices."""

    tokens: IntArray

    def __call__(self, sampler: Sampler, indices: IntArray) -> IntArray:
        return self.tokens if len(self.tokens) == len(indices) else NO_IDS


def _newest(known: Recording, written: int) -> dict[int, int]:
    """Return, for each token of the text so far, the index of what followed its newest place."""
    text = (*known.prompt[-1:], *known.tokens[:written])
    return {token: place for place, token in enumerate(text) if place < len(known.tokens)}
