"""What is kept of a round: the place of the corrected token, the target's row, parts of texts."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.tree import chain_parents
from outrider.core.types import NO_IDS, Draft, Rows, Verdict, Verified, as_ids
from outrider.learning.losses import forward_kl, jensen_shannon, reverse_kl
from outrider.learning.records import (
    TOP,
    Correction,
    TargetRow,
    coarse,
    correction_of,
    examples_of,
)

VOCAB = 100


def seen(
    tokens: list[int],
    path: tuple[int, ...],
    next_token: int | None = 9,
    sources: tuple[str, ...] = (),
    parents: list[int] | None = None,
) -> Verified:
    """A verification; row `i` of the target prefers token `i`."""
    size = len(tokens)
    draft = Draft(
        tokens=as_ids(tokens),
        parents=chain_parents(size) if parents is None else as_ids(parents),
        sources=sources or ("draft",) * size,
    )
    accepted = tuple(tokens[node] for node in path)
    verdict = Verdict(path=path, tokens=accepted, next_token=next_token)
    return Verified("target", NO_IDS, draft, Rows(5.0 * torch.eye(size + 1, VOCAB)), verdict)


def test_a_correction_is_the_first_token_that_was_refused() -> None:
    found = correction_of(10, 4, seen([1, 2, 3], (0,)), "draft", VOCAB)
    assert found is not None
    assert found.index == 10 + 4 + 1
    assert int(found.row.ids[0]) == 1  # the row after node 0


def test_in_a_tree_it_is_where_no_sibling_was_accepted() -> None:
    tree = seen([1, 2, 3, 4], (1,), parents=[-1, -1, 1, 1])
    found = correction_of(3, 0, tree, "draft", VOCAB)
    assert found is not None
    assert (found.index, int(found.row.ids[0])) == (4, 2)


def test_a_bonus_token_an_end_and_drafts_of_others_are_no_corrections() -> None:
    assert correction_of(3, 0, seen([1, 2], (0, 1)), "draft", VOCAB) is None
    assert correction_of(3, 0, seen([1, 2], (0,), next_token=None), "draft", VOCAB) is None
    assert correction_of(3, 0, seen([1, 2], (), sources=("sam", "draft")), "draft", VOCAB) is None
    assert correction_of(3, 0, seen([], ()), "draft", VOCAB) is None


def test_a_row_holds_the_best_tokens_and_the_probability_of_all_others() -> None:
    logits = torch.randn(300)
    row = TargetRow.of(logits, 250)
    probs = logits.softmax(-1)
    assert len(row.ids) == TOP
    assert int(row.ids.max()) < 250  # the draft model has no others
    assert torch.allclose(row.logprobs[:-1].exp(), probs[row.ids], atol=1e-6)
    assert torch.isclose(row.logprobs.exp().sum(), torch.tensor(1.0))


def test_losses_are_divergences_of_the_coarse_distributions() -> None:
    ids = torch.arange(3)[None]
    target, draft = (coarse(torch.randn(1, 8), ids) for _ in range(2))
    p, q = target.exp(), draft.exp()
    expected = (p * (p / q).log()).sum()
    assert torch.isclose(forward_kl(target, draft)[0], expected, atol=1e-6)
    assert torch.isclose(reverse_kl(target, draft)[0], (q * (q / p).log()).sum(), atol=1e-6)
    m = 0.9 * p + 0.1 * q
    both = 0.9 * (p * (p / m).log()).sum() + 0.1 * (q * (q / m).log()).sum()
    assert torch.isclose(jensen_shannon(target, draft)[0], both, atol=1e-6)
    for loss in (forward_kl, reverse_kl, jensen_shannon):
        assert torch.isclose(loss(target, target)[0], torch.tensor(0.0), atol=1e-6)
    assert forward_kl(target, draft) != reverse_kl(target, draft)


def test_losses_are_finite_where_a_token_is_impossible() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]])
    target = coarse(logits, torch.tensor([[0, 2]]))
    draft = torch.randn(1, 4, requires_grad=True)
    loss = forward_kl(target, coarse(draft, torch.tensor([[0, 2]])))
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all())
    assert draft.grad is not None
    assert bool(torch.isfinite(draft.grad).all())


ROW = TargetRow(torch.arange(2), torch.randn(3))


@given(st.sets(st.integers(1, 120), max_size=20), st.integers(8, 40), st.integers(1, 100))
def test_parts_hold_each_correction_once_with_text_before_it(
    places: set[int], length: int, size: int
) -> None:
    text = list(range(1000, 1000 + size))
    made = examples_of(text, [Correction(i, ROW) for i in sorted(places)], length)
    held: list[int] = []
    for example in made:
        assert len(example.tokens) <= length
        assert torch.equal(example.tokens, torch.arange(len(example.tokens)) + example.tokens[0])
        index = example.tokens[example.rows] - 1000 + 1  # of the token that the row predicts
        assert int(example.rows[0]) >= min(int(index[0]), length // 2) - 1
        held += index.tolist()
    assert held == [i for i in sorted(places) if i <= size]
