"""Language-model guidance of captions of drawn scenes: what is named, and how fluent it is.

    python -m benchmarks.guidance.prompted.captions

`tiny-vision` captions scenes with known content. Outside language models in its vocabulary: the
language model of the `tiny` family (texts, no captions; it reads a text of its own), counts of four
tokens in exact sentences about other scenes, and the same of vague sentences. Beside them: the
captioner, classifier-free guidance, the weights without the outside model (the idea switched off),
the outside model added without subtracting the captioner's own prior (beta 0), and counts of single
tokens. Greedy. `perplexity` of a caption is that under the counts of exact sentences and under the
language model. Intervals draw scenes; gains are paired with the captioner.
"""

import argparse
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time

import torch
from benchmarks.guidance.pairs import rows_of
from benchmarks.guidance.prompted.outside import Counts, Padded, learnt
from benchmarks.guidance.prompted.written import interval
from benchmarks.long_inputs.intervals import bootstrap
from torch.nn.functional import cross_entropy

from outrider import Generator, load
from outrider.captioning.captioner import QUESTION
from outrider.captioning.metrics.attributes import facts
from outrider.captioning.scenes.phrases import VAGUE_MANNER
from outrider.captioning.scenes.scenes import Scenes
from outrider.core.types import Prompt
from outrider.guidance.classifier_free import ClassifierFree
from outrider.guidance.lm_guidance import LmGuidance
from outrider.guidance.recipe import Parts, Recipe
from outrider.protocols import LanguageModel

ASKED = "There was a picture on the wall. In the picture you could see"
"""What the language model of the `tiny` family reads."""


@dataclass(frozen=True)
class System:
    """How captions are written.

    Attributes:
        outside: the outside model; empty: none.
        alpha: weight of the captioner, or the scale of classifier-free guidance.
        beta: weight of the captioner without the image.
        weight: of the outside model.
    """

    outside: str = ""
    alpha: float = 1.0
    beta: float = 0.0
    weight: float = 1.0


OUTSIDE = ("language model", "exact counts", "vague counts", "single tokens")
SYSTEMS: dict[str, System] = {
    "captioner": System(),
    "classifier-free 1.5": System(alpha=1.5),
    "classifier-free 2": System(alpha=2.0),
    **{
        f"{name}, {alpha:g} - {beta:g}": System(name, alpha, beta)
        for name in OUTSIDE
        for alpha, beta in ((1.0, 0.5), (1.0, 0.0))
    },
    "exact counts, 2 - 1": System("exact counts", 2.0, 1.0),
    "language model, 1 - 0.5, weight 0.3": System("language model", 1.0, 0.5, 0.3),
    "language model, 1 - 0, weight 0.3": System("language model", 1.0, 0.0, 0.3),
    "no outside model, 1 - 0.5": System("exact counts", 1.0, 0.5, 0.0),
    "exact counts, 1 - 0.9": System("exact counts", 1.0, 0.9),
    "exact counts alone": System("exact counts"),
}


@dataclass(frozen=True)
class Row:
    """One caption.

    Attributes:
        system: which wrote it.
        scene: its number.
        text: the caption.
        words: how many.
        there: facts of the scene.
        said: facts that the caption names.
        true: those of them that are true.
        surprise: nats of a token by each judge.
        tokens: that were generated.
        seconds: of the processor.
    """

    system: str
    scene: int
    text: str
    words: int
    there: int
    said: int
    true: int
    surprise: dict[str, float]
    tokens: int
    seconds: float


