"""Bias, penalties and bans on a row of scores in NumPy: the same numbers as `Sampler.process`.

The compiled kernel then chooses from the edited copy. The copies and sums of PyTorch start OpenMP
threads for rows of more than 32,768 scores, which took up to 140 ms a token on a busy machine.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from outrider.core.types import IntArray, as_ids
from outrider.sampling.params import SamplingParams

Scores = NDArray[np.float32]
"""`[vocab]`"""


def edited(
    logits: Scores,
    params: SamplingParams,
    prompt_ids: IntArray,
    generated: Sequence[int] | IntArray,
    end_ids: IntArray,
) -> Scores:
    """Return the scores after all settings of `params` except processors and warps, as a copy.

    Args:
        logits: float32.
        params: the settings.
        prompt_ids: the different ids of the prompt.
        generated: the tokens before this one.
        end_ids: ids that end the text.
    """
    width = len(logits)
    forced = params.forced_tokens.get(len(generated))
    if forced is not None:
        scores = np.full_like(logits, -np.inf)
        scores[forced : forced + 1] = 0.0
        return scores
    scores = logits.copy()
    for token, bias in params.logit_bias.items():
        if token < width:
            scores[token] += np.float32(bias)
    _penalise(scores, params, prompt_ids, as_ids(generated))
    if params.banned_tokens:
        scores[[i for i in params.banned_tokens if i < width]] = -np.inf
    if len(generated) < params.min_new_tokens:
        scores[_inside(end_ids, width)] = -np.inf
    return scores


def _penalise(
    scores: Scores, params: SamplingParams, prompt_ids: IntArray, output: IntArray
) -> None:
    output = _inside(output, len(scores))
    if params.repetition_penalty != 1.0:
        seen = np.concatenate((_inside(prompt_ids, len(scores)), output))
        old, penalty = scores[seen], np.float32(params.repetition_penalty)
        scores[seen] = np.where(old < 0, old * penalty, old / penalty)
    if len(output) and (params.presence_penalty or params.frequency_penalty):
        seen, counts = np.unique(output, return_counts=True)
        frequent = np.float32(params.frequency_penalty) * counts.astype(np.float32)
        scores[seen] -= np.float32(params.presence_penalty) + frequent


def _inside(ids: IntArray, width: int) -> IntArray:
    return ids[ids < width]
