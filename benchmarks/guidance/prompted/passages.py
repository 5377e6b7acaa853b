"""Classifier-free guidance of answers from a passage: how probable is the right answer?

    python -m benchmarks.guidance.prompted.passages smollm2 --data paragraphs.jsonl.zst

One question of each passage (`context` and `qa` in each line). The other prompt is the last token,
the question without the passage, or the question after another passage (the idea switched off).
`sharper` multiplies the plain logits by the scale (a lower temperature). The right answer is read
after all prompts, and the rows are mixed at each scale; scale 1 is the plain model. `best` is the
share of answers of which each token is the most likely one. Intervals draw passages; gains are
paired with the plain model. Counted: rows of the model.
"""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

import torch
from benchmarks.guidance.pairs import rows_of
from benchmarks.guidance.prompted.written import interval
from torch import Tensor

from outrider import load
from outrider.core.types import Prompt
from outrider.guidance.mix import mix
from outrider.inputs.given import TextCodec
from outrider.inputs.lines import numbered_lines
from outrider.protocols import LanguageModel

SCALES = (1.25, 1.5, 2.0)
OTHERS = ("last token", "without the passage", "another passage")


@dataclass(frozen=True)
class Asked:
    """A passage, one question, and its answer."""

    passage: str
    question: str
    answer: str

    def text(self, passage: str) -> str:
        """Return the prompt with a passage."""
        before = f"{passage}\n\n" if passage else ""
        return f"{before}Question: {self.question}\nAnswer:"


@dataclass(frozen=True)
class Found:
    """What a system says of the right answer.

    Attributes:
        probability: of the whole answer.
        loss: of a token, in nats.
        best: whether each token is the most likely one.
    """

    probability: float
    loss: float
    best: float

    @classmethod
    def of(cls, logits: Tensor, answer: tuple[int, ...]) -> "Found":
        """Judge the rows before the tokens of the answer."""
        known = torch.log_softmax(logits.double(), dim=-1)
        own = known[torch.arange(len(answer)), list(answer)]
        best = known.argmax(dim=-1).tolist() == list(answer)
        return cls(float(own.sum().exp()), -float(own.mean()), float(best))


def passages(path: Path, longest: int) -> Iterator[Asked]:
    """Yield the first question of each passage of at most `longest` words."""
    for _, line in numbered_lines(path):
        record = json.loads(line)
        if len(record["context"].split()) <= longest:
            first = record["qa"][0]
            yield Asked(record["context"], first["q"].strip(), first["a"])


def systems(
    model: LanguageModel, codec: TextCodec, asked: Asked, other: str
) -> tuple[dict[str, Found], int]:
    """Return what all systems say of one answer, and the rows that were read."""
    ids = codec.encode(asked.text(asked.passage))
    whole = codec.encode(f"{asked.text(asked.passage)} {asked.answer}")
    if whole[: len(ids)] != ids:
        raise ValueError("the answer changes the tokens of the prompt")
    answer = tuple(whole[len(ids) :])
    views = {
        "": ids,
        "last token": ids[-1:],
        "without the passage": codec.encode(asked.text("")),
        "another passage": codec.encode(asked.text(other)),
    }
    prompts = {name: Prompt(token_ids=tuple(view)) for name, view in views.items()}
    rows = {name: rows_of(model, prompt, answer) for name, prompt in prompts.items()}
    found = {"plain": Found.of(rows[""], answer)}
    for scale in SCALES:
        found[f"sharper, {scale:g}"] = Found.of(rows[""] * scale, answer)
    for name in OTHERS:
        for scale in SCALES:
            mixed = mix([rows[""], rows[name]], [scale, 1 - scale])
            found[f"{name}, {scale:g}"] = Found.of(mixed, answer)
        found[f"{name}, 0 (the other prompt alone)"] = Found.of(rows[name], answer)
    return found, sum(len(view) + len(answer) - 1 for view in views.values())


def main() -> None:
    """Judge the answers and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--longest", type=int, default=160, help="words of a passage")
    parser.add_argument("--seconds", type=float, default=540.0)
    options = parser.parse_args()
    end = perf_counter() + options.seconds
    generator = load(options.model, mode="none", threads=1)
    model, codec = generator.strategy.target, generator.tokenizer
    assert codec is not None
    given = list(passages(options.data, options.longest))[: options.count]
    found: dict[str, list[Found]] = {}
    count, begun = 0, process_time()
    for number, asked in enumerate(given):
        if perf_counter() > end:
            break
        # Neighbours are often passages of one text: half the list lies between the two.
        other = given[(number + len(given) // 2) % len(given)].passage
        answers, rows = systems(model, codec, asked, other)
        count += rows
        for name, one in answers.items():
            found.setdefault(name, []).append(one)
    plain = found["plain"]
    print(f"{len(plain)} passages\n")
    print("| other prompt, scale | best | minus plain | probability | minus plain | loss |")
    print("|---|---|---|---|---|---|")
    for name, own in found.items():
        pairs = list(zip(own, plain, strict=True))
        gain = interval([a.best - b.best for a, b in pairs], 3, sign=True)
        more = interval([a.probability - b.probability for a, b in pairs], 3, sign=True)
        cells = [
            interval([one.best for one in own], 3),
            "" if name == "plain" else gain,
            interval([one.probability for one in own], 3),
            "" if name == "plain" else more,
            interval([one.loss for one in own], 2),
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{count} rows, {process_time() - begun:.0f} processor seconds")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
