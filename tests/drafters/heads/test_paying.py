"""Chains of heads end where a further token does not pay (`drafters/heads/chain.py`)."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.types import NO_IDS, Budget, Prompt, Worth, as_ids
from outrider.drafters.heads import chain
from outrider.drafters.heads.chain import Rates, paying
from outrider.drafters.heads.eagle3 import Eagle3
from outrider.drafters.heads.hinted import Hinted
from outrider.drafters.neural.asks import FIRST
from outrider.drafters.neural.reading import read_ahead
from outrider.kernels.layout import CHANCES
from outrider.models.heads.native import NativeHead
from outrider.protocols import ChainRequest, Request, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.models.heads.setups import Rig, make_rig, make_target, needs_kernels

TEXT = (3, 9, 27, 11, 9, 27, 5, 3, 9, 27)
CHANCE = st.floats(0.0, 1.0)
FRESH = Rates().chances.sum()


@given(
    chances=st.lists(CHANCE, min_size=1, max_size=6),
    floors=st.lists(CHANCE, min_size=6, max_size=6),
    least=st.floats(-0.5, 1.0),
)
def test_the_kept_chain_gains_most(chances: list[float], floors: list[float], least: float) -> None:
    """By brute force over all lengths; the longest of equal ones."""
    kept = paying(np.array(chances, dtype=np.float32), floors, least)
    own = np.array(chances, dtype=np.float32).tolist()
    gains = [
        sum(float(np.prod(own[: i + 1])) - floors[i] for i in range(size))
        for size in range(len(chances) + 1)
    ]
    best = max(gains)
    if kept:
        assert gains[kept] == pytest.approx(best) and gains[kept] >= max(least, 0.0) - 1e-9
    else:
        assert best <= max(least, 0.0) + 1e-9


def test_rates_follow_what_was_right() -> None:
    rates = Rates()
    assert (np.diff(rates.chances) > 0).all() and rates.chances.dtype == np.float32
    for i in range(3000):
        rates.note(20, i % 4 == 0)
    assert rates.chances[20] == pytest.approx(0.25, abs=0.02)
    for _ in range(3000):  # old counts fade
        rates.note(20, True)
    assert rates.chances[20] > 0.98


@pytest.fixture(scope="module", params=["hinted", "eagle3"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    folder: Path = make_target(tmp_path_factory.mktemp("target") / "target")
    return make_rig(folder, request.param, "native")


def asked(rig: Rig, depth: int = 6, temperature: float = 0.0) -> ChainRequest:
    sampler = Sampler(SamplingParams(temperature=temperature, seed=2))
    return ChainRequest(Segment(rig.follows(TEXT), NO_IDS), sampler, (), depth)


@needs_kernels()
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_classes_are_those_of_the_probabilities_of_the_tokens(rig: Rig, temperature: float) -> None:
    assert isinstance(rig.head, NativeHead)
    everything = np.ones(CHANCES, dtype=np.float32)
    tokens, found = rig.head.draft(asked(rig, temperature=temperature), everything, 0.0)
    [whole] = rig.head.write_chains([asked(rig, temperature=temperature)]) or [NO_IDS]
    assert tokens.tolist() == whole.tolist()
    cache = rig.follows(TEXT)
    for place, token in enumerate(tokens.tolist()):
        logits = rig.rows(cache, tokens[place - 1 : place].tolist() if place else ())[-1]
        expected = (logits / (temperature or 1.0)).softmax(-1)[token]
        assert abs(found[place] + 0.5 - float(expected) * CHANCES) < 0.5 + 1e-2


@needs_kernels()
def test_a_temperature_near_0_chooses_as_0(rig: Rig) -> None:
    assert isinstance(rig.head, NativeHead)
    everything = np.ones(CHANCES, dtype=np.float32)
    best, _ = rig.head.draft(asked(rig), everything, 0.0)
    tokens, classes = rig.head.draft(asked(rig, temperature=1e-42), everything, 0.0)
    assert tokens.tolist() == best.tolist()
    assert set(classes.tolist()) <= set(range(CHANCES))


@needs_kernels()
def test_a_chain_ends_with_the_first_unlikely_token(rig: Rig) -> None:
    assert isinstance(rig.head, NativeHead)
    everything = np.ones(CHANCES, dtype=np.float32)
    whole, _ = rig.head.draft(asked(rig), everything, 0.0)
    half = np.full(CHANCES, 0.5, dtype=np.float32)
    for size, least in ((1, 0.6), (2, 0.3), (3, 0.2)):
        tokens, _ = rig.head.draft(asked(rig), half, least)
        assert tokens.tolist() == whole[:size].tolist()


@needs_kernels()
def test_a_draft_pays_and_teaches(rig: Rig) -> None:
    """Free rows: the whole chain. Dear rows: nothing. What was drafted and left out counts too."""
    kind = {"hinted": Hinted, "eagle3": Eagle3}[rig.config.kind.value]
    drafter = kind(model=rig.head)
    source = rig.reads(TEXT)
    request = Request(
        prompt=Prompt(token_ids=TEXT), sampler=Sampler(SamplingParams()), target_cache=source
    )
    [state] = drafter.begin([request])

    def drafted(floor: float, least: float = 0.0, beside: str = "") -> int:
        worth = Worth(floors=(floor,) * 4, least=least, beside=beside)
        budget = Budget(depth=4, nodes=4, shares={drafter.name: 4}, worth=worth)
        [draft] = drafter.propose([state], [NO_IDS], [budget])
        return len(draft)

    assert drafted(1e-6) == 4
    before = drafter.rates[False, False].chances.copy()
    tested = list(state.tested)
    assert drafted(0.999) == 0
    assert drafted(1e-6, least=4.0) == 0
    assert drafted(1e-6, least=4.0, beside=drafter.name) == 4, "its own gain is what others need"
    state.tested = tested
    drafter.commit([state], [as_ids([tested[0][0], (tested[1][0] + 1) % 48])])
    after = drafter.rates[False, False].chances
    assert state.tested == []
    first, second = tested[0][1], tested[1][1]
    if first != second:
        assert after[first] > before[first] and after[second] < before[second]
    others = np.ones(CHANCES, dtype=bool)
    others[[first, second]] = False
    assert (after[others] == before[others]).all()


def request_of(rig: Rig, sampler: Sampler) -> Request:
    return Request(prompt=Prompt(token_ids=TEXT), sampler=sampler, target_cache=rig.reads(TEXT))


@needs_kernels()
def test_a_head_whose_time_exceeds_its_gain_is_not_run(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a virtual clock each ask takes one second, in which one token would be written."""
    drafter = {"hinted": Hinted, "eagle3": Eagle3}[rig.config.kind.value](model=rig.head)
    ticks = itertools.count()
    monkeypatch.setattr(chain, "perf_counter", lambda: float(next(ticks)))
    [state] = drafter.begin([request_of(rig, Sampler(SamplingParams()))])

    def asked_for(rate: float, right: bool) -> bool:
        worth = Worth(floors=(1e-6,) * 4, rate=rate)
        budget = Budget(depth=4, nodes=4, shares={drafter.name: 4}, worth=worth)
        before = next(ticks)
        [draft] = drafter.propose([state], [NO_IDS], [budget])
        ran = next(ticks) - before > 1
        tokens = draft.tokens[:1] if right and len(draft) else as_ids([47 - int(TEXT[0])])
        drafter.commit([state], [tokens])
        return ran

    kept = [asked_for(1e-6, right=False) for _ in range(4)]
    assert all(kept), "it takes nothing"
    assert drafter.asks[False, False].count == 4
    lost = [asked_for(1.0, right=False) for _ in range(FIRST)]
    assert lost == [True] * (FIRST - 4) + [False] * 4
    assert drafter.asks[False, False].off and not drafter.asks[True, False].off


