"""The rule of Lexical Unit Decoding: what confidence accepts, and what is counted."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from outrider.acceptance import Lud, Match
from outrider.acceptance.lud import chances, confident
from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.drafters import ModelDrafter
from outrider.models.tabular import TabularModel
from outrider.strategy import Strategy
from tests.acceptance.hand import NEVER, Seedling, chain, random_logits, seedlings, view

pytestmark = pytest.mark.method("lud")


def row(token: int, chance: float, vocab: int = 5) -> Tensor:
    """Logits that give `token` this probability, and the others the rest in equal parts."""
    probs = torch.full((vocab,), (1 - chance) / (vocab - 1), dtype=torch.float64)
    probs[token] = chance
    return probs.log()


def test_confident_tokens_pass_unverified_and_are_counted() -> None:
    reference = [row(1, 0.95), row(2, 0.91), row(3, 0.89), row(4, 0.99)]
    draft = chain([1, 2, 3, 4], reference=reference)
    logits = torch.stack([row(token, 0.9) for token in (1, 0, 0, 4, 1)])
    found = Lud(beta=0.9)(draft, view(draft, logits, temperature=0.0))
    assert found.tokens == (1, 2) and found.next_token == 0  # 3 is below beta, and not the choice
    assert found.changed == (False, True, False)
    logits[2] = row(3, 0.9)  # now it is the choice: the draft goes on
    found = Lud(beta=0.9)(draft, view(draft, logits, temperature=0.0))
    assert found.tokens == (1, 2, 3, 4) and found.changed == (False, True, False, False, False)
    assert Match()(draft, view(draft, logits, temperature=0.0)).tokens == (1,)


@given(seedlings(), st.integers(0, 9), st.sampled_from([0.0, 0.8]))
def test_beta_above_1_is_match(seedling: Seedling, seed: int, temperature: float) -> None:
    draft = seedling.grow()
    seen = view(draft, random_logits(len(draft) + 1, 3, seed), temperature=temperature)
    own, other = Lud(beta=1.01)(draft, seen), Match()(draft, seen)
    assert (own.emitted, own.changed) == (other.emitted, other.changed)
    assert Lud(beta=1.01).exactness is Exactness.IDENTICAL
    assert Lud(beta=1.0).exactness is Lud().exactness is Exactness.LOSSY


@given(seedlings(), st.integers(0, 9), st.sampled_from([0.0, 0.2, 0.5, 0.9]))
def test_changed_tokens_are_those_of_which_the_drafter_is_confident(
    seedling: Seedling, seed: int, beta: float
) -> None:
    draft = seedling.grow()
    seen = view(draft, random_logits(len(draft) + 1, 3, seed), generated=(2,))
    found = Lud(beta=beta)(draft, seen)
    before, previous = -1, 2
    for node, changed in zip(found.path, found.changed, strict=False):
        token = int(draft.tokens[node])
        assert changed == (token != seen.choose(before))
        if changed:
            assert draft.reference is not None
            reference = draft.reference[node]
            assert reference is not None
            chance = float(chances(reference[None])[0, token])
            assert confident(token, chance, previous, beta)
        before, previous = node, token


def test_a_repetition_needs_more_than_99_percent() -> None:
    assert not confident(4, 0.99, 4, 0.9) and confident(4, 0.991, 4, 0.9)
    assert confident(4, 0.9, 3, 0.9) and not confident(4, float("nan"), 3, 0.0)
    for chance, count in ((0.98, 1), (0.995, 2)):
        draft = chain([1, 1], reference=[row(1, 0.95), row(1, chance)])
        logits = torch.stack([row(0, 0.9)] * 3)
        seen = view(draft, logits, generated=(2,), temperature=0.0)
        assert len(Lud()(draft, seen).path) == count
        seen = view(draft, logits, generated=(1,), temperature=0.0)
        assert len(Lud()(draft, seen).path) == 0  # it repeats the last token of the text


def test_what_is_banned_is_never_accepted_and_the_budget_holds() -> None:
    draft = chain([1, 2], reference=[row(1, 0.95), row(2, 0.95)])
    logits = torch.stack([row(0, 0.9)] * 3)
    assert Lud()(draft, view(draft, logits, temperature=0.0)).tokens == (1, 2)
    banned = view(draft, logits, banned_tokens=(2,), temperature=0.0)
    assert Lud()(draft, banned).tokens == (1,)
    impossible = logits.clone()
    impossible[0, 1] = NEVER
    assert Lud()(draft, view(draft, impossible, temperature=0.0)).tokens == ()
    rule = Lud(max_changed=0.5)
    assert rule(draft, view(draft, logits, temperature=0.0)).tokens == ()
    earlier = Counters(next_tokens=3)
    assert rule(draft, view(draft, logits, ledger=earlier, temperature=0.0)).tokens == (1, 2)
    ended = view(draft, logits, end_ids=(1,), temperature=0.0)
    found = Lud()(draft, ended)
    assert found.tokens == (1,) and found.next_token is None


def test_without_references_it_is_match() -> None:
    draft = chain([1, 2])
    logits = torch.stack([row(1, 0.9), row(0, 0.9), row(0, 0.9)])
    assert Lud(beta=0.0)(draft, view(draft, logits, temperature=0.0)).tokens == (1,)
    broken = chain([1], reference=[torch.full((5,), torch.nan)])
    assert Lud(beta=0.0)(broken, view(broken, logits[1:], temperature=0.0)).tokens == ()


def test_it_takes_drafts_of_a_model_and_refuses_other_numbers() -> None:
    target, draft = (TabularModel.random(vocab_size=5, order=1, seed=i) for i in (0, 1))
    strategy = Strategy(target=target, drafter=ModelDrafter(model=draft), rule=Lud(beta=0.3))
    assert strategy.exactness is Exactness.LOSSY
    for options in ({"beta": -0.1}, {"beta": float("nan")}, {"max_changed": 2.0}):
        with pytest.raises(OptionError):
            Lud(**options)
