"""Momentum decoding."""

import math
import random
from collections.abc import Sequence

import pytest
import torch

from outrider.core.errors import OptionError
from outrider.models.tabular import TabularModel
from outrider.search import Limits
from outrider.search.steps.momentum import RESISTANCES, Momentum, Resistance
from outrider.search.steps.repeats import Repeats
from outrider.testing.rigs import tabular_family
from outrider.testing.searches import END, searched

pytestmark = pytest.mark.method("momentum")

MODEL = tabular_family(seed=1).target
PROMPT = (1, 2, 3, 1, 2)


def run_length(text: Sequence[int], token: int, most: int) -> int:
    """The definition, by trying all lengths at all places."""
    found = 0
    for length in range(1, most + 1):
        if length - 1 > len(text):
            break
        run = (*text[len(text) - length + 1 :], token)
        places = range(len(text) - length + 1)
        if any(tuple(text[i : i + length]) == run for i in places):
            found = length
    return found


def directly(model: TabularModel, prompt: Sequence[int], search: Momentum, count: int) -> list[int]:
    """The text by the formula of the paper, one token at a time."""
    text: list[int] = list(prompt)
    costs = (0.0, *search.costs)
    while len(text) - len(prompt) < count and text[-1] != END:
        probs = torch.softmax(model.logits_after(text), -1)
        best = probs.argsort(descending=True, stable=True)[: search.top_k].tolist()
        kept = {v: float(probs[v]) - costs[run_length(text, v, len(costs) - 1)] for v in best}
        if max(kept.values()) == -math.inf:
            unseen = [v for v in range(len(probs)) if v not in text]
            kept = {v: float(probs[v]) for v in unseen or best}
        text.append(max(kept, key=lambda v: kept[v]))
    return text[len(prompt) :]


