"""Branches of one text in one cache: each token is a row whose parent is the row of its branch.

All branches share the rows of the prompt and of their common beginnings, and a step of all of them
is one forward. The rows of branches that are given up are dropped once they take a fifth of the
cache.

Under a policy of the cache (`models/caches/eviction`), branches part at its points: there, what a
branch keeps depends on its own text, so it goes on in a cache of its own, and reads what it would
read as the only text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import as_ids
from outrider.protocols import Cache, LanguageModel, Segment
from outrider.search.account import Account

SPARE = 0.2
"""Share of dead rows from which they are dropped."""
_LEAST = 4
"""Dead rows that may always stay."""


@dataclass(slots=True, eq=False)
class Stem:
    """A text in a cache, and the branches that continue it up to the next point of the cache.

    Attributes:
        cache: the cache; it holds the branches as speculative rows.
        depth: tokens of the text after the prompt.
        most: tokens of a branch at which a new stem begins; None: it has no end.
        root: the last token of the text.
        nodes: the tokens of the branches, in the order of their rows.
    """

    cache: Cache
    depth: int
    most: int | None
    root: "Node"
    nodes: list["Node"] = field(default_factory=list["Node"])


@dataclass(slots=True, eq=False)
class Node:
    """A token of a branch.

    Attributes:
        token: its id; -1 for the root, which stands for the prompt.
        parent: the node before it; None for the root.
        row: its row in the cache, after the rows of the text; -1 for the last token of the text.
        depth: tokens of the branch up to here.
        stem: what holds its row; None for a token that was not read.
    """

    token: int = -1
    parent: "Node | None" = None
    row: int = -1
    depth: int = 0
    stem: Stem | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens of the branch after the prompt."""
        return self.tokens_after(0)

    def tokens_after(self, depth: int) -> tuple[int, ...]:
        """Return the tokens of the branch after its first `depth` ones."""
        found: list[int] = []
        node = self
        while node.parent is not None and node.depth > depth:
            found.append(node.token)
            node = node.parent
        return tuple(reversed(found))


@dataclass(slots=True)
class _Part:
    """What a forward reads in one cache, and which steps want logits of it."""

    stem: Stem
    tokens: list[int] = field(default_factory=list[int])
    parents: list[int] = field(default_factory=list[int])
    want: list[int] = field(default_factory=list[int])
    steps: list[int] = field(default_factory=list[int])


