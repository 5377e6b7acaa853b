"""Stops: how long they let drafts grow, and that no text knows of them."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.types import IntArray, Rows
from outrider.drafters import ModelDrafter, NoDrafter, Qualified, TreeDrafter
from outrider.drafters.neural.growth import DySpec, Eagle2
from outrider.models.tabular import TabularModel
from outrider.policies import ConfidenceStop, FixedLength, SpecDecPlus
from outrider.protocols import DraftPolicy, Segment
from tests.exactness.setups.rigs import PROMPTS, SAMPLINGS, outputs, run, stage, tabular_family
from tests.matrix import matrix

pytestmark = [pytest.mark.method("confidence"), pytest.mark.method("specdec-plus")]

FAMILY = tabular_family()
DRAFT = ModelDrafter(model=FAMILY.draft)

chances = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)


def stopped_at(policy: DraftPolicy, known: Sequence[float]) -> int:
    """Tokens drafted when their chances are these."""
    budget = policy.budget(Counters())
    assert budget.stop is not None
    for size in range(1, min(budget.depth, len(known)) + 1):
        if budget.stop(known[:size]):
            return size
    return min(budget.depth, len(known))


@given(chances, st.floats(0, 1), st.floats(0, 1))
def test_length_is_nondecreasing_in_eta(known: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert stopped_at(SpecDecPlus(eta=low), known) <= stopped_at(SpecDecPlus(eta=high), known)


@given(chances, st.integers(1, 6), st.integers(0, 6))
def test_eta_0_gives_the_least_and_eta_1_the_longest(
    known: list[float], least: int, more: int
) -> None:
    bounds = {"least": least, "longest": least + more}
    assert stopped_at(SpecDecPlus(eta=0.0, **bounds), known) == min(least, len(known))
    assert stopped_at(SpecDecPlus(eta=1.0, **bounds), known) == min(least + more, len(known))


@given(chances, st.floats(0, 1), st.floats(0, 1))
def test_length_is_nonincreasing_in_the_threshold(
    known: list[float], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    sizes = [stopped_at(ConfidenceStop(threshold=t), known) for t in (low, high)]
    assert sizes[0] >= sizes[1]


def test_the_rule_of_the_paper() -> None:
    """Stop when 1 - prod > eta: 1 - .9 * .8 * .7 = .496."""
    known = [0.9, 0.8, 0.7, 0.9]
    assert stopped_at(SpecDecPlus(eta=0.49), known) == 3
    assert stopped_at(SpecDecPlus(eta=0.50), known) == 4
    assert stopped_at(ConfidenceStop(threshold=0.75), known) == 3


STOPS: dict[str, DraftPolicy] = {
    "confidence": ConfidenceStop(threshold=0.5, longest=8),
    "specdec": SpecDecPlus(eta=0.6, longest=8),
    "least": SpecDecPlus(eta=0.0, longest=8),
}
DRAFTERS = {
    "chain": DRAFT,
    "eagle2": TreeDrafter(model=FAMILY.draft, growth=Eagle2(width=3)),
    "dyspec": TreeDrafter(model=FAMILY.draft, growth=DySpec()),
    "nest": Qualified(
        drafter=DRAFT, qualifier=FAMILY.qualifier, policy=ConfidenceStop(threshold=0.5, longest=4)
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("stop", "drafter", "sampling"),
    matrix(STOPS, DRAFTERS, ["greedy", "t0.7", "top_p", "penalties"]),
)
def test_a_stop_changes_no_text(stop: str, drafter: str, sampling: str) -> None:
    options = SAMPLINGS[sampling]
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, end_ids=(0,), **options)
    whole = stage(FAMILY.target, DRAFTERS[drafter], policy=STOPS[stop])
    assert outputs(run(whole, PROMPTS, end_ids=(0,), **options)) == outputs(plain)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_drafts_really_get_shorter(temperature: float) -> None:
    def drafted(policy: DraftPolicy) -> float:
        options = {"temperature": temperature, "max_new_tokens": 150}
        [g] = run(stage(FAMILY.target, DRAFT, policy=policy), [(1, 2)], **options)
        return g.counters.drafted / g.counters.rounds

    sizes = [drafted(SpecDecPlus(eta=eta, longest=8)) for eta in (0.0, 0.3, 0.6, 0.9, 1.0)]
    assert sizes == sorted(sizes) and sizes[0] < 2.2 and sizes[-1] > 7.5
    assert len(set(sizes)) >= 3
    assert drafted(FixedLength(8)) == sizes[-1]
    assert drafted(ConfidenceStop(threshold=0.0, longest=8)) == sizes[-1]
    assert drafted(ConfidenceStop(threshold=1.0, longest=8)) == pytest.approx(1.0, abs=0.05)


class Seen(TabularModel):
    """Shows, as hidden state, the token that each row has read."""

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        out = []
        for rows, segment, wanted in zip(
            super().forward(segments, want), segments, want, strict=True
        ):
            read = [segment.cache.ending_at(int(row), 1)[0] for row in wanted]
            out.append(Rows(rows.logits, torch.tensor(read, dtype=torch.float64)[:, None]))
        return out


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("growth", [None, DySpec()])
def test_a_head_reads_each_token_and_decides_one_later(growth: DySpec | None) -> None:
    """The head distrusts token 3: one more token is drafted after it, and none after that."""
    model = Seen(FAMILY.draft.table)  # pyright: ignore[reportAttributeAccessIssue]
    policy = SpecDecPlus(
        eta=0.5, least=1, longest=6, head=lambda hidden: 0.1 if float(hidden[0]) == 3 else 1.0
    )
    drafter = ModelDrafter(model=model) if growth is None else None
    drafter = drafter or TreeDrafter(model=model, growth=growth or DySpec())
    drafts = []

    class Watching(type(drafter)):
        def propose(self, *args):
            made = super().propose(*args)
            drafts.extend(made)
            return made

    watching = Watching(**{name: getattr(drafter, name) for name in drafter.__slots__})
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, temperature=0.9)
    drafted = run(stage(FAMILY.target, watching, policy=policy), PROMPTS, temperature=0.9)
    assert outputs(drafted) == outputs(plain)
    seen = 0
    for draft in drafts:
        for node in range(len(draft)):
            parent = int(draft.parents[node])
            before = int(draft.parents[parent]) if parent >= 0 else -1
            assert before < 0 or draft.tokens[before] != 3
            seen += parent >= 0 and draft.tokens[parent] == 3
    assert seen > 3 or growth is not None


def test_a_head_without_hidden_states_is_an_error() -> None:
    policy = SpecDecPlus(head=lambda hidden: 1.0)
    with pytest.raises(OptionError, match="hidden states"):
        run(stage(FAMILY.target, DRAFT, policy=policy), PROMPTS)


@pytest.mark.parametrize(
    ("policy", "wrong"),
    [
        (ConfidenceStop, {"threshold": 1.2}),
        (ConfidenceStop, {"longest": 0}),
        (SpecDecPlus, {"eta": -0.1}),
        (SpecDecPlus, {"eta": math.nan}),
        (SpecDecPlus, {"least": 0}),
        (SpecDecPlus, {"longest": 1}),
    ],
)
def test_wrong_numbers_are_refused(policy: type, wrong: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        policy(**wrong)
