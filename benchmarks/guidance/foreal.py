"""FoReaL on the tiny family: quality and cost against the tokens that the target leads with.

    python -m benchmarks.guidance.foreal

The target begins each sentence with `lead` tokens and the draft model finishes it (arXiv
2506.06998). Beside each lead (the idea switched off) the target writes the same share of the tokens
at random places; runs that are as many and as long, but begin elsewhere (the places of the lead's
own text, moved round); and a run of as many tokens in the second half of each sentence, which has
fewer tokens where sentences end before it does. Texts are greedy, one at a time; quality is the
target's judgement: the loss of the text under it, and the share of tokens that it would have
chosen. Costs are per token of the text, after the prompt: forwards of the target, tokens that each
model reads, parameters times tokens of both, and processor seconds, relative to the target alone.
`without a cache` is what the two would read if a model that takes over read the whole text again.
Intervals draw prompts. Rows of the raw figures go to the file of `--rows`.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.guidance.pairs import (
    Family,
    Read,
    ids_of,
    judged,
    other_prompts,
    own_prompts,
    spread,
)
from benchmarks.guidance.routed.places import (
    AtPlaces,
    AtRandom,
    Inside,
    begun,
    half_sentence,
    moved,
)
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.search.intervals import difference, shown

from outrider import Generator
from outrider.core.types import Prompt
from outrider.guidance.mixed import Mixed
from outrider.guidance.recipe import Parts
from outrider.guidance.routing.foreal import Foreal
from outrider.guidance.routing.routed import Routed
from outrider.guidance.routing.sentences import SentencePlaces, pieces
from outrider.guidance.source import Source

ENDLESS = 10**6


@dataclass(frozen=True)
class Made:
    """One text, and what it has cost.

    Attributes:
        text: its tokens.
        tokens: of the text.
        loss: mean loss under the target.
        own: share of tokens that the target would have chosen.
        forwards: of the target.
        target_rows: tokens that the target has read.
        weak_rows: tokens that the weak model has read.
        again: parameters times tokens, if whole texts were read at hand-overs.
        hand_overs: of both models.
        seconds: of the processor.
    """

    text: tuple[int, ...]
    tokens: int
    loss: float
    own: float
    forwards: int
    target_rows: int
    weak_rows: int
    again: float
    hand_overs: int
    seconds: float


def made(
    tiny: Family, generator: Generator, prompt: Prompt, count: int, *, whole: bool = False
) -> Made:
    """Write a text and count; `whole` excludes end tokens."""
    strong, weak = tiny.models["target"], tiny.models["draft"]
    strong.read, weak.read = Read(), Read()
    start = time.process_time()
    found = generator.generate(
        prompt, max_new_tokens=count, min_new_tokens=count if whole else 0, temperature=0.0
    )
    seconds = time.process_time() - start
    seen = judged(strong, prompt, found.token_ids)
    sizes = tiny.parameters("target"), tiny.parameters("draft")
    return Made(
        text=tuple(found.token_ids),
        tokens=len(found.token_ids),
        loss=float(seen.losses.mean()),
        own=float(seen.own.mean()),
        forwards=strong.read.forwards,
        target_rows=strong.read.rows,
        weak_rows=weak.read.rows,
        again=sizes[0] * strong.read.again + sizes[1] * weak.read.again,
        hand_overs=strong.read.hand_overs + weak.read.hand_overs,
        seconds=seconds,
    )


def build(tiny: Family, lead: int) -> Generator:
    """Return the pair with a lead."""
    target, weak = tiny.models["target"], tiny.models["draft"]
    recipe = Foreal(weak=weak, lead=lead)
    return tiny.generator(
        recipe.build(Parts(target=target, models={"weak": weak}, codec=tiny.codec))
    )


def pair(tiny: Family, router: Routed) -> Generator:
    """Return the pair where the target writes what a router says."""
    sources = [Source(model=tiny.models[tier]) for tier in ("target", "draft")]
    return tiny.generator(Mixed(sources, router, "routed"))


class Table:
    """Prints rows of the table, relative to the target alone.

    Attributes:
        alone: the texts of the target.
    """

    def __init__(self, tiny: Family, alone: Sequence[Made]) -> None:
        self.alone = alone
        self._sizes = tiny.parameters("target"), tiny.parameters("draft")
        print(
            "| lead | loss under the target | target's choice | forwards of the target | tokens it"
            " reads | hand-overs | parameters x tokens | without a cache | processor seconds |"
            "\n|---|---|---|--:|--:|--:|--:|--:|---|"
        )

    def add(self, name: str, texts: Sequence[Made], beside: Sequence[Made] = ()) -> None:
        """Print one row; `beside` are the texts at random places."""
        loss = bootstrap([one.loss for one in texts])
        own = bootstrap([one.own for one in texts])
        less = more = ""
        if beside:
            losses, shares = ([getattr(o, f) for o in beside] for f in ("loss", "own"))
            less = f" ({shown(difference([one.loss for one in texts], losses))})"
            more = f" ({shown(difference([one.own for one in texts], shares))})"
        seconds = self._ratio(texts, lambda one: one.seconds)
        print(
            f"| {name} | {loss[0]:.3f} [{loss[1]:.3f}, {loss[2]:.3f}]{less} |"
            f" {own[0]:.1%} [{own[1]:.1%}, {own[2]:.1%}]{more} |"
            f" {_mean(texts, lambda one: one.forwards):.2f} |"
            f" {_mean(texts, lambda one: one.target_rows):.2f} |"
            f" {_mean(texts, lambda one: one.hand_overs):.2f} |"
            f" {self._ratio(texts, self._work)[0]:.2f} |"
            f" {self._ratio(texts, lambda one: one.again)[0]:.2f} |"
            f" {seconds[0]:.2f} [{seconds[1]:.2f}, {seconds[2]:.2f}] |",
            flush=True,
        )

    def _work(self, one: Made) -> float:
        return self._sizes[0] * one.target_rows + self._sizes[1] * one.weak_rows

    def _ratio(
        self, texts: Sequence[Made], of: Callable[[Made], float]
    ) -> tuple[float, float, float]:
        """Return what a token costs, relative to a token of the target alone."""
        return bootstrap(
            [
                of(one) / one.tokens / (of(plain) / plain.tokens)
                for one, plain in zip(texts, self.alone, strict=True)
            ]
        )


def _mean(texts: Sequence[Made], of: Callable[[Made], float]) -> float:
    return sum(map(of, texts)) / sum(one.tokens for one in texts)


def main() -> None:
    """Write all texts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--number", type=int, default=40)
    parser.add_argument("--all-prompts", action="store_true", help="also those of other sets")
    parser.add_argument("--whole", action="store_true", help="exclude end tokens")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--leads", type=int, nargs="+", default=(15, 5, 2, 1, 0))
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--seconds", type=float, default=540.0)
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    tiny = Family.load()
    every = [*own_prompts(), *other_prompts()] if given.all_prompts else own_prompts()
    prompts = [ids_of(tiny.codec, prompt) for prompt in spread(every, given.number)]

    def run(
        name: str,
        generator: Generator,
        places: list[bool] | None = None,
        turned: Sequence[list[bool]] = (),
    ) -> list[Made]:
        made(tiny, generator, prompts[0], 4)  # what is set up on first use is not counted
        found: list[Made] = []
        for number, prompt in enumerate(prompts):
            if places is not None:
                places[:] = turned[number]
            found.append(made(tiny, generator, prompt, given.tokens, whole=given.whole))
            if given.rows is not None:
                row: dict[str, Any] = {"arm": name, "prompt": number, **asdict(found[-1])}
                with given.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        return found

    alone = run("target", tiny.generator(tiny.models["target"]))
    table = Table(tiny, alone)
    table.add("the target alone", alone)
    table.add("no end", run("no end", build(tiny, ENDLESS)))
    for lead in given.leads:
        if time.monotonic() > end:
            print("time is up")
            break
        texts = run(f"lead {lead}", build(tiny, lead))
        share = sum(one.forwards for one in texts) / sum(one.tokens for one in texts)
        if not lead:
            table.add("0", texts)
            continue
        others = run(f"random {lead}", pair(tiny, AtRandom(share)))
        table.add(str(lead), texts, others)
        table.add(f"as many as {lead}, at random", others)
        find = SentencePlaces(pieces(tiny.codec), ENDLESS)
        elsewhere = AtPlaces()
        turned = [moved(begun(find, o.text, lead), i) for i, o in enumerate(texts)]
        runs = run(f"moved {lead}", pair(tiny, elsewhere), elsewhere.places, turned)
        table.add(f"{lead} beside equal runs elsewhere", texts, runs)
        table.add(f"equal runs elsewhere, {lead}", runs)
        skip = half_sentence(find, [one.text for one in alone])
        late = run(f"inside {lead}", pair(tiny, Inside(find, skip, lead)))
        table.add(f"{lead} beside runs after {skip} tokens", texts, late)
        table.add(f"runs of {lead} after {skip} tokens", late)
    table.add("the draft model alone", run("draft", tiny.generator(tiny.models["draft"])))
    print(f"{len(prompts)} prompts; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
