"""Train the machine that routes FS-GEN, and write it to a file. Needs scikit-learn.

    python -m benchmarks.guidance.train_router router.npz

The target of the tiny family writes greedy texts for the prompts of `outrider bench` that do not
ship with the family. At each token the small model reads the same text; where its best token is not
the target's, it should ask. Both classes have equally many examples, as in the paper (arXiv
2406.12295).
"""

import argparse
from pathlib import Path

import numpy as np
from benchmarks.guidance.pairs import Family, ids_of, other_prompts, rows_of

from outrider.guidance.routing.routers import Machine, top_probs


def fitted(tiny: Family, large: str, small: str, tokens: int, seed: int = 0) -> Machine:
    """Return a machine for a small model and a large one."""
    from sklearn.svm import SVC

    prompts = [ids_of(tiny.codec, prompt) for prompt in other_prompts()]
    writer = tiny.generator(tiny.models[large])
    texts = [
        one.token_ids for one in writer.generate(prompts, max_new_tokens=tokens, temperature=0.0)
    ]
    seen, asks = [], []
    for prompt, text in zip(prompts, texts, strict=True):
        rows = rows_of(tiny.models[small], prompt, text)
        seen.append(top_probs(rows).double().numpy())
        asks.append(rows.argmax(dim=-1).numpy() != np.array(text))
    found, labels = np.concatenate(seen), np.concatenate(asks)
    random = np.random.default_rng(seed)
    fewest = min(int(labels.sum()), int((~labels).sum()))
    kept = np.concatenate(
        [random.choice(np.flatnonzero(labels == kind), fewest, False) for kind in (True, False)]
    )
    gamma = 1.0 / (found.shape[1] * float(found[kept].var()))
    machine = SVC(kernel="rbf", gamma=gamma).fit(found[kept], labels[kept])
    return Machine(
        vectors=machine.support_vectors_,
        weights=machine.dual_coef_[0],
        gamma=gamma,
        bias=float(machine.intercept_[0]),
    )


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("file", type=Path)
    parser.add_argument("--large", default="target")
    parser.add_argument("--small", default="draft")
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    machine = fitted(Family.load(), given.large, given.small, given.tokens)
    machine.save(given.file)
    print(f"{len(machine.weights)} support vectors, gamma {machine.gamma:.2f}")


if __name__ == "__main__":
    main()