def greedy(model: TabularModel, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy decoding."""
    text = list(prompt)
    while len(text) - len(prompt) < count and text[-1] != END:
        text.append(int(model.logits_after(text).argmax()))
    return text[len(prompt) :]


def looping(period: int, vocab: int = 12, best: float = 6.0) -> TabularModel:
    """A model whose greedy text repeats the tokens 1 to `period` for ever."""
    table = TabularModel.random(vocab_size=vocab, order=1, seed=4, scale=0.5).table
    for token in range(vocab):
        table[token, token % period + 1 if 0 < token <= period else 1] = best
        table[token, END] = -20.0
    return TabularModel(table)


@pytest.mark.parametrize("drafted", [False, True])
def test_alpha_zero_is_greedy_decoding(drafted: bool) -> None:
    for seed in range(3):
        model = tabular_family(seed=seed).target
        assert isinstance(model, TabularModel)
        for resistance in RESISTANCES:
            search = Momentum(alpha=0.0, resistance=resistance)
            found = searched(search, model, PROMPT, max_new_tokens=30, drafted=drafted)
            assert list(found.best.token_ids) == greedy(model, PROMPT, 30)


def test_a_text_without_repeats_is_greedy_decoding() -> None:
    table = torch.zeros(12, 12, dtype=torch.float64)
    for token in range(11):
        table[token, token + 1] = 5.0
    found = searched(Momentum(alpha=5.0), TabularModel(table), (2,), max_new_tokens=9)
    assert list(found.best.token_ids) == list(range(3, 12))


@pytest.mark.parametrize("blocked", [1, 2, 3])
def test_no_longer_run_occurs_twice_where_the_resistance_is_infinite_past_it(blocked: int) -> None:
    table = (0,) * blocked + (-1,)
    for seed in range(4):
        model = TabularModel.random(vocab_size=26, seed=seed, scale=4.0)
        search = Momentum(table=table, top_k=26)
        found = searched(search, model, (1, 2, 3), max_new_tokens=30, ignore_eos=True)
        text = (1, 2, 3, *found.best.token_ids)
        assert len(text) == 33
        runs = [text[i : i + blocked + 1] for i in range(len(text) - blocked)]
        assert len(set(runs)) == len(runs)
    free = searched(Momentum(alpha=0.0), looping(3), (1, 2, 3), max_new_tokens=30)
    assert len(set(free.best.token_ids)) == 3  # what the resistance prevents


@pytest.mark.parametrize("resistance", ["linear", "blocking", "exponential", "constant"])
@pytest.mark.parametrize("period", [1, 2, 5])
def test_a_loop_is_left_in_finite_steps(period: int, resistance: str) -> None:
    model = looping(period)
    search = Momentum(alpha=1.0, resistance=resistance)
    found = searched(search, model, (1,), max_new_tokens=3 * period + 8)
    assert max(found.best.token_ids) > period
    assert max(greedy(model, (1,), 3 * period + 8)) == period


def test_the_length_of_a_repeated_run_is_that_of_a_search_in_the_text() -> None:
    rng = random.Random(3)
    for most in (1, 3, 5):
        repeats, text = Repeats(most), list[int]()
        for _ in range(120):
            cut = rng.choice((0, 0, 0, 1, 3, 9))
            text = text[: max(len(text) - cut, 0)] + [rng.randrange(3) for _ in range(3)]
            repeats.follow(text)
            assert repeats.tokens == sorted(set(text))
            for token in range(4):
                assert repeats.longest(token) == run_length(text, token, most)


def test_a_text_that_is_cut_and_changed_is_that_of_a_new_start() -> None:
    repeats = Repeats(4)
    for text in ([1, 2, 1, 2, 1], [1, 2, 1], [1, 2, 2, 1, 2], [], [1, 2, 1, 2, 1]):
        repeats.follow(text)
        fresh = Repeats(4)
        fresh.follow(text)
        assert repeats._runs == fresh._runs


@pytest.mark.parametrize("drafted", [False, True])
@pytest.mark.parametrize("resistance", list(RESISTANCES))
def test_the_text_is_that_of_the_formula(resistance: str, drafted: bool) -> None:
    for seed in range(4):
        model = TabularModel.random(vocab_size=7, seed=seed)
        for alpha, top_k in ((0.05, 5), (0.2, 3), (1.0, 5)):
            search = Momentum(alpha=alpha, top_k=top_k, resistance=resistance)
            found = searched(search, model, PROMPT, max_new_tokens=24, drafted=drafted)
            assert list(found.best.token_ids) == directly(model, PROMPT, search, 24)


def test_tables_and_names() -> None:
    assert Momentum(alpha=0.5, table=(0, 3, -1)).costs == (0.0, 1.5, math.inf)
    assert Momentum(alpha=0.5).costs == (0.5, 1.0, 1.5, 2.0, 2.5)
    assert Momentum(alpha=1.0, resistance="blocking").costs == (0.0, 0.0, 0.0, 5.0, math.inf)
    assert Momentum(alpha=0.0, resistance="blocking").costs == (0.0,) * 5
    for costs in RESISTANCES.values():
        assert len(costs) == 5 and list(costs) == sorted(costs)


def test_longer_runs_cost_what_the_last_of_the_table_does() -> None:
    resistance = Resistance(costs=(0.1, 0.4), top_k=3)
    row = torch.log(torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64))
    [kept] = resistance(torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1]]), row)
    assert kept.tolist() == pytest.approx([0.4, 0.2, -0.2])  # runs of 1, 1 and 3 tokens


def test_where_all_are_blocked_the_most_probable_new_token_follows() -> None:
    blocked = Resistance(costs=(math.inf,), top_k=2)
    row = torch.tensor([[0.0, 3.0, 2.0, 1.0]])
    text = torch.tensor([[1, 2, 1]])
    assert int(blocked(text, row).argmax()) == 3
    everything = torch.tensor([[1, 2, 0, 3]])
    assert int(blocked(everything, row).argmax()) == 1
    banned = row.masked_fill(torch.tensor([[False, False, False, True]]), -torch.inf)
    assert int(blocked(text, banned).argmax()) == 0


def test_banned_tokens_stay_banned() -> None:
    found = searched(
        Momentum(alpha=2.0, top_k=7), MODEL, PROMPT, max_new_tokens=25, banned_tokens=(0, 3)
    )
    assert not {0, 3} & set(found.best.token_ids) and len(found.best.token_ids) == 25


def test_the_score_is_the_mean_log_probability_of_the_model() -> None:
    found = searched(Momentum(), MODEL, PROMPT, temperature=1.7).best
    own = [
        float(MODEL.logits_after((*PROMPT, *found.token_ids[:i])).log_softmax(-1)[token])  # type: ignore[attr-defined]
        for i, token in enumerate(found.token_ids)
    ]
    assert found.logprob == pytest.approx(sum(own))
    assert found.score == pytest.approx(sum(own) / len(own))


def test_drafts_save_forwards() -> None:
    plain = searched(Momentum(alpha=0.0), looping(3), (1, 2, 3) * 3, max_new_tokens=24)
    drafted = searched(
        Momentum(alpha=0.0), looping(3), (1, 2, 3) * 3, max_new_tokens=24, drafted=True
    )
    assert drafted.best.token_ids == plain.best.token_ids
    assert drafted.forwards < plain.forwards == 24


def test_a_limit_keeps_the_beginning_of_the_text() -> None:
    whole = searched(Momentum(), looping(4), PROMPT, max_new_tokens=20).best
    cut = searched(Momentum(), looping(4), PROMPT, max_new_tokens=20, limits=Limits(tokens=8))
    assert "limit of 8" in cut.stopped and cut.best.finish_reason == "unfinished"
    assert cut.best.token_ids == whole.token_ids[:8]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"alpha": math.inf}, "alpha is inf"),
        ({"top_k": 0}, "top_k is 0"),
        ({"resistance": "liner"}, "resistance is 'liner'. Did you mean 'linear'?"),
        ({"table": ()}, "table is ()"),
        ({"table": (0, -2)}, "table is (0, -2)"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], problem: str) -> None:
    with pytest.raises(OptionError) as error:
        Momentum(**options)  # type: ignore[arg-type]
    assert problem in str(error.value)
