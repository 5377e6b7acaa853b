"""What Medusa heads achieve on recorded texts that training has not seen.

    python -m benchmarks.heads.medusa HEAD --target TARGET --texts RUN/texts --held-out 120

`outrider train head` writes HEAD and the texts; its first `held_out` texts are held out. The tree
is searched with the accuracies of one half of them and judged on the other one, both ways round.
Printed are the share of right best tokens by head among chains that were right so far, and the
tokens of a round with chains and with the tree, each with the 95 % interval of a bootstrap over
texts. `untrained` heads give the logits of the target's own head for every place, which switches
the method off.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from outrider.drafters.heads.static_tree import chain_tree, greedy_tree
from outrider.drafters.statistics.template import Template
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.medusa.config import RANKS, MedusaConfig
from outrider.models.heads.medusa.module import MedusaModule, untrained
from outrider.models.sources.families import family
from outrider.models.sources.finding import local_folder
from outrider.training.heads.data import RecordedTexts
from outrider.training.heads.start import Teacher
from outrider.training.heads.unroll import medusa_steps

Ranks = NDArray[np.int64]
DRAWS = 1000


@torch.inference_mode()
def ranks_of(
    head: MedusaModule, texts: RecordedTexts, count: int, ids: torch.Tensor
) -> list[Ranks]:
    """Return for each text `[starts, heads]` the rank of the true token; -1 if it is not among the
    best, or beyond the text."""
    found: list[Ranks] = []
    for place in texts.places[:count]:
        batch = texts.batch([place])
        ranks = np.full((place.starts, head.config.heads), -1)
        for number, step in enumerate(medusa_steps(head, batch, head.config.heads)):
            best = ids[step.logits.topk(RANKS, dim=-1).indices]
            hits = (best == batch.targets(number)[step.valid][:, None]).numpy()
            ranks[: len(hits), number] = np.where(hits.any(1), hits.argmax(1), -1)
        found.append(ranks)
    return found


def accuracies(texts: Sequence[Ranks]) -> NDArray[np.float64]:
    """Return `[heads, ranks]` how often the token of each rank is right."""
    rows = np.concatenate(texts)
    return np.stack([(rows == rank).mean(0) for rank in range(RANKS)], axis=1)


def walk(ranks: Ranks, tree: Template) -> tuple[int, int]:
    """Return tokens and rounds of decoding a text with a tree."""
    paths, at, rounds = set(tree.paths), 0, 0
    while at < len(ranks):
        row = tuple(ranks[at].tolist())
        kept = 0
        while kept < len(row) and row[: kept + 1] in paths:
            kept += 1
        at, rounds = at + kept + 1, rounds + 1
    return len(ranks), rounds


def interval(counts: NDArray[np.int64]) -> str:
    """Return the ratio of the sums of two columns, with its interval over rows."""
    rng = np.random.default_rng(0)
    drawn = counts[rng.integers(0, len(counts), (DRAWS, len(counts)))].sum(1)
    low, high = np.quantile(drawn[:, 0] / np.maximum(drawn[:, 1], 1), (0.025, 0.975))
    whole = counts.sum(0)
    return f"{whole[0] / max(whole[1], 1):.3f} [{low:.3f}, {high:.3f}]"


def by_step(texts: Sequence[Ranks], step: int) -> NDArray[np.int64]:
    """Return for each text right and tried best tokens of a step, after right ones."""
    counts = []
    for ranks in texts:
        seen = ranks[: max(len(ranks) - step, 0)]
        alive = (seen[:, :step] == 0).all(1)
        counts.append((int((alive & (seen[:, step] == 0)).sum()), int(alive.sum())))
    return np.array(counts)


def tree_counts(texts: Sequence[Ranks], make: Callable[[NDArray[np.float64]], Template]):
    """Return tokens and rounds of each text, with the tree of the other half of the texts."""
    halves = texts[::2], texts[1::2]
    parts = [
        [walk(ranks, make(accuracies(other))) for ranks in own]
        for own, other in (halves, halves[::-1])
    ]
    return np.array([*parts[0], *parts[1]])


def main() -> None:
    """Print the table."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("head", type=Path)
    asked.add_argument("--target", default="smollm2")
    asked.add_argument("--texts", type=Path, required=True)
    asked.add_argument("--held-out", type=int, default=120)
    asked.add_argument("--threads", type=int, default=1)
    given = asked.parse_args()
    torch.set_num_threads(given.threads)
    source = family(given.target)["target"] if given.target == "tiny" else given.target
    teacher = Teacher.of(open_checkpoint(local_folder(source)))
    file = read_head(given.head, layers=teacher.config.num_layers)
    config, ids = file.config, file.tensors["ids"].long()
    assert isinstance(config, MedusaConfig)
    texts = RecordedTexts(given.texts, teacher.config.vocab_size, config.heads, hints=False)
    for name, tensors in (("trained", file.tensors), ("untrained", untrained(config))):
        head = MedusaModule(config, tensors, teacher.lm_head[ids])
        found = ranks_of(head, texts, given.held_out, ids)
        print(f"{name}, {len(found)} texts, {sum(map(len, found))} tokens")
        for step in range(config.heads):
            print(f"  right best tokens of head {step + 1}: {interval(by_step(found, step))}")
        for length in range(1, config.heads + 1):
            counts = tree_counts(found, lambda _, length=length: chain_tree(length))
            print(f"  tokens a round, chains of {length}: {interval(counts)}")
        for nodes in (8, 16, 32, 64):
            counts = tree_counts(found, lambda rates, nodes=nodes: greedy_tree(rates, nodes))
            print(f"  tokens a round, tree of {nodes} nodes: {interval(counts)}")


if __name__ == "__main__":
    main()
