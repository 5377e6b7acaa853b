"""What `Fuzzy` keeps, and how many changes it may make."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from outrider.acceptance import DIVERGENCES, Fuzzy, Match, divergence
from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.types import Draft, Draw, Exactness
from outrider.protocols import Needs
from tests.acceptance.hand import Seedling, chain, random_logits, seedlings, tree, view

pytestmark = pytest.mark.method("fuzzy")

TEMPERATURES = st.sampled_from([0.0, 0.8])
VOCAB = 5


def trace(seed: int, length: int = 6) -> tuple[Draft, Tensor]:
    """A chain whose references lie at all distances from the verifier's rows."""
    rows = random_logits(length + 1, VOCAB, seed)
    noise = random_logits(length, VOCAB, seed + 1000, scale=1.0)
    reference = [
        row + i * shift / 3 for i, (row, shift) in enumerate(zip(rows[:-1], noise, strict=True))
    ]
    tokens = [int((row + shift).argmax()) for row, shift in zip(rows[:-1], 3 * noise, strict=True)]
    return chain(tokens, reference=reference), rows


@given(
    seedling=seedlings(),
    seed=st.integers(0, 999),
    temperature=TEMPERATURES,
    with_probs=st.booleans(),
    name=st.sampled_from(["js", "topk_kl_dv"]),
)
def test_a_negative_threshold_is_match(
    seedling: Seedling, seed: int, temperature: float, with_probs: bool, name: str
) -> None:
    draft = seedling.grow()
    logits = random_logits(len(draft) + 1, 3, seed)
    rule = Fuzzy(name, -1e-9, with_probs=with_probs)
    seen, again = (
        view(draft, logits, temperature=temperature, seed=seed, end_ids=(2,)) for _ in range(2)
    )
    ours, theirs = rule(draft, seen), Match(with_probs=with_probs)(draft, again)
    assert (ours.path, ours.emitted, ours.changed) == (theirs.path, theirs.emitted, theirs.changed)
    assert [x.tolist() for x in ours.distributions if x is not None] == [
        x.tolist() for x in theirs.distributions if x is not None
    ]


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_an_infinite_threshold_keeps_every_chain(name: str, temperature: float) -> None:
    draft, rows = trace(1)
    seen = view(draft, rows, temperature=temperature)
    verdict = Fuzzy(name, math.inf)(draft, seen)
    assert verdict.path == tuple(range(6)) and len(verdict.emitted) == 7
    expected = [int(draft.tokens[i]) != seen.choose(i - 1) for i in range(6)]
    assert verdict.changed == (*expected, False) and any(expected)


def test_disjoint_distributions_pass_at_the_maximum() -> None:
    rows = torch.tensor([[0.0, -math.inf], [0.0, 0.0]])
    draft = chain([1], reference=[rows[0].flip(0)])
    for name in ("js", "tv", "kl_dv", "logp_abs"):
        assert Fuzzy(name, divergence(name).maximum)(draft, view(draft, rows)).path == (0,)
        below = min(divergence(name).maximum * 0.99, 1e30)
        assert Fuzzy(name, below)(draft, view(draft, rows)).path == ()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("with_probs", [False, True])
def test_a_larger_threshold_keeps_no_less(temperature: float, with_probs: bool) -> None:
    lengths = set()
    for seed in range(8):
        draft, rows = trace(seed)
        paths = [
            Fuzzy("js", t, with_probs=with_probs)(draft, view(draft, rows, temperature=temperature))
            for t in (-1.0, 0.0, 0.001, 0.01, 0.05, 0.2, 0.6, 1.0)
        ]
        kept = [len(v.path) for v in paths]
        assert kept == sorted(kept)
        lengths.update(kept)
    assert len(lengths) > 4


@given(seedling=seedlings(), seed=st.integers(0, 999), temperature=TEMPERATURES)
def test_a_larger_threshold_extends_the_path_in_trees(
    seedling: Seedling, seed: int, temperature: float
) -> None:
    draft = seedling.grow()
    rows = random_logits(len(draft) + 1, 3, seed)
    shorter: tuple[int, ...] = ()
    for threshold in (-1.0, 0.05, 0.3, 1.0):
        path = Fuzzy("js", threshold)(draft, view(draft, rows, temperature=temperature)).path
        assert path[: len(shorter)] == shorter
        shorter = path


