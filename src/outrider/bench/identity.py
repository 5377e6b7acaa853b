"""Checks each text of a run against the guarantee of its strategy: is it equal to the undrafted
text?
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from outrider.bench.measure import Place, Run
from outrider.bench.models import OpenModels
from outrider.bench.statistics import first_difference
from outrider.bench.strategies import BASELINE
from outrider.core.types import NO_IDS, SAME_TEXT, Exactness, Prompt, as_ids
from outrider.engine.load import load
from outrider.protocols import Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.noise import Purpose, gumbel, stream_key

_NEAR = {"float64": 1e-9, "float32": 1e-3, "bfloat16": 0.25, "float16": 0.03}
"""Scores this close may change their order between forwards of one row and of several, if a model's
rows depend on their number. Rows of `NativeDecoder` do not: there, any difference is an error.
"""


_COMPARED = 16
"""Number of texts sufficient to tell whether another system computes the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A text that differs from the baseline although the strategy guarantees the same text.

    Attributes:
        index: generated index of the first difference.
        margin: difference of the target's scores of the two tokens there, with sampling noise; None
            if one of the texts ends there.
        near_tie: whether the margin is within the rounding error of the dtype.
    """

    system: str
    workload: str
    task: str
    repeat: int
    index: int
    margin: float | None
    near_tie: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        about = f"{self.system} on {self.task} differs from undrafted at token {self.index}"
        if self.margin is None:
            return f"{about} (one text ends there)"
        kind = "a near tie" if self.near_tie else "NOT a near tie"
        return f"{about} (the target scores the two {self.margin:.2g} apart: {kind})"


def compare(
    runs: Sequence[Run],
    exactness: Mapping[str, Exactness],
    opened: OpenModels,
    places: Sequence[Place],
    sampling: Mapping[str, Any],
) -> list[Mismatch]:
    """Return every violated guarantee, with the first difference only."""
    plain = {(r.task, r.repeat): r for r in runs if r.system == BASELINE}
    prompts = {place.task: place.token_ids for place in places}
    found: list[Mismatch] = []
    for run in runs:
        base = plain.get((run.task, run.repeat))
        promised = exactness.get(run.system) in SAME_TEXT
        if base is None or not promised or run.system == BASELINE:
            continue
        index = first_difference(run.token_ids, base.token_ids)
        if index is None:
            continue
        margin = _margin(opened, prompts[run.task], run, base, index, sampling)
        found.append(
            Mismatch(
                system=run.system,
                workload=run.workload,
                task=run.task,
                repeat=run.repeat,
                index=index,
                margin=margin,
                near_tie=margin is not None and margin < _tolerance(opened),
            )
        )
    return found


def float32_texts(
    opened: OpenModels, places: Sequence[Place], sampling: Mapping[str, Any]
) -> dict[str, list[int]]:
    """Return the undrafted float32 text of the target for at most `_COMPARED` prompts."""
    tier = opened.tiers["target"]
    device = opened.models["target"].info.device
    generator = load(tier.folder, mode="none", dtype="float32", device=str(device))
    generator.tokenizer = None
    step = max(len(places) // _COMPARED, 1)
    found: dict[str, list[int]] = {}
    for place in places[::step]:
        generator.reset()
        result = generator.generate(list(place.token_ids), **sampling)
        found[place.task] = [int(t) for t in result.token_ids]
    return found


def _tolerance(opened: OpenModels) -> float:
    same_rows = opened.models["target"].info.batch_invariant
    return 0.0 if same_rows else _NEAR.get(opened.dtype, 0.0)


def _margin(
    opened: OpenModels,
    prompt: Sequence[int],
    run: Run,
    base: Run,
    index: int,
    sampling: Mapping[str, Any],
) -> float | None:
    """Return the difference of the two tokens' scores in the target's choice after the common
    text.
    """
    if index >= min(run.tokens, base.tokens):
        return None
    model, written = opened.models["target"], [int(t) for t in base.token_ids[:index]]
    [cache] = model.start([Prompt(token_ids=tuple(prompt))])
    if written:
        cache.commit(written)  # not part of the prompt, which guidance may read in other words
    [rows] = model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
    params = SamplingParams.of(**sampling)
    sampler = Sampler(params, prompt_ids=prompt)
    pair = torch.tensor([run.token_ids[index], base.token_ids[index]])
    scores = sampler.process(rows.logits[0], written).cpu()[pair].double()
    if params.temperature > 0:
        key = stream_key(sampler.seed, 0, index, Purpose.CHOICE)
        scores = scores / params.temperature + gumbel(key, pair)
    return abs(float(scores[0] - scores[1]))
