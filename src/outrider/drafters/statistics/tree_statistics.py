"""Tree shapes from experience: which nodes are worth verifying, and how many of them.

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
from outrider.policies.curve import CostCurve
from outrider.protocols.method import Option


@dataclass(slots=True)
class TreeStatistics:
    """How often the node at each rank path was verified below an accepted parent, and accepted.

    Attributes:
        trials: verifications in which the node stood in the draft and its parent was accepted.
        hits: those in which the node was accepted.
    """

    trials: dict[Path, int] = field(default_factory=dict)
    hits: dict[Path, int] = field(default_factory=dict)

    def note(self, draft: Draft, accepted: Sequence[int]) -> None:
        """Add one verified draft, of which the nodes `accepted` (root to leaf) were kept. The rank
        of a node is its place among its siblings; probes do not count."""
        path: Path = ()
        for node in (-1, *accepted):
            if node >= 0:
                path = (*path, draft.children(int(draft.parents[node])).index(node))
                self.hits[path] = self.hits.get(path, 0) + 1
            for rank in range(len(draft.children(node))):
                child = (*path, rank)
                self.trials[child] = self.trials.get(child, 0) + 1

    def chance(self, path: Path) -> float:
        """Share of drafts in which the node is accepted, if they all hold it: the product, along
        its path, of hits over trials."""
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
        """Read what `save` wrote. Raises `OptionError` for anything else."""
        try:
            rows = json.loads(FilePath(file).read_text(encoding="utf-8"))["nodes"]
            counts = [(tuple(int(r) for r in path), int(n), int(h)) for path, n, h in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f"{file} holds no counts of tree nodes ({error})", hint="Give a file `save` wrote"
            ) from None
        return cls({p: n for p, n, _ in counts}, {p: h for p, _, h in counts if h})


def optimise_template(statistics: TreeStatistics, nodes: int) -> Template:
    """The tree of at most `nodes` nodes with the most expected accepted tokens, best nodes first.

    Exactly one path of a draft is accepted, so the expected number is the sum of the nodes'
    chances. No node has a better one than its parent, so the best tree is that of the best nodes,
    for every n. With few counts a younger sibling may have been luckier than an elder, which must
    stand before it all the same; the two are then ordered as one block, by their mean (Horn 1972),
    and the tree is the best of its size wherever it holds whole blocks. Nodes that were never
    accepted, and lead to none that was, are left out.

    Raises:
        OptionError: nothing was ever accepted, or fewer than 1 node is asked for.
    """
    ordered = _ordered(statistics)
    if nodes < 1 or not ordered:
        raise OptionError(
            f"a tree of {nodes} nodes from {len(ordered)} nodes that were ever accepted",
            hint="Record drafts that are accepted at times, and ask for at least 1 node",
        )
    return Template(tuple(ordered[:nodes]))


SHAPE = Option("shape", (str,), "")
"""The option of drafters with a template: a file of counts (`recorded`), or a template's own."""


def template_from(file: str, nodes: int) -> Template:
    """The template in `file`, or the best one of at most `nodes` nodes by the counts in it.

    Raises:
        OptionError: it holds neither.
    """
    path = FilePath(file).expanduser()
    try:
        return Template.load(path)
    except OptionError:
        return optimise_template(TreeStatistics.load(path), nodes)


def expected_tokens(template: Template, statistics: TreeStatistics) -> list[float]:
    """Tokens a round that the first 0, 1, 2, ... nodes of `template` promise: the accepted ones
    and the verifier's own."""
    promised = [1.0]
    for path in template.paths:
        promised.append(promised[-1] + statistics.chance(path))
    return promised


def best_size(
    template: Template,
    statistics: TreeStatistics,
    verify: CostCurve,
    draft_seconds: float = 0.0,
) -> int:
    """The number of nodes, 0 for no draft, with the most expected tokens a second.

    `verify` gives seconds by the rows of a forward (one more than nodes); `draft_seconds` are those
    of making a draft of any size and learning from it.
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
    """All nodes worth drafting in the order of their promise, parents and elder siblings first."""
    paths = _closed(path for path, hits in statistics.hits.items() if hits)
    after: dict[Path, list[_Block]] = {}
    for path in sorted(paths, key=_by_age, reverse=True):  # whoever must come later is done
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
    """These paths, their ancestors, and the elder siblings of all of them."""
    closed: set[Path] = set()
    for path in paths:
        for size in range(1, len(path) + 1):
            closed |= {(*path[: size - 1], rank) for rank in range(path[size - 1] + 1)}
    return closed