def kept(rule: Fuzzy, token: int, reference: Tensor, rows: Tensor, temperature: float) -> bool:
    draft = chain([token], reference=[reference], probs=[torch.full((VOCAB,), 0.2).double()])
    return bool(rule(draft, view(draft, rows, temperature=temperature)).path)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_decision_reads_distributions_alone(temperature: float) -> None:
    by_token = 0
    for seed in range(3):
        rows = random_logits(2, VOCAB, seed)
        reference = rows[0] + random_logits(1, VOCAB, seed + 50, scale=0.7)[0]
        choice = view(chain([]), rows, temperature=temperature).choose(-1)
        others = [t for t in range(VOCAB) if t != choice]
        for name in DIVERGENCES:
            measure = divergence(name)
            at = sorted(measure(reference, rows[0], t) for t in others)
            rule = Fuzzy(name, (at[0] + at[-1]) / 2)
            decisions = {kept(rule, t, reference, rows, temperature) for t in others}
            if measure.reads_token:
                by_token += len(decisions) == 2
            else:
                assert len(decisions) == 1
                distributions = Fuzzy(name, rule.threshold, with_probs=True)
                for t in others:
                    assert {kept(distributions, t, reference, rows, temperature)} == decisions
    assert by_token == 3


def test_prefers_the_choice_and_falls_back_to_the_first_child() -> None:
    rows = torch.eye(4).double()[[2, 0, 0, 0]]
    near = [rows[0]] * 3
    matching = tree([0, 2, 1], [-1, -1, -1], reference=near)
    assert Fuzzy("js", 1.0)(matching, view(matching, rows[[0, 0, 0, 0]])).path == (1,)
    missing = tree([3, 1, 0], [-1, -1, -1], reference=near)
    verdict = Fuzzy("js", 1.0)(missing, view(missing, rows))
    assert verdict.path == (0,) and verdict.changed == (True, False)
    assert verdict.sources == ("draft", "target")


def test_with_distributions_siblings_are_passed_over_where_rows_are_close() -> None:
    rows = torch.eye(4).double()[[2, 0, 0]]
    distributions = [torch.full((4,), 0.25).double()] * 2
    draft = tree([0, 2], [-1, -1], reference=[rows[0]] * 2, probs=distributions)
    verdict = Fuzzy("js", 1.0, with_probs=True)(draft, view(draft, rows))
    assert verdict.path == (0,) and verdict.changed[0]
    assert verdict.distributions[0] is distributions[0]
    far = Fuzzy("js", 0.01, with_probs=True)
    apart = tree([0, 2], [-1, -1], reference=[rows[1] * 9] * 2, probs=distributions)
    verdict = far(apart, view(apart, rows))
    assert verdict.path == (1,) and not any(verdict.changed)
    assert verdict.distributions[0] is not None and verdict.distributions[0].tolist() == [
        0,
        0,
        1,
        0,
    ]


def test_a_deterministic_draft_kept_by_divergence_has_a_point_mass_for_distribution() -> None:
    rows = random_logits(2, 4, 0)
    for distributions in ([None], None):
        draft = chain([3], reference=[rows[0]], probs=distributions, draw=Draw.DETERMINISTIC)
        verdict = Fuzzy("js", 0.1, with_probs=True)(draft, view(draft, rows, temperature=1.0))
        assert verdict.path == (0,)
        assert verdict.distributions[0] is not None and verdict.distributions[0].tolist() == [
            0,
            0,
            0,
            1,
        ]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_broken_reference_vouches_for_nothing(bad: float, name: str) -> None:
    rows = torch.tensor([[0.0, 1.0, 0.0]] * 2)
    broken = torch.tensor([bad, 1.0, 0.0])
    for reference in (broken, None, torch.full((3,), -math.inf)):
        draft = chain([0], reference=[reference])
        assert Fuzzy(name, 1e9)(draft, view(draft, rows)).emitted == (1,)
    draft = chain([0])
    assert Fuzzy(name, math.inf)(draft, view(draft, rows)).emitted == (1,)


