"""Draft models under a grammar: chains in one call, cut where the grammar forbids a token."""

from pathlib import Path
from typing import Any

import pytest

from outrider import kernels
from outrider.core.types import Budget, as_ids
from outrider.drafters import ModelDrafter
from outrider.drafters.neural.model_state import ModelState
from outrider.policies import FixedLength
from tests.constraints.automaton import Automaton
from tests.exactness.setups.checkpoints import PROMPTS, SHAPE, load_family, make_tiers
from tests.exactness.setups.rigs import (
    SAMPLINGS,
    Family,
    generation,
    outputs,
    run,
    stage,
    undrafted,
)

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())

SIZE: int = SHAPE["vocab_size"]
WIDE = Automaton({0: {t: 0 for t in range(1, SIZE) if t % 16}}, frozenset((0,)), SIZE)
"""Almost every token may follow."""
NARROW = Automaton(
    {0: dict.fromkeys(range(1, SIZE, 9), 1), 1: dict.fromkeys(range(2, SIZE, 7), 0)},
    frozenset(),
    SIZE,
)
"""Few tokens may follow, so that a chain written without the mask is mostly wrong."""

SPELLED = Automaton(
    {
        0: {t: 1 + t % 3 for t in range(1, SIZE)},
        1: dict.fromkeys(range(1, SIZE), 2),
        2: dict.fromkeys(range(1, SIZE), 3),
        3: dict.fromkeys(range(1, SIZE), 0),
    },
    frozenset((0,)),
    SIZE,
    usual={1: 5, 2: 9},
)
"""Everything is admitted, but in two states only the usual spelling is allowed."""


@pytest.fixture(scope="module", params=["native", "int8"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder: Path = tmp_path_factory.mktemp("tiers")
    return load_family(make_tiers(folder, "llama"), request.param)


def drafted(family: Family, grammar: Automaton, sampling: str) -> list[Any]:
    """The drafted generations, which equal the undrafted ones."""
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 40, "end_ids": (0,)}
    whole = stage(family.target, ModelDrafter(model=family.draft), policy=FixedLength(3))
    plain = run(undrafted(whole), PROMPTS, grammar=grammar, **options)
    found = run(whole, PROMPTS, grammar=grammar, **options)
    assert outputs(found) == outputs(plain)
    return found


@pytest.mark.parametrize("sampling", ["greedy", "t0.7", "top_p"])
@pytest.mark.parametrize("grammar", [WIDE, NARROW, SPELLED], ids=["wide", "narrow", "spelled"])
def test_drafted_equals_undrafted(family: Family, grammar: Automaton, sampling: str) -> None:
    found = drafted(family, grammar, sampling)
    assert sum(g.counters.accepted for g in found) > 0


@pytest.mark.parametrize("grammar", [WIDE, NARROW], ids=["wide", "narrow"])
def test_chains_are_written_in_one_call_until_too_many_are_cut(
    family: Family, grammar: Automaton
) -> None:
    made = generation(PROMPTS[0], seed=3, temperature=1.0, grammar=grammar, end_ids=(0,))
    drafter, request = ModelDrafter(model=family.draft), made.request
    [state] = drafter.begin([request])
    assert request.sampler.walk is not None
    lengths: list[int] = []
    for _ in range(12):
        [draft] = drafter.propose([state], [as_ids(())], [Budget.chain(3)])
        assert request.sampler.walk.admits(request.output, draft.tokens.tolist()) == len(draft)
        lengths.append(len(draft))
        token = int(request.sampler.walk.after(request.output).tokens.argmax())  # pyright: ignore[reportOptionalMemberAccess]
        request.output.append(token)
        drafter.commit([state], [as_ids([token])])
    assert (state.chains, state.masks) == ((12, False) if grammar is WIDE else (8, True))
    assert lengths[8:] == [3] * 4 or grammar is WIDE


def test_the_mask_is_used_where_chains_are_cut_too_often() -> None:
    def state(cut: int, chains: int) -> bool:
        return ModelState(request=None, chains=chains, cut=cut).masks  # pyright: ignore[reportArgumentType]

    assert [state(0, 100), state(7, 7), state(2, 8), state(3, 8)] == [False, False, False, True]
