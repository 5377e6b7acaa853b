"""Greedy look-ahead after several candidate tokens, all of them in the same forwards.

Nothing is read that is not needed: a candidate that ends its text is not continued, the last token
of a look-ahead is chosen and not read, and a look-ahead of 0 tokens reads nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.search.task import Task
from outrider.search.tree import Node, TokenTree


@dataclass(slots=True, eq=False)
class Ahead:
    """A candidate token with what greedy decoding writes after it.

    Attributes:
        parent: the node before the candidate.
        tokens: the candidate, then the tokens of the look-ahead.
        logprobs: log-probabilities of the tokens of the look-ahead.
        nodes: the tokens that were read, from the candidate on: at most all but the last one, or
            none.
        rows: the logits after the nodes; after the first one only, unless all were asked for.
    """

    parent: Node
    tokens: list[int]
    logprobs: list[float] = field(default_factory=list[float])
    nodes: list[Node] = field(default_factory=list[Node])
    rows: list[Tensor] = field(default_factory=list[Tensor])

    @property
    def end(self) -> Node:
        """The node of the last token, which the model has read only if it is in `nodes`."""
        node = self.nodes[-1] if self.nodes else self.parent
        for token in self.tokens[len(self.nodes) :]:
            node = unread(node, token)
        return node


def unread(node: Node, token: int) -> Node:
    """Return a node for a token that the model does not read: the end of a text."""
    return Node(token=token, parent=node, depth=node.depth + 1)


def look_ahead(
    task: Task,
    tree: TokenTree,
    steps: Sequence[tuple[Node, int]],
    length: int,
    *,
    all_rows: bool = False,
) -> list[Ahead]:
    """Continue each candidate greedily, in at most `length` forwards for all of them.

    Args:
        task: the prompt; its penalties, bans, end tokens and longest text hold.
        tree: the branches.
        steps: pairs of a node and a candidate token.
        length: most tokens after each candidate.
        all_rows: whether to keep the logits after every token.

    Raises:
        SearchStoppedError: a limit is reached.
    """
    found = [Ahead(node, [token]) for node, token in steps]
    live = [one for one in found if _goes_on(task, one, length)]
    while live:
        places = [(one.nodes[-1] if one.nodes else one.parent, one.tokens[-1]) for one in live]
        nodes, logits = tree.extend(places)
        logprobs = task.logprobs(logits, [node.tokens for node in nodes])
        values, best = logprobs.max(-1)
        chosen = zip(live, nodes, logits, best.tolist(), values.tolist(), strict=True)
        for one, node, row, token, value in chosen:
            one.nodes.append(node)
            if all_rows or not one.rows:
                one.rows.append(row)
            one.tokens.append(token)
            one.logprobs.append(value)
        live = [one for one in live if _goes_on(task, one, length)]
    return found


def _goes_on(task: Task, one: Ahead, length: int) -> bool:
    ended = one.tokens[-1] in task.end_ids
    inside = one.parent.depth + len(one.tokens) < task.most
    return not ended and inside and len(one.tokens) <= length


def entropies(logprobs: Float[Tensor, "rows vocab"]) -> list[float]:
    """Return the entropy of each distribution in nats."""
    return torch.special.entr(logprobs.exp()).sum(-1).tolist()


def best_tokens(logprobs: Float[Tensor, " vocab"], count: int) -> list[int]:
    """Return the `count` best tokens that are allowed, the best first."""
    values, ids = logprobs.topk(min(count, logprobs.numel()))
    return ids[values > -torch.inf].tolist()
