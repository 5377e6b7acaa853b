"""Modes and trees by name, for whoever lists or checks them without loading PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODES: dict[str, str] = {
    "exact": "the target's own text, token for token",
    "distribution": "another sample of the target's law (outer rejection sampling)",
    "assisted": "PSD_A: the qualifier writes its own text, the target accepts near misses",
    "fuzzy": "PSD_F: near misses are accepted at every level",
    "none": "undrafted decoding",
}


@dataclass(frozen=True, slots=True)
class TreeKind:
    """One way in which a draft model grows trees.

    Attributes:
        summary: which nodes it takes.
        growth: the class, a name of `drafters.neural.growth`.
        options: what it is built with.
    """

    summary: str
    growth: str
    options: Mapping[str, Any] = field(default_factory=dict)


TREES: dict[str, TreeKind] = {
    "top-k": TreeKind("the best children of each node, in a fixed shape", "TopK"),
    "eagle2": TreeKind("the likeliest paths of all, re-ranked (EAGLE-2)", "Eagle2", {"width": 4}),
    "dyspec": TreeKind(
        "whatever is most likely to be tried next, level by level (DySpec)", "DySpecLevels"
    ),
    "rsd-c": TreeKind("siblings drawn without replacement, in a fixed shape (RSD-C)", "RsdC"),
    "rsd-s": TreeKind("stochastic beam search (RSD-S)", "RsdS"),
}
