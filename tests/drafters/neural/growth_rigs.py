"""Growths by name, and a memory for them to grow over."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from outrider.core.types import Draft, Draw
from outrider.drafters.neural.growth import (
    DySpec,
    DySpecLevels,
    Eagle2,
    Growth,
    IidTree,
    Outlook,
    Picking,
    Plot,
    RsdC,
    RsdS,
    Spine,
    TopK,
    grow_all,
)
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.warps import Support

VOCAB = 4
GROWTHS: dict[str, Growth] = {
    "top_k": TopK((3, 2, 2)),
    "eagle2": Eagle2(width=3),
    "dyspec": DySpec(),
    "dyspec_levels": DySpecLevels(),
    "dyspec_at": DySpecLevels(threshold=0.1),
    "rsd_c": RsdC((3, 2, 2)),
    "rsd_s": RsdS(3),
    "iid": IidTree(3),
    "spine": Spine(widths=(1, 2, 3, 3), sampled=(1, 2, 3, 3)),
}


@dataclass
class Memory:
    """A memory of probabilities: the next token follows from the last one and the depth alone."""

    table: np.ndarray
    plots: Sequence[Plot]
    breadth: int = VOCAB
    readings: int = 0
    rows: int = 0

    def scores(self, plot: Plot, node: int) -> np.ndarray:
        last = plot.tokens[node] if node >= 0 else 0
        return self.table[plot.depth_of(node) % len(self.table), last]

    def __call__(self, asked: Sequence[tuple[int, Sequence[int]]]) -> list[list[Outlook | None]]:
        self.readings += 1
        self.rows += sum(len(nodes) for _, nodes in asked)
        return [[self.outlook(self.plots[i], n) for n in nodes] for i, nodes in asked]

    def outlook(self, plot: Plot, node: int) -> Outlook:
        scores = torch.from_numpy(self.scores(plot, node))
        support = Support(torch.arange(VOCAB), scores)
        return Outlook.of(support, plot.picking, key=plot.key(node), most=self.breadth)


def tables(seed: int, scale: float = 1.5) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((3, VOCAB, VOCAB))


def plot(picking: Picking, *, depth: int = 4, nodes: int = 12, sample: int = 0, **options) -> Plot:
    sampler = Sampler(SamplingParams(temperature=1.0, seed=1), sample=sample, **options)
    return Plot(sampler=sampler, generated=[1, 2], depth=depth, nodes=nodes, picking=picking)


def grown(growth: Growth, plots: list[Plot], table: np.ndarray) -> Memory:
    memory = Memory(table, plots, breadth=min(growth.breadth, VOCAB))
    grow_all(growth, plots, memory)
    return memory


def drafted(own: Plot, draw: Draw = Draw.DETERMINISTIC, laws: bool = False) -> Draft:
    return own.draft("memory", origin="memory", draw=draw, laws=laws)


PICKINGS = st.sampled_from(list(Picking))
