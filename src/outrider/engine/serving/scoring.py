"""Log-probabilities of the tokens of a prompt, reduced part by part so that few rows are kept."""

from collections.abc import Sequence

from outrider.core.types import Prompt, as_ids
from outrider.decoding.generation import TokenLogprob, token_logprob
from outrider.kernels.forking import one_torch_thread
from outrider.protocols import Cache, LanguageModel, Segment

CHUNK = 64
"""Tokens of a prompt whose rows are kept at once."""


@one_torch_thread()
def score_prompt(
    model: LanguageModel, ids: Sequence[int], top: int
) -> tuple[tuple[TokenLogprob | None, ...], Cache]:
    """Return the log-probability of each token of a prompt, and the cache that has read it.

    Args:
        model: the target.
        ids: the prompt.
        top: number of the most probable tokens to report for each position.

    Returns:
        None for the first token, which follows nothing, and a record for each other one; the cache.
    """
    [cache] = model.start([Prompt(token_ids=tuple(ids[:1]))])
    found: list[TokenLogprob | None] = [None]
    for start in range(1, len(ids), CHUNK):
        part = as_ids(ids[start : start + CHUNK])
        [rows] = model.forward([Segment(cache, part)], [as_ids(range(-1, len(part) - 1))])
        found += [
            token_logprob(row, int(token), top)
            for row, token in zip(rows.logits, part, strict=True)
        ]
        cache.commit(part)
    return tuple(found), cache
