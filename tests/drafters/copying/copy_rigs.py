"""One request at a drafter that copies: begin, propose, and the runs that must equal undrafted."""

from collections.abc import Sequence
from typing import Any

import torch

from outrider.core.types import Budget, Draft, Prompt, as_ids
from outrider.drafters import NoDrafter, Qualified
from outrider.models.tabular import TabularModel
from outrider.policies import FixedLength
from outrider.protocols import Drafter, Request
from outrider.sampling import Sampler, SamplingParams
from tests.exactness.setups.rigs import PROMPTS, SAMPLINGS, outputs, run, stage, tabular_family

FAMILY = tabular_family()
NEAR_ENDS = {"end_ids": (0,)}


def begin(
    drafter: Any,
    prompt: Sequence[int],
    *,
    previous: Any = None,
    end_ids: Sequence[int] = (),
    temperature: float = 0.0,
) -> Any:
    sampler = Sampler(SamplingParams(temperature=temperature), end_ids=tuple(end_ids))
    request = Request(Prompt(token_ids=tuple(prompt)), sampler)
    [state] = drafter.begin([request], None if previous is None else [previous])
    return state


def propose(
    drafter: Any, state: Any, tail: Sequence[int] = (), size: int = 6, nodes: int | None = None
) -> Draft:
    budget = Budget(depth=size, nodes=size if nodes is None else nodes)
    [draft] = drafter.propose([state], [as_ids(tail)], [budget])
    return draft


def tokens(draft: Draft) -> list[int]:
    return draft.tokens.tolist()


def counting(vocab_size: int = 7) -> TabularModel:
    """A target that counts in circles: everything after the first turn is a copy."""
    table = torch.full((vocab_size, vocab_size), -20.0, dtype=torch.float64)
    for i in range(vocab_size):
        table[i, (i + 1) % vocab_size] = 20.0
    return TabularModel(table)


def repeating(period: int, vocab_size: int = 7) -> list[int]:
    return [i % period % vocab_size for i in range(3 * period)]


def check_equality(drafter: Drafter, policy: Any = None) -> int:
    """Alone, in a batch and under a qualifier, greedy and sampled: the undrafted text.

    Returns how many drafted tokens were accepted in all, so that a test can see that some were.
    """
    accepted = 0
    nest = Qualified(drafter=drafter, qualifier=FAMILY.qualifier, policy=FixedLength(3))
    for options in SAMPLINGS.values():
        options = {**options, **NEAR_ENDS, "max_new_tokens": 40}
        plain = outputs(run(stage(FAMILY.target, NoDrafter()), PROMPTS, **options))
        for one in (drafter, nest):
            drafted = run(stage(FAMILY.target, one, policy=policy), PROMPTS, **options)
            assert outputs(drafted) == plain
            accepted += sum(g.counters.accepted for g in drafted) if one is drafter else 0
        [alone] = run(stage(FAMILY.target, drafter, policy=policy), PROMPTS[2:3], **options)
        assert tuple(alone.output) == plain[2]
    return accepted