class Setting:
    """The captioner and the outside models."""

    def __init__(self, sentences: int) -> None:
        self.plain = load("tiny-vision", mode="none", threads=1)
        self.target, self.codec = self.plain.strategy.target, self.plain.tokenizer
        assert self.codec is not None
        language = load("tiny", mode="none", threads=1).strategy.target
        size, end = self.target.info.vocab_size, self.target.info.end_ids[-1]
        image = Scenes(seed=0).image(0)
        self.first = self.plain.prompt(QUESTION, images=[image]).token_ids[-1]
        exact = learnt(self.codec, self.first, end, sentences, None)
        vague = learnt(self.codec, self.first, end, sentences, VAGUE_MANNER)
        self.outside: dict[str, LanguageModel] = {
            "language model": Padded(language, size),
            "exact counts": Counts(exact, size, order=4),
            "vague counts": Counts(vague, size, order=4),
            "single tokens": Counts(exact, size, order=0),
        }

    def writer(self, system: System, name: str) -> Generator:
        """Return what writes the captions of a system."""
        recipe: Recipe
        models: dict[str, LanguageModel] = {}
        if name.endswith("alone"):
            return load(self.outside[system.outside], tokenizer=self.codec, mode="none")
        if system.outside:
            models = {"outside": self.outside[system.outside]}
            recipe = LmGuidance(
                model=models["outside"],
                alpha=system.alpha,
                beta=system.beta,
                weight=system.weight,
                text=ASKED if system.outside == "language model" else "",
            )
        else:
            recipe = ClassifierFree(scale=system.alpha)
        model = recipe.build(Parts(target=self.target, models=models, codec=self.codec))
        return load(model, tokenizer=self.codec, mode="none")

    def judged(self, ids: Sequence[int]) -> dict[str, float]:
        """Return the nats of a token of a caption by each judge."""
        assert self.codec is not None
        starts = {"language model": self.codec.encode(ASKED), "exact counts": (self.first,)}
        found: dict[str, float] = {}
        for name, start in starts.items():
            rows = rows_of(self.outside[name], Prompt(token_ids=tuple(start)), ids)
            found[name] = float(cross_entropy(rows.double(), torch.tensor(tuple(ids))))
        return found


def captions(setting: Setting, name: str, scenes: Scenes, numbers: Sequence[int]) -> list[Row]:
    """Caption scenes with one system."""
    system, found = SYSTEMS[name], list[Row]()
    writer = setting.writer(system, name)
    for first in range(0, len(numbers), 16):
        part = numbers[first : first + 16]
        begun = process_time()
        if name.endswith("alone"):
            asked = [Prompt(token_ids=(setting.first,))] * len(part)
            results = writer.generate(asked, max_new_tokens=60, temperature=0.0)
        else:
            images = [[scenes.image(i)] for i in part]
            results = writer.generate(
                [QUESTION] * len(part), images=images, max_new_tokens=60, temperature=0.0
            )
        spent = (process_time() - begun) / len(part)
        for number, result in zip(part, results, strict=True):
            counts = facts(result.text, scenes.truth(number))
            row = Row(
                system=name,
                scene=number,
                text=result.text.strip(),
                words=len(result.text.split()),
                there=counts.there,
                said=counts.said,
                true=counts.true,
                surprise=setting.judged(result.token_ids),
                tokens=len(result.token_ids),
                seconds=spent,
            )
            found.append(row)
    return found


def line(name: str, own: Sequence[Row], plain: Sequence[Row]) -> str:
    """Return a row of the table; shares are means over scenes."""
    recall = [row.true / row.there for row in own]
    old = [row.true / row.there for row in plain]
    false = [(row.said - row.true) / max(row.said, 1) for row in own]
    perplexities: list[str] = []
    for judge in ("exact counts", "language model"):
        mean, low, high = bootstrap([row.surprise[judge] for row in own])
        perplexities.append(f"{math.exp(mean):.1f} [{math.exp(low):.1f}, {math.exp(high):.1f}]")
    gain = [a - b for a, b in zip(recall, old, strict=True)]
    cells = [
        interval(recall, 3),
        "" if name == "captioner" else interval(gain, 3, sign=True),
        interval(false, 3),
        interval([float(row.words) for row in own], 1),
        *perplexities,
        f"{1000 * sum(row.seconds for row in own) / len(own):.0f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Caption the scenes with all systems and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=240)
    parser.add_argument("--sentences", type=int, default=4000, help="that the counts have read")
    parser.add_argument("--seed", type=int, default=81, help="of the scenes")
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--rows", type=Path, help="a file of rows, to write")
    options = parser.parse_args()
    end = perf_counter() + options.seconds
    setting = Setting(options.sentences)
    scenes = Scenes(seed=options.seed)
    print(
        "| system | named | minus captioner | false | words | perplexity, counts |"
        " perplexity, language model | processor ms |"
    )
    print("|---|---|---|---|---|---|---|--:|")
    plain: list[Row] = []
    for name in SYSTEMS:
        if perf_counter() > end:
            print("time is up")
            break
        own = captions(setting, name, scenes, range(options.scenes))
        plain = plain or own
        print(line(name, own, plain), flush=True)
        if options.rows is not None:
            with options.rows.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(row)) + "\n" for row in own)
    print(f"\n{options.scenes} scenes; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