@needs_kernels()
def test_kept_tokens_and_their_costs_are_the_gain(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = {"hinted": Hinted, "eagle3": Eagle3}[rig.config.kind.value](model=rig.head)
    ticks = itertools.count()
    monkeypatch.setattr(chain, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(chain, "read_ahead", lambda *given: read_ahead(*given) and 3.0)
    [state] = drafter.begin([request_of(rig, Sampler(SamplingParams()))])
    worth = Worth(floors=(0.001, 0.002, 0.003, 0.004), rate=0.1)
    budget = Budget(depth=4, nodes=4, shares={drafter.name: 4}, worth=worth)
    [draft] = drafter.propose([state], [NO_IDS], [budget])
    assert len(draft) > 1 and draft.once == 3.0
    wrong = (int(draft.tokens[1]) + 1) % 48
    drafter.commit([state], [as_ids([int(draft.tokens[0]), wrong])])
    cost = 0.1 * (1.0 + 3.0) + sum(worth.floors[: len(draft)])
    assert drafter.asks[False, False].mean == pytest.approx(1.0 - cost)
    drafter.commit([state], [as_ids([5])])
    assert drafter.asks[False, False].count == 1, "each ask is judged once"


@needs_kernels()
def test_penalties_leave_the_choice_of_the_head_as_it_is(rig: Rig) -> None:
    """The kernel drafts without them, selects, and counts such texts apart."""
    drafter = {"hinted": Hinted, "eagle3": Eagle3}[rig.config.kind.value](model=rig.head)
    found = []
    for penalty in (1.0, 1.3):
        params = SamplingParams(repetition_penalty=penalty, temperature=0.7, seed=3)
        sampler = Sampler(params, prompt_ids=TEXT, sample=2)
        [state] = drafter.begin([request_of(rig, sampler)])
        worth = Worth(floors=(1e-6,) * 4)
        budget = Budget(depth=4, nodes=4, shares={drafter.name: 4}, worth=worth)
        [draft] = drafter.propose([state], [NO_IDS], [budget])
        found.append(draft.tokens.tolist())
        assert len(state.tested) == len(draft), "classes of its tokens are known"
        drafter.commit([state], [draft.tokens[:1]])
    assert found[0] == found[1] and len(found[0]) == 4
    trained = [kind for kind, rates in drafter.rates.items() if rates.chances.sum() != FRESH]
    assert trained == [(True, False), (True, True)]
