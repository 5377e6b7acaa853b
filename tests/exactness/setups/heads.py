"""Heads beside tiny targets, and the drafters that run them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from outrider.drafters import Fallback, Lookup, ModelDrafter, Qualified, TreeDrafter
from outrider.drafters.combine.merge import Merge
from outrider.drafters.copying.suffix import Suffix
from outrider.drafters.neural.growth import Clover, Eagle2, RsdS
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.heads.clover.config import HEAD_NORM
from outrider.models.heads.loading import HeadPair, run_head
from outrider.models.llama.decoder import Decoder
from outrider.policies import FixedLength
from outrider.protocols import Drafter
from outrider.strategy.auto import head_drafter
from outrider.training.heads.start import Teacher
from tests.exactness.setups.checkpoints import RUNNERS
from tests.models.heads.clover.setups import clover_config, clover_numbers
from tests.models.heads.setups import head_config, make_target, numbers

HEADED = tuple(
    (runner, kind)
    for runner, kind in (
        *(
            (runner, kind)
            for runner in ("eager", "native", "int8")
            for kind in ("hinted", "eagle3")
        ),
        ("native", "eagle1"),
        ("int8", "fspad"),
        ("native", "clover"),
    )
    if runner in RUNNERS
)
"""Runners that store their states, with kinds of heads."""


def make_pair(folder: Path, runner: str, kind: str, draft: int = 40, **changes: Any) -> HeadPair:
    """A random head, whose best tokens are often those of the target when both are sampled."""
    teacher = Teacher.of(open_checkpoint(folder))
    target = RUNNERS[runner](folder)
    if kind == "clover":
        clover = clover_config(teacher.config, draft, layers=1)
        tensors = clover_numbers(clover)
        tensors[HEAD_NORM] = tensors[HEAD_NORM] * 0.3
        return run_head(clover, tensors | changes, target, name=kind)
    config = head_config(teacher, kind, draft)
    tensors = numbers(config)
    if not config.predicts_states:
        tensors["norm.weight"] = tensors["norm.weight"] * 0.3
    return run_head(config, tensors | changes, target, name=kind)


def drafters(pair: HeadPair, folder: Path) -> dict[str, Callable[[], Drafter]]:
    """One of each."""
    head = pair.head
    chain = head_drafter(head, 0.0)
    tree = TreeDrafter(model=head, growth=Eagle2(width=3))
    copies = Lookup(max_ngram=3, min_ngram=1)

    def below() -> Drafter:
        qualifier = Decoder.load(folder)
        return Qualified(drafter=chain, qualifier=qualifier, policy=FixedLength(2))

    return {
        "chain": lambda: chain,
        "model": lambda: ModelDrafter(model=head),
        "tree": lambda: tree,
        "clover-tree": lambda: replace(tree, growth=Clover(least=0.1)),
        "sampled-tree": lambda: replace(tree, growth=RsdS(width=3)),
        "fallback": lambda: Fallback(first=Suffix(), second=chain),
        "merge": lambda: Merge(first=copies, second=tree),
        "qualified": below,
    }


NAMES = ("chain", "model", "tree", "clover-tree", "sampled-tree", "fallback", "merge", "qualified")

__all__ = ["HEADED", "NAMES", "drafters", "make_pair", "make_target"]
