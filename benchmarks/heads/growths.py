"""Tokens a round of trees of a head that grow in several ways, with few nodes.

    python -m benchmarks.heads.growths tiny runs/tiny-clover/tiny-clover \\
        --prompts question.jsonl.zst --nodes 4 8 --growths clover eagle2

`chain` is a chain of as many tokens. Decoding is greedy, so that all systems write the same text,
which is checked. Intervals (95 %) draw prompts; differences are to the first growth and paired by
prompt.
"""

import argparse
from pathlib import Path

import numpy as np
from benchmarks.heads.kinds import RESAMPLES, shown
from benchmarks.real_models.prompts import by_category
from numpy.typing import NDArray

from outrider import load
from outrider.policies import FixedTree


def main() -> None:
    """Answer all prompts with all trees, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("head", type=Path)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--of-each", type=int, default=6)
    parser.add_argument("--characters", type=int, default=400)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--nodes", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--growths", nargs="+", default=["clover", "eagle2", "chain"])
    given = parser.parse_args()
    texts = [text for _, text in by_category(given.prompts, given.of_each, given.characters)]
    print("| nodes | growth | tokens a round | difference |\n|---|---|---|---|")
    for nodes in given.nodes:
        counts = {
            growth: counted(given.model, given.head, growth, nodes, texts, given.max_new_tokens)
            for growth in given.growths
        }
        print(table(nodes, counts), flush=True)


def counted(
    model: str, head: Path, growth: str, nodes: int, texts: list[str], most: int
) -> NDArray[np.int64]:
    """Return `[prompts, 2]` rounds and tokens of greedy answers."""
    drafter = "model" if growth == "chain" else f"tree({growth})"
    size = FixedTree(depth=nodes, nodes=nodes)
    plain = load(model, draft="none", drafter="none", threads=1)
    generator = load(model, draft=head, drafter=drafter, policy=size, threads=1)
    found: list[tuple[int, int]] = []
    for text in texts:
        result = generator.generate(text, max_new_tokens=most)
        if result.token_ids != plain.generate(text, max_new_tokens=most).token_ids:
            raise SystemExit(f"{drafter} has changed the answer to {text!r:.60}")
        found.append((result.speculation.target.rounds, len(result.token_ids)))
    return np.array(found)


def table(nodes: int, counts: dict[str, NDArray[np.int64]]) -> str:
    """Return the rows of one number of nodes."""
    size = len(next(iter(counts.values())))
    picked = np.random.default_rng(0).integers(size, size=(RESAMPLES, size))
    drawn = {name: rate(one[picked]) for name, one in counts.items()}
    whole = {name: rate(one[None])[0] for name, one in counts.items()}
    first, *others = counts
    rows = [f"| {nodes} | {first} | {shown(whole[first], drawn[first])} | |"]
    for name in others:
        gain = shown(whole[name] - whole[first], drawn[name] - drawn[first], sign=True)
        rows.append(f"| {nodes} | {name} | {shown(whole[name], drawn[name])} | {gain} |")
    return "\n".join(rows)


def rate(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the tokens of a round of each draw of prompts, `[draws, prompts, 2]`."""
    rounds, tokens = counts.sum(axis=1).T
    return tokens / rounds


if __name__ == "__main__":
    main()
