"""Tree shapes from measurements: which nodes are worth verifying, and how many of them.

The idea of Medusa (arXiv 2401.10774), Sequoia (arXiv 2402.12374) and STAND (arXiv 2506.04708): run
with a large tree, count how often the node at each rank path was accepted, keep the best n.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from outrider.core.errors import OptionError
from outrider.core.types import Draft
from outrider.drafters.statistics.template import Path, Template
from outrider.policies.surface import CostSurface
from outrider.protocols.method import Option


@dataclass(slots=True)
class TreeStatistics:
    """How often the node at each rank path was verified below an accepted parent, and accepted.

    Attributes:
        trials: verifications in which the node was in the draft and its parent was accepted.
        hits: trials in which the node was accepted.
    """

    trials: dict[Path, int] = field(default_factory=dict)
    hits: dict[Path, int] = field(default_factory=dict)

    def note(self, draft: Draft, accepted: Sequence[int]) -> None:
        """Add one verified draft, of which the nodes `accepted` (root to leaf) were kept. The rank
        of a node is its index among its siblings; probes are ignored."""
        path: Path = ()
        for node in (-1, *accepted):
            if node >= 0:
                path = (*path, draft.children(int(draft.parents[node])).index(node))
                self.hits[path] = self.hits.get(path, 0) + 1
            for rank in range(len(draft.children(node))):
                child = (*path, rank)
                self.trials[child] = self.trials.get(child, 0) + 1

    def chance(self, path: Path) -> float:
        """Return the chance that the node is accepted in a draft that contains it: the product of
        hits over trials along its path.
        """
        chance = 1.0
        for size in range(1, len(path) + 1):
            part = path[:size]
            chance *= self.hits.get(part, 0) / max(self.trials.get(part, 0), 1)
        return chance

    def save(self, file: FilePath | str) -> None:
        """Write the counts as JSON."""
        rows = [[list(path), n, self.hits.get(path, 0)] for path, n in self.trials.items()]
        FilePath(file).write_text(json.dumps({"nodes": rows}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: FilePath | str) -> "TreeStatistics":
        """Read a file that `save` wrote. Raises `OptionError` for any other content."""
        try:
            rows = json.loads(FilePath(file).read_text(encoding="utf-8"))["nodes"]
            counts = [(tuple(int(r) for r in path), int(n), int(h)) for path, n, h in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f"{file} holds no counts of tree nodes ({error})",
                hint="Give a file that `save` wrote",
            ) from None
        return cls({p: n for p, n, _ in counts}, {p: h for p, _, h in counts if h})


def optimise_template(statistics: TreeStatistics, nodes: int) -> Template:
    """Return the tree of at most `nodes` nodes with the most expected accepted tokens, best nodes
    first.

    Exactly one path of a draft is accepted, so the expected number is the sum of the nodes'
    chances. No node has a larger chance than its parent, so for every n the best tree consists of
    the n best nodes. With few counts, a later sibling can have a higher estimate than an earlier
    one, although the earlier one must come first. The two are then ordered as one block, by their
    mean (Horn 1972), and the tree is optimal for every size at which it contains only whole blocks.
    Nodes that were never accepted, and that lead to no accepted node, are left out.

    Raises:
        OptionError: no node was ever accepted, or `nodes` is below 1.
    """
    ordered = _ordered(statistics)
    if nodes < 1 or not ordered:
        raise OptionError(
            f"{nodes} nodes are requested, but {len(ordered)} nodes were ever accepted",
            hint="Request at least 1 node, and record drafts of which some are accepted",
        )
    return Template(tuple(ordered[:nodes]))


SHAPE = Option("shape", (str,), "")
"""The option of drafters with a template: the file of counts (`recorded`) or of a template."""


def template_from(file: str, nodes: int) -> Template:
    """Return the template in `file`, or the best one of at most `nodes` nodes by the counts in it.

    Raises:
        OptionError: the file contains neither.
    """
    path = FilePath(file).expanduser()
    try:
        return Template.load(path)
    except OptionError:
        return optimise_template(TreeStatistics.load(path), nodes)


def expected_tokens(template: Template, statistics: TreeStatistics) -> list[float]:
    """Return the expected tokens per round for the first 0, 1, 2, ... nodes of `template`: the
    accepted tokens and the verifier's own token.
    """
    promised = [1.0]
    for path in template.paths:
        promised.append(promised[-1] + statistics.chance(path))
    return promised


def best_size(
    template: Template,
    statistics: TreeStatistics,
    verify: CostSurface,
    draft_seconds: float = 0.0,
) -> int:
    """Return the number of nodes, 0 for no draft, with the most expected tokens per second.

    `verify` gives seconds by the rows of a forward (one more than nodes); `draft_seconds` are the
    seconds of making a draft of any size and learning from it.
    """
    promised = expected_tokens(template, statistics)

    def pace(nodes: int) -> float:
        drafting = draft_seconds if nodes else 0.0
        return promised[nodes] / (verify.seconds(nodes + 1) + drafting)

    return max(range(len(promised)), key=lambda n: (pace(n), -n))


@dataclass(slots=True)
class _Block:
    """Nodes that are drafted together or not at all, in order."""

    paths: list[Path]
    total: float

    @property
    def mean(self) -> float:
        return self.total / len(self.paths)


def _ordered(statistics: TreeStatistics) -> list[Path]:
    """Return all nodes worth drafting, best first, with parents and earlier siblings before
    others.
    """
    paths = _closed(path for path, hits in statistics.hits.items() if hits)
    after: dict[Path, list[_Block]] = {}
    for path in sorted(paths, key=_by_age, reverse=True):  # later nodes are done
        below = after.pop((*path, 0), []) + after.pop((*path[:-1], path[-1] + 1), [])
        below.sort(key=lambda block: -block.mean)
        own = _Block([path], statistics.chance(path))
        while below and below[0].mean > own.mean:
            own = _Block(own.paths + below[0].paths, own.total + below[0].total)
            del below[0]
        after[path] = [own, *below]
    return [path for block in after.get((0,), []) for path in block.paths]


def _by_age(path: Path) -> tuple[int, Path]:
    return len(path), path


def _closed(paths: Iterable[Path]) -> set[Path]:
    """Return the paths together with their ancestors and the earlier siblings of all of them."""
    closed: set[Path] = set()
    for path in paths:
        for size in range(1, len(path) + 1):
            closed |= {(*path[: size - 1], rank) for rank in range(path[size - 1] + 1)}
    return closed