@dataclass(slots=True)
class TokenTree:
    """Branches that continue one text.

    Attributes:
        model: the model.
        cache: its cache for the text; it must hold no speculative rows.
        account: counts forwards and rows.
        root: the text itself.
        watched: layers of `states` (`protocols.HiddenStates.watch`), which are watched on the cache
            already.
        states: hidden states of the rows that the newest call returned logits of.
    """

    model: LanguageModel
    cache: Cache
    account: Account
    root: Node = field(default_factory=Node)
    watched: Sequence[int] | None = None
    states: Float[Tensor, "layers rows hidden"] | None = None
    _nodes: list[Node] = field(default_factory=list[Node])
    _stems: list[Stem] = field(default_factory=list[Stem])

    def __post_init__(self) -> None:
        self._stems = [self._stem(self.cache, self.root)]

    def first(self) -> Float[Tensor, " vocab"]:
        """Read the end of the text, and return the logits of the next token. Call it once, before
        `extend`."""
        [logits] = self._forward([_Part(self._stems[0], want=[-1], steps=[0])])
        return logits

    def extend(
        self,
        steps: Sequence[tuple[Node | int, int]],
        prompts: Float[Tensor, "prompts hidden"] | None = None,
    ) -> tuple[list[Node], Float[Tensor, "steps vocab"]]:
        """Append a token to each of these nodes, in one forward; in several where chains of new
        nodes reach a point of a policy.

        Args:
            steps: pairs of a node and a token. A node may occur more than once. The number of an
                earlier pair stands for its new node.
            prompts: input embeddings that negative tokens are read as (`Segment.prompts`).

        Returns:
            The new nodes, and the logits after each of them.

        Raises:
            SearchStoppedError: a limit is reached; this forward was not computed.
            ContextError: a branch would lie outside the window.
        """
        return self._grow(steps, range(len(steps)), prompts)

    def read(
        self, node: Node, tokens: Sequence[int], *, want: Sequence[int] | None = None
    ) -> Float[Tensor, "wanted vocab"]:
        """Append tokens after a node, in one forward up to each point of a policy; return the
        logits after each, or after those with the ascending indices `want`. The last of them is
        `newest`."""
        steps: list[tuple[Node | int, int]] = [
            (i - 1 if i else node, token) for i, token in enumerate(tokens)
        ]
        return self._grow(steps, range(len(tokens)) if want is None else want)[1]

    @property
    def newest(self) -> Node:
        """The node that was appended last; the root if there is none."""
        return self._nodes[-1] if self._nodes else self.root

    def keep(self, leaves: Iterable[Node]) -> None:
        """Give up all branches that lead to none of these nodes. Nodes that are given up must not
        be used any more, nor those before the last point of a policy that a branch has reached."""
        live: dict[int, set[int]] = {id(self._stems[0]): set()}
        for leaf in leaves:
            rows = live.setdefault(id(leaf.stem), set())
            node: Node | None = leaf
            while node is not None and node.row >= 0 and node.row not in rows:
                rows.add(node.row)
                node = node.parent
        stems = [stem for stem in self._stems if id(stem) in live]
        changed = [self._cut(stem, sorted(live[id(stem)])) for stem in stems]
        if any(changed) or len(stems) < len(self._stems):
            self._stems = stems
            held = {id(node) for stem in stems for node in (stem.root, *stem.nodes)}
            self._nodes = [node for node in self._nodes if id(node) in held]

    @property
    def room(self) -> int:
        """How many more tokens a branch may have."""
        return self.cache.remaining

    @staticmethod
    def _cut(stem: Stem, rows: list[int]) -> bool:
        """Drop the rows of a stem but `rows`, if the others are many; return whether they are."""
        dead = len(stem.nodes) - len(rows)
        if dead <= max(_LEAST, SPARE * (len(stem.cache.text) + len(rows))):
            return False
        stem.cache.keep_rows(rows)
        stem.nodes = [stem.nodes[row] for row in rows]
        for row, node in enumerate(stem.nodes):
            node.row = row
        return True

    def _stem(self, cache: Cache, root: Node) -> Stem:
        # Without a policy, a horizon is that of a selection, which a search reads once.
        most = cache.horizon if self.model.info.kv_policy else None
        root.stem = Stem(cache, root.depth, most, root)
        return root.stem

    def _grow(
        self,
        steps: Sequence[tuple[Node | int, int]],
        wanted: Sequence[int],
        prompts: Float[Tensor, "prompts hidden"] | None = None,
    ) -> tuple[list[Node], Float[Tensor, "wanted vocab"]]:
        added: list[Node] = []
        logits, states, asked = list[Tensor](), list[Tensor](), frozenset(wanted)
        while len(added) < len(steps) or not logits:
            nodes, parts = self._planned(steps, added, asked)
            logits.append(self._forward(parts, prompts))
            if self.states is not None:
                states.append(self.states)
            for part in parts:
                if part.stem not in self._stems:
                    self._stems.append(part.stem)
            for node in nodes:
                if node.row >= 0:
                    assert node.stem is not None
                    node.stem.nodes.append(node)
            added += nodes
            self._nodes += nodes
        self.states = torch.cat(states, dim=1) if states else None
        rows = sum(len(stem.cache.text) + len(stem.nodes) for stem in self._stems)
        self.account.hold(rows)
        return added, logits[0] if len(logits) == 1 else torch.cat(logits)

    def _planned(
        self, steps: Sequence[tuple[Node | int, int]], added: Sequence[Node], asked: frozenset[int]
    ) -> tuple[list[Node], list[_Part]]:
        """Return the nodes of the next steps that can be read in one forward, and what it reads."""
        nodes: list[Node] = []
        parts: dict[int, _Part] = {}
        for number in range(len(added), len(steps)):
            one, token = steps[number]
            parent = one
            if isinstance(parent, int):
                early = parent < len(added)
                parent = added[parent] if early else nodes[parent - len(added)]
            stem = parent.stem
            assert stem is not None
            node = Node(token=token, parent=parent, depth=parent.depth + 1, stem=stem)
            if stem.most is not None and node.depth - stem.depth >= stem.most:
                if isinstance(one, int) and one >= len(added):
                    break  # the rows before the point must be read first
                stem = self._after(node)
            part = parts.setdefault(id(stem), _Part(stem))
            if node is not stem.root:
                node.row = len(stem.nodes) + len(part.tokens)
                part.tokens.append(token)
                part.parents.append(parent.row)
            if number in asked:
                part.want.append(node.row)
                part.steps.append(number)
            nodes.append(node)
        return nodes, list(parts.values()) or [_Part(self._stems[0])]

    def _after(self, node: Node) -> Stem:
        """Return the stem of a branch that reaches a point with this token."""
        before = node.stem
        assert before is not None
        cache = before.cache.fork()
        cache.commit(as_ids(node.tokens_after(before.depth)))
        if cache.horizon == 0 and self.model.selector is not None:
            self.model.selector.refresh([cache])
        if self.watched is not None and self.model.hidden_states is not None:
            self.model.hidden_states.watch(cache, self.watched)
        return self._stem(cache, node)

    @torch.inference_mode()
    def _forward(
        self, parts: Sequence[_Part], prompts: Float[Tensor, "prompts hidden"] | None = None
    ) -> Float[Tensor, "wanted vocab"]:
        """Read these parts; return the logits, and note the states, in the order of the steps."""
        self.account.check()
        unread = sum(0 if part.stem.cache.fed else len(part.stem.cache.pending) for part in parts)
        segments = [
            Segment(
                part.stem.cache,
                as_ids(part.tokens),
                as_ids(part.parents) if part.parents else None,
                prompts if min(part.tokens, default=0) < 0 else None,
            )
            for part in parts
        ]
        found = self.model.forward(segments, [as_ids(part.want) for part in parts])
        self.account.forward(sum(len(part.tokens) for part in parts) + unread)
        self.states = found[0].states
        if len(parts) == 1:
            return found[0].logits
        order = torch.tensor([step for part in parts for step in part.steps]).argsort()
        watched = [rows.states for rows in found if rows.states is not None]
        self.states = torch.cat(watched, dim=1)[:, order] if watched else None
        return torch.cat([rows.logits for rows in found])[order]
