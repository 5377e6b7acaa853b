"""What the tests of drafters that remember rows share."""

from collections.abc import Sequence

import torch

from outrider.core.types import (
    NO_IDS,
    Budget,
    Draft,
    IntArray,
    Prompt,
    Rows,
    Verdict,
    Verified,
    as_ids,
)
from outrider.protocols import Drafter, Request
from outrider.sampling import Sampler, SamplingParams


def request(prompt: Sequence[int], end_ids: Sequence[int] = (), **options: object) -> Request:
    params = SamplingParams.of(**{"seed": 5, **options})
    read = Prompt(token_ids=tuple(prompt))
    return Request(read, Sampler(params, prompt_ids=read.token_ids, end_ids=end_ids))


def propose(
    drafter: Drafter, state: object, nodes: int = 80, depth: int = 6, tail: IntArray = NO_IDS
) -> Draft:
    [draft] = drafter.propose([state], [tail], [Budget(depth=depth, nodes=nodes)])
    return draft


def observe(
    drafter: Drafter,
    state: object,
    draft: Draft,
    logits: torch.Tensor,
    path: Sequence[int] = (),
    tier: str = "target",
    tail: IntArray = NO_IDS,
) -> None:
    verdict = Verdict(
        path=tuple(path), tokens=tuple(int(draft.tokens[n]) for n in path), next_token=0
    )
    drafter.observe([state], [Verified(tier, tail, draft, Rows(logits), verdict)])


def chain(tokens: Sequence[int], origin: str = "other") -> Draft:
    return Draft(
        tokens=as_ids(tokens),
        parents=as_ids(range(-1, len(tokens) - 1)),
        sources=(origin,) * len(tokens),
        origin=origin,
    )


def paths(draft: Draft) -> list[tuple[int, ...]]:
    """What each node spells, in order."""
    spelt: list[tuple[int, ...]] = []
    for token, parent in zip(draft.tokens.tolist(), draft.parents.tolist(), strict=True):
        spelt.append((*(spelt[parent] if parent >= 0 else ()), token))
    return spelt
