"""Evidence by the beginnings of sentences (CFIC) beside BM25, in paragraphs that are joined.

    python -m benchmarks.search.cfic smollm2 --paragraphs paragraphs.jsonl.zst --number 30

A document is `--join` paragraphs, one of which answers a question; the evidence is the sentence
with the answer. `no prefix` and `no skip` switch off a rule each. `bm25` are the sentences with the
best score for the question, and `random` any sentences, both as many as `cfic` returns. F1 compares
the words of what is returned with those of the evidence; `hit` is whether the evidence is in it.
Intervals draw questions, and differences are paired.
"""

import argparse
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
from benchmarks.search.first_finish import mean
from bm25s import BM25
from rich.progress import track

from outrider import load
from outrider.search import Candidate, Search, Task
from outrider.search.spans.cfic import Cfic
from outrider.search.spans.sentences import sentences_of
from outrider.training.core.corpus import read_records

ASK = "\n\nCopy the sentence of this text that answers the question: "


@dataclass(frozen=True, kw_only=True)
class Several(Search):
    """Runs several strategies on one prompt, which is read once.

    Attributes:
        parts: the strategies by name.
        found: what each of them returned.
    """

    parts: dict[str, Search]
    found: dict[str, Sequence[Candidate]] = field(default_factory=dict[str, Sequence[Candidate]])

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the candidates of the last strategy; `found` has them all."""
        for name, part in self.parts.items():
            self.found[name] = part.run(task)
        return [*self.found.values()][-1]


def words(text: str) -> list[str]:
    """Return lower-case words."""
    return re.findall(r"\w+", text.lower())


def f1(found: str, evidence: str) -> float:
    """Return F1 over words."""
    a, b = Counter(words(found)), Counter(words(evidence))
    same = sum((a & b).values())
    return 2 * same / (sum(a.values()) + sum(b.values())) if same else 0.0


def by_bm25(sentences: Sequence[str], question: str, count: int) -> list[str]:
    """Return the sentences with the best scores."""
    model = BM25(method="lucene")
    model.index([words(one) for one in sentences], show_progress=False)
    scores = model.get_scores(words(question))
    return [sentences[i] for i in np.argsort(-scores, kind="stable")[:count]]


def main() -> None:
    """Find the evidence of all questions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--paragraphs", type=Path, required=True)
    parser.add_argument("--number", type=int, default=30)
    parser.add_argument("--join", type=int, default=3)
    parser.add_argument("--spans", type=int, default=3)
    parser.add_argument("--reach", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600.0, help="no question begins later")
    given = parser.parse_args()
    generator = load(given.model, drafter="none", threads=given.threads)
    records = list(read_records(given.paragraphs))
    rng = np.random.default_rng(0)
    begun = perf_counter()
    scores: dict[str, list[float]] = {}
    hits: dict[str, list[float]] = {}
    inside: list[bool] = []
    for number in track(range(given.number)):
        if perf_counter() - begun > given.seconds:
            break
        at = number * (len(records) - given.join) // given.number
        joined = records[at : at + given.join]
        qa = joined[number % given.join]["qa"][0]
        text = "\n\n".join(record["context"] for record in joined)
        sentences = [text[a:b] for a, b in sentences_of(text)]
        own = [text[a:b] for a, b in sentences_of(joined[number % given.join]["context"])]
        evidence = next((one for one in own if qa["a"] in one), None)
        if evidence is None:
            continue
        base = {"document": text, "spans": given.spans, "reach": given.reach}
        several = Several(
            parts={
                "cfic": Cfic(**base),
                "no prefix": Cfic(**base, prefix=False),
                "no skip": Cfic(**base, skip=False),
            }
        )
        generator.search(several, [{"role": "user", "content": text + ASK + qa["q"]}])
        texts = {name: [one.text for one in found] for name, found in several.found.items()}
        inside += [one in text for own_texts in texts.values() for one in own_texts]
        count = sum(len(sentences_of(one)) for one in texts["cfic"])
        texts["bm25"] = by_bm25(sentences, qa["q"], count)
        texts["random"] = [sentences[i] for i in rng.permutation(len(sentences))[:count]]
        for name, parts in texts.items():
            scores.setdefault(name, []).append(f1(" ".join(parts), evidence))
            hits.setdefault(name, []).append(float(any(evidence in part for part in parts)))
    print(f"{len(scores['cfic'])} questions; parts of the document: {sum(inside)} of {len(inside)}")
    print("| | F1 | hit | F1 of cfic minus this |\n|---|---|---|---|")
    for name, values in scores.items():
        gain = [a - b for a, b in zip(scores["cfic"], values, strict=True)]
        print(f"| {name} | {mean(values)} | {mean(hits[name])} | {mean(gain)} |")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
