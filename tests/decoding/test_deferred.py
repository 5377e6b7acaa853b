"""Deferred drafters: what they are owed arrives whole and in order."""

import numpy as np

from outrider.core.types import NO_IDS, Budget, Prompt, as_ids
from outrider.decoding.deferred import Deferred
from outrider.drafters import Lookup
from outrider.protocols import Request
from outrider.sampling import Sampler, SamplingParams


def test_tokens_of_several_rounds_are_committed_together() -> None:
    drafter = Deferred(drafter=Lookup(min_ngram=1))
    request = Request(Prompt(token_ids=(9,)), Sampler(SamplingParams()))
    [state] = drafter.begin([request])
    drafter.propose([state], [NO_IDS], [Budget.chain(3)])
    for part in ([1, 2], [], [3], [1]):
        drafter.commit([state], [as_ids(part)])
    [draft] = drafter.propose([state], [NO_IDS], [Budget.chain(3)])
    assert np.array_equal(draft.tokens, [2, 3, 1]) and not state.owed
