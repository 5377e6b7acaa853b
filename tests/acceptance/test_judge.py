"""Judge Decoding: the probe or the choice accepts; what the paper claims, and the guards."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from outrider.acceptance import Judge, Match, Probe
from outrider.core.counters import Counters
from outrider.core.errors import CheckpointError, OptionError, StrategyError
from outrider.core.types import Draft, Draw, Exactness, Verdict
from outrider.drafters import ModelDrafter, Qualified
from outrider.models.tabular import TabularModel
from outrider.strategy import Strategy
from tests.acceptance.hand import Seedling, chain, random_logits, seedlings, tree, view

pytestmark = pytest.mark.method("judge")

WIDTH = 3
PROBE = Probe(weight=torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64), bias=0.3)
THRESHOLDS = st.sampled_from([0.0, 1e-9, 0.2, 0.5, 0.8, 1.0 - 1e-9, 1.0])


def states(rows: int, seed: int) -> Tensor:
    return random_logits(rows, WIDTH, seed + 1000).float()


def verdict(rule: Judge | Match, draft: Draft, seed: int = 0, **options) -> Verdict:
    rows = len(draft) + 1
    logits = random_logits(rows, options.pop("vocab", 3), seed)
    return rule(draft, view(draft, logits, hidden=states(rows, seed), **options))


def odds_of(row: Tensor) -> float:
    return float(row.double() @ PROBE.weight) + PROBE.bias


def test_a_token_passes_if_the_probe_or_the_standard_rule_accepts_it() -> None:
    """acc_i = z_i OR standard_i, and the longest prefix of accepted tokens is kept."""
    kept, refused = 0, 0
    for seed in range(60):
        draft = chain([0, 1, 2, 0])
        logits, hidden = random_logits(5, 3, seed), states(5, seed)
        seen = view(draft, logits, hidden=hidden)
        expected = 0
        for node in range(4):
            passes = 1.0 / (1.0 + math.exp(-odds_of(hidden[node + 1]))) > 0.5
            if not (passes or seen.choose(node - 1) == draft.tokens[node]):
                break
            expected += 1
        found = Judge(probe=PROBE, threshold=0.5)(draft, seen)
        assert found.path == tuple(range(expected))
        assert found.next_token == seen.choose(expected - 1)
        kept, refused = kept + expected, refused + 4 - expected
    assert min(kept, refused) > 20


def test_the_probe_reads_the_state_of_the_row_that_has_read_the_token() -> None:
    draft = chain([1])
    logits = torch.tensor([[9.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    good, bad = torch.tensor([5.0, 0.0, 0.0]), torch.tensor([-5.0, 0.0, 0.0])
    rule = Judge(probe=PROBE, threshold=0.5)
    assert rule(draft, view(draft, logits, hidden=torch.stack((bad, good)))).path == (0,)
    assert rule(draft, view(draft, logits, hidden=torch.stack((good, bad)))).path == ()


@given(seedlings(), st.sampled_from([0.0, 0.9]), THRESHOLDS, st.integers(0, 20))
def test_judge_accepts_at_least_what_the_standard_rule_does(
    seedling: Seedling, temperature: float, threshold: float, sample: int
) -> None:
    """Accepted length >= that of the standard rule, for the same draft and random numbers."""
    draft, options = seedling.grow(), {"temperature": temperature, "sample": sample}
    judged = verdict(Judge(probe=PROBE, threshold=threshold), draft, seedling.seed, **options)
    assert len(judged.path) >= len(verdict(Match(), draft, seedling.seed, **options).path)


@given(seedlings(), st.sampled_from([0.0, 0.9]), THRESHOLDS, THRESHOLDS)
def test_judge_accepted_length_is_monotone_in_the_threshold(
    seedling: Seedling, temperature: float, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    draft = seedling.grow()
    loose, strict = (
        verdict(Judge(probe=PROBE, threshold=t), draft, seedling.seed, temperature=temperature)
        for t in (low, high)
    )
    assert len(loose.path) >= len(strict.path)


@given(seedlings(), st.sampled_from([0.0, 0.9]))
def test_judge_threshold_1_is_the_standard_rule(seedling: Seedling, temperature: float) -> None:
    """Also for a probe that is certain: its chance rounds to 1."""
    certain = Probe(weight=torch.zeros(WIDTH, dtype=torch.float64), bias=900.0)
    draft = seedling.grow()
    judged = verdict(
        Judge(probe=certain, threshold=1.0), draft, seedling.seed, temperature=temperature
    )
    plain = verdict(Match(), draft, seedling.seed, temperature=temperature)
    assert judged.emitted == plain.emitted and not any(judged.changed)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.integers(0, 99))
def test_judge_threshold_0_accepts_all(tokens: list[int], seed: int) -> None:
    """Also for a probe that is certain of the opposite: its chance rounds to 0."""
    never = Probe(weight=torch.zeros(WIDTH, dtype=torch.float64), bias=-900.0)
    assert len(verdict(Judge(probe=never, threshold=0.0), chain(tokens), seed).path) == len(tokens)


def test_a_chance_equal_to_the_threshold_does_not_pass() -> None:
    even = Probe(weight=torch.zeros(WIDTH, dtype=torch.float64), bias=0.0)
    draft, logits = chain([1]), torch.tensor([[9.0, 0.0]] * 2, dtype=torch.float64)
    for threshold, kept in ((0.5, ()), (0.499, (0,))):
        seen = view(draft, logits, hidden=states(2, 0))
        assert Judge(probe=even, threshold=threshold)(draft, seen).path == kept


@given(seedlings(), st.integers(0, 20), st.sampled_from([0.0, 0.9]))
def test_judge_rejects_end_and_special_tokens_unless_the_standard_rule_accepts(
    seedling: Seedling, sample: int, temperature: float
) -> None:
    probe = Probe(weight=PROBE.weight, bias=99.0, special_ids=frozenset({1}))
    draft = seedling.grow()
    logits, hidden = random_logits(len(draft) + 1, 3, 5), states(len(draft) + 1, 5)
    options = {"temperature": temperature, "sample": sample, "end_ids": (2,)}
    seen = view(draft, logits, hidden=hidden, **options)
    found = Judge(probe=probe, threshold=0.5)(draft, seen)
    for before, node in zip((-1, *found.path), found.path, strict=False):
        token = int(draft.tokens[node])
        assert token == 0 or token == seen.choose(before)


def test_a_banned_token_never_passes() -> None:
    sure = Probe(weight=PROBE.weight, bias=99.0)
    rule = Judge(probe=sure, threshold=0.5)
    assert verdict(rule, chain([2, 1])).path == (0, 1)
    bans: tuple[dict[str, Any], ...] = (
        {"banned_tokens": (1,)},
        {"banned_tokens": (1,), "repetition_penalty": 1.2},
    )
    for options in bans:
        assert verdict(rule, chain([2, 1]), **options).path == (0,)
    assert verdict(rule, chain([7])).path == ()


def test_rows_of_nan_pass_nothing() -> None:
    draft = chain([1, 1])
    logits = torch.tensor([[9.0, 0.0]] * 3, dtype=torch.float64)
    seen = view(draft, logits, hidden=torch.full((3, WIDTH), math.nan))
    for threshold in (0.0, 0.5, 1.0):
        assert Judge(probe=PROBE, threshold=threshold)(draft, seen).path == ()


def test_a_change_is_counted_and_the_choice_never_is() -> None:
    changed = 0
    for seed in range(40):
        draft = chain([0, 1, 0])
        seen = view(draft, random_logits(4, 4, seed), hidden=states(4, seed), temperature=1.0)
        found = Judge(probe=PROBE, threshold=0.5)(draft, seen)
        choices = [seen.choose(node) for node in (-1, *found.path)]
        wanted = [a != b for a, b in zip(found.emitted, choices, strict=True)]
        assert list(found.changed) == wanted and not found.changed[-1]
        changed += sum(wanted)
    assert changed > 10


@given(st.integers(0, 60), st.sampled_from([0.0, 0.1, 0.34, 1.0]))
def test_the_budget_holds_at_every_token(seed: int, share: float) -> None:
    """I8."""
    ledger = Counters(accepted=3, next_tokens=2, changed=0)
    rule = Judge(probe=PROBE, threshold=0.0, max_changed=share)
    found = verdict(rule, chain([0, 1, 2, 0, 1]), seed, ledger=ledger)
    for n in range(len(found.changed)):
        assert sum(found.changed[: n + 1]) <= math.floor(share * (5 + n + 1))
    assert len(found.path) == 5 or share < 1.0


def test_takes_the_longest_path_then_the_one_that_the_probe_finds_likeliest() -> None:
    draft = tree([0, 1, 2], [-1, -1, 0])
    assert verdict(Judge(probe=PROBE, threshold=0.0), draft).path == (0, 2)
    level = tree([1, 2], [-1, -1])
    hidden = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    logits = torch.tensor([[9.0, 0, 0]] * 3, dtype=torch.float64)
    rule = Judge(probe=PROBE, threshold=0.5)
    assert rule(level, view(level, logits, hidden=hidden)).path == (1,)
    assert rule(level, view(level, logits, hidden=hidden[[0, 2, 1]])).path == (0,)


def write(folder: Path, tensors: dict[str, Tensor] | None = None, **facts) -> Path:
    """The files of a probe, with some facts replaced."""
    folder.mkdir(exist_ok=True)
    default = {"weight": torch.tensor([2.0, -1.0, 0.5]), "bias": torch.tensor([0.3])}
    save_file(default if tensors is None else tensors, folder / "judge.safetensors")
    known = {
        "format": "outrider-judge-1",
        "threshold": 0.8,
        "special_ids": [1],
        "vocab_size": 4,
    }
    (folder / "judge.json").write_text(json.dumps(known | facts), encoding="utf-8")
    return folder


def test_a_probe_from_files(tmp_path: Path) -> None:
    rule = Judge(probe=str(write(tmp_path / "probe")))
    assert rule.trained.special_ids == {1} and rule.trained.threshold == 0.8
    assert rule.trained.odds(states(4, 1)) == pytest.approx([odds_of(s) for s in states(4, 1)])
    assert rule.least_odds == pytest.approx(math.log(4.0))
    assert Judge(probe=rule.trained, threshold=0.5).least_odds == 0.0
    assert str(tmp_path / "probe") in str(rule.trained)


DAMAGED: dict[str, dict] = {
    "format": {"format": "other"},
    "threshold": {"threshold": 1.5},
    "no number": {"threshold": "high"},
    "ids": {"special_ids": [-1]},
    "no weight": {"tensors": {"bias": torch.zeros(1)}},
    "shape": {"tensors": {"weight": torch.zeros(2, 3), "bias": torch.zeros(1)}},
    "nan": {"tensors": {"weight": torch.full((3,), math.nan), "bias": torch.zeros(1)}},
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "probe", **DAMAGED[case])
    with pytest.raises(CheckpointError, match="outrider train judge") as refusal:
        Judge(probe=folder)
    assert "\n" not in str(refusal.value) and str(folder) in str(refusal.value)


def test_files_that_are_no_probe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no judge\.json"):
        Judge(probe=tmp_path)
    folder = write(tmp_path / "probe")
    for text in (b"", b"[" * 200_000, b"[1]"):
        (folder / "judge.json").write_bytes(text)
        with pytest.raises(CheckpointError, match="cannot be used"):
            Judge(probe=folder)
    folder = write(tmp_path / "probe")
    (folder / "judge.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be used"):
        Judge(probe=folder)


@pytest.mark.parametrize("wrong", [{"threshold": 1.1}, {"threshold": math.nan}, {"max_changed": 2}])
def test_wrong_numbers_are_refused(wrong: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        Judge(probe=PROBE, **wrong)


def test_what_it_promises_and_where_it_fits() -> None:
    rule = Judge(probe=PROBE, threshold=1.0)
    assert rule.exactness is Exactness.LOSSY and rule.draws == frozenset(Draw)
    assert not rule.tracks_probs
    model = TabularModel.random()
    drafter = ModelDrafter(model=model)
    with pytest.raises(StrategyError, match="does not return them"):
        Strategy(target=model, drafter=drafter, rule=rule)
    nest = Qualified(drafter=drafter, qualifier=model, rule=rule)
    with pytest.raises(StrategyError, match="does not return them"):
        Strategy(target=model, drafter=nest)
    with pytest.raises(StrategyError, match="does not return them"):
        draft = chain([1])
        rule(draft, view(draft, random_logits(2, 3, 0)))
