"""What a learner keeps of a round: the place of the corrected token, and the target's row there.

The target has computed the row when it verified the draft, so that training needs no second forward
of the target. A row is stored as its most probable tokens and the probability of all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from outrider.core.types import Verified

TOP = 64
"""Tokens of a row of the target that are stored."""


@dataclass(frozen=True, slots=True)
class TargetRow:
    """A distribution of the target, coarsened.

    Attributes:
        ids: `[top]` the most probable tokens that the draft model has.
        logprobs: `[top + 1]` their log-probabilities, then that of all other tokens together.
    """

    ids: Int[Tensor, " top"]
    logprobs: Float[Tensor, " outcomes"]

    @classmethod
    def of(cls, logits: Float[Tensor, " vocab"], most: int) -> "TargetRow":
        """Return a row of logits; ids from `most` on, which the draft model lacks, are among the
        others."""
        logits = logits.detach().float().cpu()
        known = logits[:most]
        ids = known.topk(min(TOP, len(known) - 1, most - 1)).indices  # there are others
        return cls(ids, coarse(logits[None], ids[None])[0])


def coarse(
    logits: Float[Tensor, "rows vocab"], ids: Int[Tensor, "rows top"]
) -> Float[Tensor, "rows outcomes"]:
    """Return the log-probabilities of the tokens `ids`, and of all others together."""
    whole = logits.logsumexp(-1, keepdim=True)
    chosen = logits.gather(1, ids) - whole
    others = logits.scatter(1, ids, -torch.inf).logsumexp(-1, keepdim=True) - whole
    return torch.cat((chosen, others), dim=1)


@dataclass(frozen=True, slots=True)
class Correction:
    """A place where the target refused a token of the draft model.

    Attributes:
        index: index in the text, prompt included, of the token that the target wrote instead.
        row: the target's distribution of that token.
    """

    index: int
    row: TargetRow


def correction_of(
    prompt: int, written: int, seen: Verified, source: str, most: int
) -> Correction | None:
    """Return the correction of one verification; None if the target refused no token of `source`.

    Args:
        prompt: tokens of the prompt.
        written: tokens of the answer before this round.
        seen: the verification.
        source: the tier whose tokens count.
        most: size of the draft model's vocabulary.
    """
    verdict, draft = seen.verdict, seen.draft
    if verdict.error is not None or verdict.next_token is None:
        return None
    last = verdict.path[-1] if verdict.path else -1
    refused = draft.children(last)  # without any, the next token is a bonus
    if not any(draft.sources[node] == source for node in refused):
        return None
    index = prompt + written + len(seen.tail) + len(verdict.path)
    return Correction(index, TargetRow.of(seen.rows.logits[last + 1], most))


@dataclass(frozen=True, slots=True)
class Example:
    """A part of a text, with the places where the target corrected the draft model.

    Attributes:
        tokens: `[tokens]` the part, up to its last corrected token.
        rows: `[corrections]` the rows of the part whose prediction is compared with the target's.
        ids: `[corrections, top]` see `TargetRow`.
        logprobs: `[corrections, outcomes]` see `TargetRow`.
    """

    tokens: Int[Tensor, " tokens"]
    rows: Int[Tensor, " corrections"]
    ids: Int[Tensor, "corrections top"]
    logprobs: Float[Tensor, "corrections outcomes"]


def predicting(index: int) -> int:
    """Return the row that predicts the token at `index`: that of the token before it.

    Published code of the method reads row `index`, which predicts the token after the corrected
    one.
    """
    return index - 1


def examples_of(
    text: Sequence[int], corrections: Sequence[Correction], length: int
) -> list[Example]:
    """Cut a text into parts of at most `length` tokens that hold all corrections.

    At least half of a part precedes its first correction, as far as the text does.
    """
    waiting = [found for found in corrections if 1 <= found.index <= len(text)]
    made: list[Example] = []
    while waiting:
        start = max(waiting[0].index - max(length // 2, 1), 0)
        inside = [found for found in waiting if found.index <= start + length - 1]
        stop = inside[-1].index
        made.append(
            Example(
                torch.tensor(text[start : min(stop + 1, len(text))]),
                torch.tensor([predicting(found.index - start) for found in inside]),
                torch.stack([found.row.ids for found in inside]),
                torch.stack([found.row.logprobs for found in inside]),
            )
        )
        waiting = waiting[len(inside) :]
    return made
