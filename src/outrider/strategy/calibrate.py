"""Measure how far a proposer's distributions are from a verifier's, along the verifier's text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from outrider.acceptance.divergence import DIVERGENCES, Divergence, divergence
from outrider.core.errors import LogitsError, OptionError
from outrider.core.types import NO_IDS, Prompt, Rows, as_ids
from outrider.protocols import Cache, LanguageModel, Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy.calibration import Calibration, CalibrationKey, ModelId

Progress = Callable[[int, int], None]
"""Called with the number of prompts done and the total number of prompts."""

NUM_PROMPTS = 200
"""Recommended number of prompts: the 80 % quantile of 200 texts varies little between prompt sets.
"""

_CHUNK = 16
"""Tokens that the verifier writes before the proposer reads them in one pass; bounds the memory."""

_ROOT = as_ids([-1])


@dataclass(slots=True)
class _Walk:
    """One prompt: the text so far, and the verifier's rows not yet compared with the proposer's."""

    sampler: Sampler
    verifier: Cache
    proposer: Cache
    output: list[int] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    ended: bool = False

    def goes_on(self, limit: int) -> bool:
        """Whether to write another token: the text has not ended, and it fits into both windows."""
        fits = self.verifier.remaining > 0 and self.proposer.remaining > len(self.rows)
        return fits and not self.ended and len(self.output) < limit


def calibrate(
    verifier: LanguageModel,
    proposer: LanguageModel,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    tokens_per_prompt: int = 64,
    divergences: Sequence[str] | None = None,
    progress: Progress | None = None,
    end_ids: Sequence[int] = (),
    batch_size: int = 8,
) -> list[Calibration]:
    """Calibrate a pair of models; return one calibration for each divergence.

    The verifier continues each prompt with its own choices. At each token the raw logits of both
    models are compared. Each model reads each text once. The same seed gives the same calibration;
    no seed means seed 0.

    Args:
        verifier: the model that accepts drafts.
        proposer: the model whose logits are compared with the verifier's. For the target of a
            pyramid this is the qualifier, for the qualifier the draft model.
        prompts: token ids of each prompt; about `NUM_PROMPTS` prompts.
        params: how the verifier samples.
        tokens_per_prompt: tokens written after each prompt; fewer if the text ends earlier.
        divergences: names of divergences; all by default.
        progress: called after each batch of prompts.
        end_ids: the end tokens of the verifier.
        batch_size: prompts in one forward.

    Raises:
        OptionError: an unknown divergence, or nothing to measure.
        ContextError: a prompt does not fit into one of the windows.
        LogitsError: the verifier's logits are unusable.
    """
    measures = [divergence(name) for name in (divergences or DIVERGENCES)]
    if not prompts or tokens_per_prompt < 1 or batch_size < 1:
        raise OptionError(
            f"{len(prompts)} prompts of {tokens_per_prompt} tokens, in batches of {batch_size}",
            hint="Give at least one of each",
        )
    params = params if params.seed is not None else replace(params, seed=0)
    values: dict[str, list[Tensor]] = {m.name: [] for m in measures}
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        samplers = [
            Sampler(params, prompt_ids=ids, end_ids=end_ids, sample=first + i)
            for i, ids in enumerate(batch)
        ]
        walks = _begin(verifier, proposer, samplers)
        for walk, rows in _compared(verifier, proposer, walks, tokens_per_prompt):
            for measure in measures:
                values[measure.name].append(_measure(measure, walk, rows).cpu())
        if progress is not None:
            progress(first + len(batch), len(prompts))
    return [
        Calibration.of(_subject(name, verifier, proposer, params), torch.cat(parts))
        for name, parts in values.items()
    ]


def _subject(
    name: str, verifier: LanguageModel, proposer: LanguageModel, params: SamplingParams
) -> CalibrationKey:
    return CalibrationKey(
        divergence=name,
        proposer=ModelId.of(proposer),
        verifier=ModelId.of(verifier),
        warps=params.warps,
    )


def _begin(
    verifier: LanguageModel, proposer: LanguageModel, samplers: Sequence[Sampler]
) -> list[_Walk]:
    prompts = [Prompt(token_ids=sampler.prompt_ids) for sampler in samplers]
    caches = zip(verifier.start(prompts), proposer.start(prompts), strict=True)
    return [_Walk(sampler, *pair) for sampler, pair in zip(samplers, caches, strict=True)]


def _compared(
    verifier: LanguageModel, proposer: LanguageModel, walks: list[_Walk], limit: int
) -> Iterator[tuple[_Walk, Rows]]:
    """Yield each walk with the proposer's rows for its newest tokens, chunk by chunk."""
    while walks := [w for w in walks if w.goes_on(limit)]:
        for _ in range(_CHUNK):
            _write(verifier, [w for w in walks if w.goes_on(limit)])
        tokens = [as_ids(walk.output[-len(walk.rows) :]) for walk in walks]
        segments = [Segment(w.proposer, t[:-1]) for w, t in zip(walks, tokens, strict=True)]
        want = [np.arange(-1, len(t) - 1) for t in tokens]
        read = proposer.forward(segments, want)
        for walk, written, rows in zip(walks, tokens, read, strict=True):
            walk.proposer.commit(written)
            yield walk, rows
            walk.rows.clear()


def _write(verifier: LanguageModel, walks: Sequence[_Walk]) -> None:
    """Append one token to each text, chosen by the verifier."""
    if not walks:
        return
    segments = [Segment(walk.verifier, NO_IDS) for walk in walks]
    for walk, rows in zip(walks, verifier.forward(segments, [_ROOT] * len(walks)), strict=True):
        token = walk.sampler.choose(rows.logits[0], walk.output)
        walk.rows.append(rows.logits[0])
        walk.output.append(token)
        walk.verifier.commit([token])
        walk.ended = token in walk.sampler.end_ids


def _measure(measure: Divergence, walk: _Walk, rows: Rows) -> Tensor:
    """Compute one divergence at each of the newest tokens of `walk`."""
    theirs = torch.stack(walk.rows).to(rows.logits.device)
    tokens = _proposals(walk, rows) if measure.reads_token else None
    return measure.rows(rows.logits, theirs, tokens)


def _proposals(walk: _Walk, rows: Rows) -> Tensor:
    """Choose the token that the proposer would draft at each position."""
    start = len(walk.output) - len(walk.rows)
    tokens: list[int] = []
    for i, logits in enumerate(rows.logits):
        try:
            tokens.append(walk.sampler.choose(logits, walk.output[: start + i]))
        except LogitsError:
            tokens.append(0)  # any token is valid here: the divergence of this row is NaN
    return torch.tensor(tokens)
