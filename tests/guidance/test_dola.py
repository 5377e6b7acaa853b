"""DoLa: the early layer that differs most is subtracted from the last one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from outrider.core.errors import OptionError, StrategyError
from outrider.core.types import Prompt, as_ids
from outrider.guidance.dola import Dola, divergence
from outrider.guidance.recipe import Parts
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.protocols import Segment
from tests.exactness.setups.checkpoints import RUNNERS, make_tiers

pytestmark = pytest.mark.method("dola")
PROMPT = Prompt(token_ids=(5, 9, 40, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiers(tmp_path_factory.mktemp("dola"), "llama", (0.0,), num_hidden_layers=6)[0]


@pytest.fixture(scope="module")
def model(folder: Path) -> Decoder:
    return RUNNERS["eager"](folder)


def rows(model: Any, tokens: Sequence[int], layers: Sequence[int] = ()) -> Any:
    [cache] = model.start([PROMPT])
    if layers:
        model.hidden_states.watch(cache, layers)
    want = as_ids(range(-1, len(tokens)))
    [found] = model.forward([Segment(cache, as_ids(tokens))], [want])
    return found


def by_hand(model: Decoder, tokens: Sequence[int], layers: Sequence[int], alpha: float) -> Tensor:
    """The equations of the paper, a row at a time, with the divergence of scipy's form."""
    plain = rows(model, tokens, layers)
    out = []
    for n in range(len(tokens) + 1):
        p = torch.softmax(plain.logits[n], dim=-1)
        best, chosen = -1.0, p
        for states in plain.states:
            q = torch.softmax(model.read_out(states[n : n + 1])[0], dim=-1)
            m = (p + q) / 2
            apart = float(((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2)
            if apart > best:
                best, chosen = apart, q
        score = p.log() - chosen.log()
        out.append(score.masked_fill(p < alpha * p.max(), -torch.inf))
    return torch.stack(out)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_the_layer_that_differs_most_is_subtracted_among_plausible_tokens(
    model: Decoder, alpha: float
) -> None:
    layers, tokens = (1, 2, 3), tuple(range(6, 30))
    guided = Dola(layers=layers, alpha=alpha).build(Parts(target=model, models={}))
    expected = by_hand(model, tokens, layers, alpha)
    torch.testing.assert_close(rows(guided, tokens).logits, expected)
    alone = [by_hand(model, tokens, (layer,), alpha) for layer in layers]
    assert not any(torch.equal(one, expected) for one in alone)  # the choice matters


def test_the_last_layer_against_itself_is_the_model_bit_for_bit(model: Decoder) -> None:
    guided = Dola(layers=(6,)).build(Parts(target=model, models={}))
    assert torch.equal(rows(guided, (8, 1)).logits, rows(model, (8, 1)).logits)


def test_candidates_are_every_second_layer_of_a_half_without_the_embeddings() -> None:
    assert Dola(half="low").candidates(32) == (2, 4, 6, 8, 10, 12, 14)
    assert Dola(half="high").candidates(32) == (16, 18, 20, 22, 24, 26, 28, 30)
    assert Dola().candidates(2) == (1,) and Dola(half="low").candidates(2) == (1,)
    assert Dola(layers=(3, 7)).candidates(8) == (3, 7)


def test_the_divergence_is_symmetric_and_bounded_by_log_two() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = (
        torch.log_softmax(4 * torch.randn(5, 9, generator=generator, dtype=torch.float64), -1)
        for _ in "12"
    )
    two[0] = -torch.inf
    two[0, 3] = 0.0
    apart = divergence(one.exp(), one, two)
    torch.testing.assert_close(apart, divergence(two.exp(), two, one))
    assert bool((apart > 0).all()) and float(apart.max()) < 0.6932
    assert float(divergence(one.exp(), one, one).abs().max()) < 1e-15


@pytest.mark.parametrize("kind", [kind for kind in ("native", "int8") if kind in RUNNERS])
def test_compiled_rows_do_not_depend_on_how_many_are_read(folder: Path, kind: str) -> None:
    native = RUNNERS[kind](folder)
    guided = Dola(layers=(2, 4)).build(Parts(target=native, models={}))
    together = rows(guided, (8, 1, 30)).logits
    for count in range(4):
        assert torch.equal(rows(guided, (8, 1, 30)[:count]).logits[count], together[count])


def test_what_it_can_not_read_is_refused() -> None:
    table = TabularModel.random()
    with pytest.raises(StrategyError, match="does not return the states of its layers"):
        Dola().build(Parts(target=table, models={}))
    with pytest.raises(OptionError, match="half is 'middle'"):
        Dola(half="middle")
    with pytest.raises(OptionError, match="layers holds 9, and the model has the layers 1 to 6"):
        Dola(layers=(2, 9)).candidates(6)