def test_nothing_follows_an_end_token() -> None:
    draft, rows = trace(3)
    end = int(draft.tokens[2])
    first = [int(t) for t in draft.tokens].index(end)
    verdict = Fuzzy("js", math.inf)(draft, view(draft, rows, end_ids=(end,)))
    assert verdict.next_token is None
    assert verdict.emitted == tuple(draft.tokens[: first + 1])


def test_other_widths_and_dtypes_are_compared() -> None:
    rows = random_logits(2, 6, 0).float()
    draft = chain([1], reference=[rows[0, :5].bfloat16()])
    assert Fuzzy("tv", 1.0)(draft, view(draft, rows)).path == (0,)


@given(
    budget=st.one_of(st.sampled_from([0.0, 0.02, 0.1, 0.29, 0.5, 1.0]), st.floats(0, 1)),
    rounds=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    temperature=TEMPERATURES,
    seed=st.integers(0, 99),
)
def test_the_budget_is_used_and_never_exceeded(
    budget: float, rounds: list[int], temperature: float, seed: int
) -> None:
    """As many changes as the definition allows, at every token of every round."""
    ledger, emitted, changed = Counters(), 0, 0
    rule = Fuzzy("js", math.inf, max_changed=budget)
    for number, length in enumerate(rounds):
        rows = random_logits(length + 1, VOCAB, seed + number)
        draft, _ = trace(seed + 7 * number, length)
        seen = view(draft, rows, temperature=temperature, ledger=ledger, generated=[0] * emitted)
        verdict = rule(draft, seen)
        for i, flag in enumerate(verdict.changed):
            drafted = int(draft.tokens[i]) if i < length else None
            differs = drafted is not None and drafted != seen.choose(i - 1)
            allowed = changed + 1 <= math.floor(budget * (emitted + 1))
            assert flag == (differs and allowed)
            emitted, changed = emitted + 1, changed + flag
            assert changed <= math.floor(budget * emitted)
        ledger.accepted += len(verdict.tokens)
        ledger.next_tokens += verdict.next_token is not None
        ledger.changed += sum(verdict.changed)
    assert (ledger.tokens, ledger.changed) == (emitted, changed)


def test_a_cut_token_frees_no_budget_twice() -> None:
    """The ledger counts what was kept: tokens cut by a limit are not tokens."""
    rows = torch.eye(3).double()[[1, 1]]
    draft = chain([0], reference=[rows[0]])
    rule = Fuzzy("js", 1.0, max_changed=0.5)
    full = Counters(accepted=3, next_tokens=1, changed=2)
    assert rule(draft, view(draft, rows, ledger=full)).emitted == (1,)
    cut = Counters(accepted=3, next_tokens=1, cut=1, changed=1)
    assert rule(draft, view(draft, rows, ledger=cut)).emitted == (0, 1)


def test_what_it_promises() -> None:
    rule = Fuzzy("js", 0.3)
    assert rule.exactness is Exactness.LOSSY and rule.tracks_probs
    assert rule.needs == Needs(reference=True) and rule.draws == frozenset(Draw)
    tracked = Fuzzy(divergence("js"), 0.3, with_probs=True)
    assert tracked.needs == Needs(probs=True, reference=True)
    assert tracked.draws == {Draw.DETERMINISTIC, Draw.IID}
    assert not Fuzzy("logp_abs", 0.3).tracks_probs
    assert not Fuzzy("js", 0.3, max_changed=0.02).tracks_probs
    assert Fuzzy("js", 0.3) == Fuzzy(divergence("js"), 0.3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"divergence": "jss"}, "unknown divergence 'jss'.*'js'"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"max_changed": 1.01}, "max_changed is 1.01.*at most 1"),
        ({"max_changed": -0.1}, "max_changed is -0.1"),
        ({"max_changed": math.nan}, "max_changed is nan"),
        ({"divergence": "logp_abs", "with_probs": True}, "logp_abs.*the drafted token"),
        ({"max_changed": 0.1, "with_probs": True}, "max_changed 0.1 depends on past changes"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options: dict, words: str) -> None:
    with pytest.raises(OptionError, match=words) as caught:
        Fuzzy(**{"divergence": "js", "threshold": 0.3, **options})
    assert "\n" not in str(caught.value)
