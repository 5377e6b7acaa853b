"""Branches under a policy of the cache: each reads what it would read as the only text."""

import numpy as np
import pytest
import torch

from outrider.core.types import Prompt
from outrider.protocols import LanguageModel
from outrider.search.account import Account
from outrider.search.steps.lookahead import entropies
from outrider.search.steps.threshold import observed
from outrider.search.tree import Node, TokenTree
from tests.models.caches.eviction.setups import (
    NAMES,
    begin,
    ids,
    model,
    needs_kernels,
    under,
    write,
)

pytestmark = [needs_kernels, pytest.mark.usefixtures("unchecked")]
each_policy = pytest.mark.parametrize("name", NAMES)
TEXT, MORE = ids(13), ids(12, seed=1)


def tree_of(one: LanguageModel) -> TokenTree:
    [cache] = one.start([Prompt(token_ids=TEXT)])
    return TokenTree(one, cache, Account())


def alone(one: LanguageModel, tokens: tuple[int, ...]) -> torch.Tensor:
    """Logits after the text and these tokens, read one by one."""
    return write(one, begin(one, TEXT), [*tokens, 0])[-1].float()


@each_policy
def test_each_branch_reads_what_it_would_read_alone(name: str) -> None:
    """Ten tokens pass three points of these policies; branches that are dropped leave no stem."""
    one, rng = under(name, "float32"), np.random.default_rng(3)
    tree = tree_of(one)
    rows, leaves = tree.first()[None], [tree.root]
    assert torch.equal(rows[0], alone(one, ()))
    for _ in range(10):
        steps = [(leaf, int(token)) for leaf in leaves for token in rng.integers(0, 64, 2)]
        leaves, rows = tree.extend(steps)
        chosen = sorted(rng.choice(len(leaves), min(3, len(leaves)), replace=False).tolist())
        leaves, rows = [leaves[i] for i in chosen], rows[chosen]
        tree.keep(leaves)
    for leaf, row in zip(leaves, rows, strict=True):
        assert len(leaf.tokens) == leaf.depth == 10
        assert torch.equal(row, alone(one, leaf.tokens))
    stems = {id(leaf.stem) for leaf in leaves}
    assert len(tree._stems) == 1 + len(stems) and id(tree.root.stem) not in stems
    full = model("float32")
    assert not all(
        torch.equal(row, alone(full, leaf.tokens)) for leaf, row in zip(leaves, rows, strict=True)
    )


@each_policy
def test_chains_of_new_nodes_stop_at_points(name: str) -> None:
    one = under(name, "float32")
    tree = tree_of(one)
    tree.first()
    steps: list[tuple[Node | int, int]] = [(tree.root, 1), (tree.root, 2), (0, 3), (1, 4), (2, 5)]
    steps += [(3, 6), (4, 7), (2, 8), (6, 9), (8, 1), (9, 2), (tree.root, 3)]
    nodes, rows = tree.extend(steps)
    texts = [(1,), (2,), (1, 3), (2, 4), (1, 3, 5), (2, 4, 6), (1, 3, 5, 7), (1, 3, 8)]
    texts += [(1, 3, 5, 7, 9), (1, 3, 5, 7, 9, 1), (1, 3, 5, 7, 9, 1, 2), (3,)]
    assert [node.tokens for node in nodes] == texts
    for text, row in zip(texts, rows, strict=True):
        assert torch.equal(row, alone(one, text))
    assert tree.account.forwards == (2 if name == "snapkv" else 3)
    assert tree.newest is nodes[-1]


@each_policy
def test_a_passage_is_read_up_to_each_point(name: str) -> None:
    one = under(name, "float32")
    tree = tree_of(one)
    tree.first()
    [node], _ = tree.extend([(tree.root, 5)])
    want = [0, 2, 3, 7, 11]
    rows = tree.read(node, MORE, want=want)
    assert tree.newest.tokens == (5, *MORE)
    for i, row in zip(want, rows, strict=True):
        assert torch.equal(row, alone(one, (5, *MORE[: i + 1])))


def test_states_follow_the_order_of_the_steps() -> None:
    """Of branches in several caches, which are watched like the first one."""
    one = under("h2o", "float32")
    tree = tree_of(one)
    one.hidden_states.watch(tree.cache, [2])
    tree.watched = [2]
    tree.first()
    leaves, _ = tree.extend([(tree.root, 1), (tree.root, 2)])
    for token in (3, 4, 5):
        leaves, rows = tree.extend([(leaf, token) for leaf in leaves[::-1]])
    assert tree.states is not None and tree.states.shape == (1, 2, one.hidden_states.width)
    assert len({id(leaf.stem) for leaf in leaves}) == 2
    for leaf, row, state in zip(leaves, rows, tree.states[0], strict=True):
        other = tree_of(one)
        one.hidden_states.watch(other.cache, [2])
        other.watched = [2]
        other.first()
        node = other.root
        for token in leaf.tokens:
            [node], [again] = other.extend([(node, token)])
        assert torch.equal(again, row)
        assert other.states is not None and torch.equal(other.states[0, 0], state)


@each_policy
def test_a_solution_is_observed_as_it_would_be_written(name: str) -> None:
    one = under(name, "float32")
    found = observed(one, TEXT, MORE)
    rows = write(one, begin(one, TEXT), MORE).float()
    assert [own.right for own in found] == (rows.argmax(-1) == torch.tensor(MORE)).tolist()
    expected = entropies(torch.log_softmax(rows, -1))
    assert [own.entropy for own in found] == pytest.approx(expected, rel=1e-5)
