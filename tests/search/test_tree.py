"""Branches in one cache: rows, logits and what is given up."""

import torch

from outrider.core.types import Prompt
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.protocols import LanguageModel
from outrider.search.account import Account
from outrider.search.tree import Node, TokenTree
from tests.models.heads.setups import make_target

PROMPT = (3, 1, 4, 1, 5)


def fresh(model: LanguageModel, text: tuple[int, ...]) -> torch.Tensor:
    """The logits after a text that is read at once."""
    [cache] = model.start([Prompt(token_ids=text)])
    return TokenTree(model, cache, Account()).first()


def grown(model: LanguageModel, rounds: int) -> tuple[TokenTree, list[Node], torch.Tensor]:
    """A tree that keeps three branches, and the logits after them."""
    [cache] = model.start([Prompt(token_ids=PROMPT)])
    tree = TokenTree(model, cache, Account())
    logits = tree.first()[None]
    leaves = [tree.root]
    for number in range(rounds):
        best = logits.topk(2, dim=-1).indices.tolist()
        steps = [(leaf, token) for leaf, own in zip(leaves, best, strict=True) for token in own]
        leaves, logits = tree.extend(steps)
        kept = [i for i in range(len(leaves)) if (i + number) % 2 == 0][:3]
        leaves, logits = [leaves[i] for i in kept], logits[kept]
        tree.keep(leaves)
    return tree, leaves, logits


def test_each_branch_reads_its_own_text_alone() -> None:
    model = TabularModel.random(vocab_size=7, seed=3)
    tree, leaves, logits = grown(model, 30)
    for leaf, row in zip(leaves, logits, strict=True):
        assert len(leaf.tokens) == leaf.depth == 30
        assert torch.equal(row, fresh(model, (*PROMPT, *leaf.tokens)))
    rows = len(PROMPT) + len({id(node) for leaf in leaves for node in lineage(leaf)})
    assert len(tree._nodes) + len(PROMPT) <= max(1.2 * rows, rows + 4)


def lineage(leaf: Node) -> list[Node]:
    found: list[Node] = []
    node: Node | None = leaf
    while node is not None:
        found.append(node)
        node = node.parent
    return found


def test_rows_that_move_stay_what_they_are(tmp_path) -> None:
    model = Decoder.load(make_target(tmp_path / "target"), dtype=torch.float64)
    _, leaves, logits = grown(model, 20)
    for leaf, row in zip(leaves, logits, strict=True):
        expected = fresh(model, (*PROMPT, *leaf.tokens))
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-10)


def test_new_nodes_are_parents_in_the_same_forward() -> None:
    model = TabularModel.random(vocab_size=7, seed=3)
    [cache] = model.start([Prompt(token_ids=PROMPT)])
    tree = TokenTree(model, cache, Account())
    tree.first()
    [start], _ = tree.extend([(tree.root, 4)])
    nodes, rows = tree.extend([(start, 1), (0, 2), (1, 3), (0, 5), (tree.root, 6)])
    texts = [(4, 1), (4, 1, 2), (4, 1, 2, 3), (4, 1, 5), (6,)]
    assert [node.tokens for node in nodes] == texts
    assert [node.depth for node in nodes] == [len(text) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        assert torch.equal(row, fresh(model, (*PROMPT, *text)))
    assert tree.account.forwards == 3


def test_several_tokens_at_once() -> None:
    model = TabularModel.random(vocab_size=7, seed=3)
    [cache] = model.start([Prompt(token_ids=PROMPT)])
    account = Account()
    tree = TokenTree(model, cache, account)
    tree.first()
    [node], _ = tree.extend([(tree.root, 2)])
    logits = tree.read(node, (4, 6, 1))
    assert tree.newest.tokens == (2, 4, 6, 1)
    for i in range(3):
        assert torch.equal(logits[i], fresh(model, (*PROMPT, 2, *(4, 6, 1)[: i + 1])))
    assert account.forwards == 3
    assert account.tokens == 1 + 1 + 3  # the last token of the prompt, then those of the branch
