"""Growths by name, and a memory for them to grow over."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from outrider.core.types import Draft, Draw
from outrider.drafters.neural.growth import (
    Clover,
    DySpec,
    DySpecLevels,
    Eagle2,
    Growth,
    IidTree,
    NextTokens,
    Picking,
    RsdC,
    RsdS,
    Spine,
    TopK,
    TreeBuilder,
    grow_all,
)
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.warps import Support

VOCAB = 4
GROWTHS: dict[str, Growth] = {
    "top_k": TopK((3, 2, 2)),
    "eagle2": Eagle2(width=3),
    "clover": Clover(),
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
    builders: Sequence[TreeBuilder]
    breadth: int = VOCAB
    readings: int = 0
    rows: int = 0

    def scores(self, builder: TreeBuilder, node: int) -> np.ndarray:
        last = builder.tokens[node] if node >= 0 else 0
        return self.table[builder.depth_of(node) % len(self.table), last]

    def __call__(self, asked: Sequence[tuple[int, Sequence[int]]]) -> list[list[NextTokens | None]]:
        self.readings += 1
        self.rows += sum(len(nodes) for _, nodes in asked)
        return [[self.following(self.builders[i], n) for n in nodes] for i, nodes in asked]

    def following(self, builder: TreeBuilder, node: int) -> NextTokens:
        scores = torch.from_numpy(self.scores(builder, node))
        support = Support(torch.arange(VOCAB), scores)
        return NextTokens.of(support, builder.picking, key=builder.key(node), most=self.breadth)


def tables(seed: int, scale: float = 1.5) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((3, VOCAB, VOCAB))


def builder(
    picking: Picking, *, depth: int = 4, nodes: int = 12, sample: int = 0, **options
) -> TreeBuilder:
    sampler = Sampler(SamplingParams(temperature=1.0, seed=1), sample=sample, **options)
    return TreeBuilder(sampler=sampler, generated=[1, 2], depth=depth, nodes=nodes, picking=picking)


def grown(growth: Growth, builders: list[TreeBuilder], table: np.ndarray) -> Memory:
    memory = Memory(table, builders, breadth=min(growth.breadth, VOCAB))
    grow_all(growth, builders, memory)
    return memory


def drafted(
    own: TreeBuilder, draw: Draw = Draw.DETERMINISTIC, distributions: bool = False
) -> Draft:
    return own.draft("memory", origin="memory", draw=draw, distributions=distributions)


PICKINGS = st.sampled_from(list(Picking))
