"""Branches of one text in one cache: each token is a row whose parent is the row of its branch.

All branches share the rows of the prompt and of their common beginnings, and a step of all of them
is one forward. The rows of branches that are given up are dropped once they take a fifth of the
cache.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import NO_IDS, as_ids
from outrider.protocols import Cache, LanguageModel, Segment
from outrider.search.account import Account

SPARE = 0.2
"""Share of dead rows from which they are dropped."""
_LEAST = 4
"""Dead rows that may always stay."""


@dataclass(slots=True, eq=False)
class Node:
    """A token of a branch.

    Attributes:
        token: its id; -1 for the root, which stands for the prompt.
        parent: the node before it; None for the root.
        row: its row in the cache, after the rows of the text; -1 for the root.
        depth: tokens of the branch up to here.
    """

    token: int = -1
    parent: "Node | None" = None
    row: int = -1
    depth: int = 0

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens of the branch after the prompt."""
        found: list[int] = []
        node = self
        while node.parent is not None:
            found.append(node.token)
            node = node.parent
        return tuple(reversed(found))


@dataclass(slots=True)
class TokenTree:
    """Branches that continue one text.

    Attributes:
        model: the model.
        cache: its cache for the text; it must hold no speculative rows.
        account: counts forwards and rows.
        root: the text itself.
        states: hidden states of the rows of the newest forward, where the cache is watched
            (`protocols.HiddenStates.watch`).
    """

    model: LanguageModel
    cache: Cache
    account: Account
    root: Node = field(default_factory=Node)
    states: Float[Tensor, "layers rows hidden"] | None = None
    _nodes: list[Node] = field(default_factory=list[Node])

    def first(self) -> Float[Tensor, " vocab"]:
        """Read the end of the text, and return the logits of the next token. Call it once, before
        `extend`."""
        [logits] = self._forward(Segment(self.cache, NO_IDS), [-1])
        return logits

    def extend(
        self,
        steps: Sequence[tuple[Node | int, int]],
        prompts: Float[Tensor, "prompts hidden"] | None = None,
    ) -> tuple[list[Node], Float[Tensor, "steps vocab"]]:
        """Append a token to each of these nodes, in one forward.

        Args:
            steps: pairs of a node and a token. A node may occur more than once. The number of an
                earlier pair stands for its new node.
            prompts: input embeddings that negative tokens are read as (`Segment.prompts`).

        Returns:
            The new nodes, and the logits after each of them.

        Raises:
            SearchStoppedError: a limit is reached; nothing was computed.
            ContextError: a branch would lie outside the window.
        """
        first = len(self._nodes)
        parents = as_ids([first + one if isinstance(one, int) else one.row for one, _ in steps])
        segment = Segment(self.cache, as_ids([token for _, token in steps]), parents, prompts)
        logits = self._forward(segment, range(first, first + len(steps)))
        added: list[Node] = []
        for i, (one, token) in enumerate(steps):
            parent = added[one] if isinstance(one, int) else one
            added.append(Node(token=token, parent=parent, row=first + i, depth=parent.depth + 1))
        self._nodes += added
        rows = len(self.cache.text) + len(self._nodes)
        self.account.hold(rows)
        return added, logits

    def read(
        self, node: Node, tokens: Sequence[int], *, want: Sequence[int] | None = None
    ) -> Float[Tensor, "wanted vocab"]:
        """Append tokens after a node, in one forward; return the logits after each, or after those
        with the indices `want`. The last of them is `newest`."""
        first = len(self._nodes)
        parents = as_ids([node.row, *range(first, first + len(tokens) - 1)])
        segment = Segment(self.cache, as_ids(tokens), parents)
        wanted = range(len(tokens)) if want is None else want
        logits = self._forward(segment, [first + i for i in wanted])
        for i, token in enumerate(tokens):
            node = Node(token=token, parent=node, row=first + i, depth=node.depth + 1)
            self._nodes.append(node)
        rows = len(self.cache.text) + len(self._nodes)
        self.account.hold(rows)
        return logits

    @property
    def newest(self) -> Node:
        """The node that was appended last; the root if there is none."""
        return self._nodes[-1] if self._nodes else self.root

    def keep(self, leaves: Iterable[Node]) -> None:
        """Give up all branches that lead to none of these nodes. Nodes that are given up must not
        be used any more."""
        live: set[int] = set()
        for leaf in leaves:
            node: Node | None = leaf
            while node is not None and node.row >= 0 and node.row not in live:
                live.add(node.row)
                node = node.parent
        dead = len(self._nodes) - len(live)
        if dead <= max(_LEAST, SPARE * (len(self.cache.text) + len(live))):
            return
        rows = sorted(live)
        self.cache.keep_rows(rows)
        self._nodes = [self._nodes[row] for row in rows]
        for row, node in enumerate(self._nodes):
            node.row = row

    @property
    def room(self) -> int:
        """How many more tokens a branch may have."""
        return self.cache.remaining

    @torch.inference_mode()
    def _forward(self, segment: Segment, want: Sequence[int]) -> Float[Tensor, "wanted vocab"]:
        self.account.check()
        unread = 0 if self.cache.fed else len(self.cache.pending)
        [rows] = self.model.forward([segment], [as_ids(want)])
        self.account.forward(len(segment.tokens) + unread)
        self.states = rows.states
        return rows.logits
