import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.acceptance import Match
from outrider.core.errors import LogitsError
from tests.acceptance.hand import Seedling, chain, random_logits, seedlings, tree, view

pytestmark = pytest.mark.method("match")

TEMPERATURES = st.sampled_from([0.0, 0.8])


@given(seedling=seedlings(), seed=st.integers(0, 999), temperature=TEMPERATURES)
def test_emits_the_choices_of_the_verifier(
    seedling: Seedling, seed: int, temperature: float
) -> None:
    draft = seedling.grow()
    logits = random_logits(len(draft) + 1, 3, seed)
    seen = view(draft, logits, temperature=temperature, seed=seed, end_ids=(2,))
    verdict = Match()(draft, seen)
    nodes = [-1, *verdict.path]
    assert list(verdict.emitted) == [seen.choose(n) for n in nodes][: len(verdict.emitted)]
    assert [int(draft.parents[n]) for n in verdict.path] == nodes[:-1]
    assert verdict.tokens == tuple(int(draft.tokens[n]) for n in verdict.path)
    assert verdict.changed == (False,) * len(verdict.emitted)
    assert draft.probe is None or not draft.probe[list(verdict.path)].any()
    if verdict.next_token is None:
        assert verdict.tokens[-1] == 2
    else:
        tokens = [int(draft.tokens[c]) for c in draft.children(nodes[-1])]
        assert verdict.next_token not in tokens


def test_takes_any_sibling_and_names_the_sources() -> None:
    logits = torch.eye(4)[[2, 0, 0, 1]]  # after the text 2, after node 1 nothing drafted fits
    draft = tree([0, 2, 3], [-1, -1, 1])
    verdict = Match(with_probs=True)(draft, view(draft, logits))
    assert verdict.path == (1,) and verdict.emitted == (2, 0)
    assert verdict.sources == ("draft", "target")
    assert [probs.tolist() for probs in verdict.distributions if probs is not None] == [
        [0, 0, 1, 0],
        [1, 0, 0, 0],
    ]


def test_nothing_follows_an_end_token() -> None:
    draft = chain([1, 2, 0])
    verdict = Match()(draft, view(draft, torch.eye(3)[[1, 2, 0, 1]], end_ids=(2,)))
    assert verdict.tokens == (1, 2) and verdict.next_token is None


def test_an_end_token_may_be_the_next_token() -> None:
    draft = chain([1])
    verdict = Match()(draft, view(draft, torch.eye(3)[[1, 2]], end_ids=(2,)))
    assert verdict.emitted == (1, 2) and verdict.next_token == 2


def test_unusable_logits_are_named_only_where_visited() -> None:
    logits = torch.eye(3)[[1, 2, 0]]
    logits[2] = torch.nan
    refused = chain([0, 1])
    assert Match()(refused, view(refused, logits)).emitted == (1,)
    accepted = chain([1, 2])
    with pytest.raises(LogitsError, match="model hand"):
        Match()(accepted, view(accepted, logits))
