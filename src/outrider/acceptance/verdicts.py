"""The walk from the root of a draft to the verdict, which all rules share."""

from torch import Tensor

from outrider.core.types import Draft, Verdict
from outrider.protocols.view import View


class Walk:
    """The current node of a rule in the tree, and the nodes that it has accepted so far."""

    def __init__(self, draft: Draft, view: View, with_probs: bool) -> None:
        self.draft = draft
        self.view = view
        self.with_probs = with_probs
        self.node = -1
        self.ended = False
        self._path: list[int] = []
        self._changed: list[bool] = []
        self._distributions: list[Tensor | None] = []

    @property
    def accepted(self) -> int:
        """Tokens accepted so far in this walk."""
        return len(self._path)

    @property
    def changes(self) -> int:
        """Number of accepted tokens that are not the verifier's choice."""
        return sum(self._changed)

    def child_with(self, token: int) -> int | None:
        """Return the first child of the current node with this token, or None."""
        for child in self.draft.children(self.node):
            if self.draft.tokens[child] == token:
                return child
        return None

    def first_child(self) -> int | None:
        """Return the first child of the current node in draw order, or None."""
        return next(iter(self.draft.children(self.node)), None)

    def descend(self, child: int, *, changed: bool = False, probs: Tensor | None = None) -> None:
        """Accept `child`. `probs` is the distribution it was drawn from; the default is the
        verifier's."""
        self._note(changed, probs)
        self._path.append(child)
        self.node = child
        self.ended = self.view.ends(int(self.draft.tokens[child]))

    def emit(self, token: int) -> Verdict:
        """End the walk with `token` as the correction or bonus token."""
        self._note(False, None)
        return self._verdict(token)

    def end(self) -> Verdict:
        """End the walk after an accepted end token; no next token follows."""
        return self._verdict(None)

    def _note(self, changed: bool, probs: Tensor | None) -> None:
        self._changed.append(changed)
        if self.with_probs:
            self._distributions.append(self.view.probs(self.node) if probs is None else probs)

    def _verdict(self, next_token: int | None) -> Verdict:
        sources = [self.draft.sources[node] for node in self._path]
        if next_token is not None:
            sources.append(self.view.name)
        return Verdict(
            path=tuple(self._path),
            tokens=tuple(int(self.draft.tokens[node]) for node in self._path),
            next_token=next_token,
            changed=tuple(self._changed),
            sources=tuple(sources),
            distributions=tuple(self._distributions),
        )
