"""The longest path of acceptable nodes, for rules that judge each node independently."""

from collections.abc import Callable
from dataclasses import dataclass

from outrider.acceptance.changes import has_room
from outrider.acceptance.verdicts import Walk
from outrider.core.types import Draft, Verdict
from outrider.protocols.view import View

Judge = Callable[[View, int, int], tuple[bool, float]]
"""`(view, node, token)` -> whether `token` is acceptable after `node` although it is not the
verifier's choice, and its log-likelihood there."""


@dataclass(frozen=True, slots=True)
class _Path:
    nodes: tuple[int, ...] = ()
    changed: tuple[bool, ...] = ()
    likelihood: float = 0.0

    @property
    def rank(self) -> tuple[int, float]:
        return len(self.nodes), self.likelihood


def longest_path(draft: Draft, view: View, judge: Judge, max_changed: float | None) -> Verdict:
    """Accept the longest path on which every token is the verifier's choice or passes `judge`, and
    whose changes stay within the budget. Among paths of equal length the most likely wins, then the
    first. The verifier's choice follows."""
    best, open_paths = _Path(), [_Path()]
    while open_paths:
        path = open_paths.pop(0)
        if path.rank > best.rank:
            best = path
        node = path.nodes[-1] if path.nodes else -1
        if node < 0 or not view.ends(int(draft.tokens[node])):
            open_paths += _longer(path, node, draft, view, judge, max_changed)
    walk = Walk(draft, view, with_probs=False)
    for node, changed in zip(best.nodes, best.changed, strict=True):
        walk.descend(node, changed=changed)
    return walk.end() if walk.ended else walk.emit(view.choose(walk.node))


def _longer(
    path: _Path, node: int, draft: Draft, view: View, judge: Judge, max_changed: float | None
) -> list[_Path]:
    """Return `path` extended by each acceptable child of its last node."""
    found: list[_Path] = []
    for child in draft.children(node):
        token = int(draft.tokens[child])
        changed = token != view.choose(node)
        passes, likelihood = judge(view, node, token)
        if changed and (
            not passes or not has_room(max_changed, view.ledger, len(path.nodes), sum(path.changed))
        ):
            continue
        found.append(
            _Path(
                (*path.nodes, child),
                (*path.changed, changed),
                path.likelihood + likelihood,
            )
        )
    return found
