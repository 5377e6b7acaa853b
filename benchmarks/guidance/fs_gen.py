"""FS-GEN on the tiny family: how often the slow side is needed, where, and what routers find.

    python -m benchmarks.guidance.fs_gen

All texts are greedy. First the target's own texts: at which tokens the small model would have
written another one (the collaboration frequency of the paper, arXiv 2406.12295), by place, and by
the ratio of parameters for the three pairs of tiers. Then each router, beside one that asks at
random equally often (the idea switched off): how many of its tokens are those that the target would
have chosen, and the loss of the text under the target. Last, how often the target is read if the
small model drafts for it. Intervals draw prompts. The machine is trained on other prompts
(`train_router.py`) and left out without scikit-learn.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import numpy as np
import torch
from benchmarks.guidance.pairs import (
    Family,
    ids_of,
    judged,
    own_prompts,
    rows_of,
    same_beginning,
    spread,
)
from benchmarks.guidance.train_router import fitted
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.search.intervals import difference, shown

from outrider import load
from outrider.core.types import Prompt
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Gate, Mask
from outrider.guidance.routing import routers
from outrider.guidance.routing.fs_gen import Asking, FsGen
from outrider.guidance.routing.routers import top_probs
from outrider.guidance.routing.sentences import SentencePlaces, pieces
from outrider.guidance.routing.steps import steps_of
from outrider.guidance.source import Source

PAIRS = (("target", "draft"), ("target", "qualifier"), ("qualifier", "draft"))
Text = tuple[Prompt, tuple[int, ...]]


def percent(found: tuple[float, float, float]) -> str:
    """Return a share with its interval as text."""
    mean, low, high = found
    return f"{mean:.1%} [{low:.1%}, {high:.1%}]"


class AtRandom:
    """Asks for a share of the rows."""

    def __init__(self, share: float, seed: int = 0) -> None:
        self.share = share
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, logits: torch.Tensor) -> Mask:
        """Return random rows."""
        return torch.rand(len(logits), generator=self._generator) < self.share


def written(tiny: Family, model: Mixed | str, prompts: Sequence[Prompt], count: int) -> list[Text]:
    """Return the greedy texts of a model."""
    made = tiny.generator(tiny.models[model] if isinstance(model, str) else model)
    found = made.generate(list(prompts), max_new_tokens=count, temperature=0.0)
    return [(p, tuple(one.token_ids)) for p, one in zip(prompts, found, strict=True)]


def scaling(tiny: Family, texts: dict[str, list[Text]]) -> None:
    """Print how often the small model differs, for each pair of tiers."""
    print("| large | small | ratio of parameters | without embeddings | differs |")
    print("|---|---|--:|--:|---|")
    points = []
    bare = {"target": 4_427_008, "qualifier": 907_360, "draft": 221_664}
    for large, small in PAIRS:
        shares = [
            1.0 - float(judged(tiny.models[small], prompt, text).own.mean())
            for prompt, text in texts[large]
        ]
        ratio = tiny.parameters(large) / tiny.parameters(small)
        points.append((ratio, float(np.mean(shares))))
        print(
            f"| {large} | {small} | {ratio:.2f} | {bare[large] / bare[small]:.2f} |"
            f" {percent(bootstrap(shares))} |",
            flush=True,
        )
    ratios, found = np.log(np.array(points)).T
    slope, level = np.polyfit(ratios, found, 1)
    off = np.exp(np.abs(found - level - slope * ratios)).max() - 1
    print(f"\nfrequency = {np.exp(level):.3f} * ratio^{slope:.2f}; largest error {off:.0%}\n")


def places(tiny: Family, texts: Sequence[Text]) -> None:
    """Print how often the small model differs from the target, by place and by certainty."""
    places = SentencePlaces(pieces(tiny.codec), 10**6)
    rows: dict[str, list[tuple[bool, str]]] = {}
    scores: list[tuple[float, float, bool]] = []
    for number, (prompt, text) in enumerate(texts):
        logits = rows_of(tiny.models["draft"], prompt, text)
        differs = logits.argmax(dim=-1).numpy() != np.array(text)
        top = top_probs(logits, 2).numpy()
        for place, wrong in enumerate(differs):
            in_sentence = places.after(text[:place]).written
            names = (
                f"token {_bin(place, (0, 1, 4, 16, 32))} of the text",
                f"token {_bin(in_sentence, (0, 1, 4, 16))} of a sentence",
                f"largest probability {_tenth(float(top[place, 0]))}",
            )
            for name in names:
                rows.setdefault(name, []).append((bool(wrong), str(number)))
            best, second = float(top[place, 0]), float(top[place, 1])
            scores.append((1.0 - best, (second - best) / 2, bool(wrong)))
    print("| place | tokens | differs |\n|---|--:|---|")
    for name in sorted(rows):
        found = bootstrap([float(w) for w, _ in rows[name]], [g for _, g in rows[name]])
        print(f"| {name} | {len(rows[name])} | {percent(found)} |", flush=True)
    wrong = np.array([w for _, _, w in scores])
    for name, column in (("largest probability", 0), ("gap", 1)):
        area = _area(np.array([score[column] for score in scores]), wrong)
        print(f"area under the curve, {name}: {area:.3f}")
    print()


def _bin(place: int, starts: Sequence[int]) -> str:
    """Return the range of a place, counted from 1."""
    start = max(one for one in starts if one <= place)
    ends = [one for one in starts if one > start]
    return f"{start + 1:02d} to {ends[0]:02d}" if ends else f"{start + 1:02d} and later"


def _tenth(value: float) -> str:
    low = min(int(value * 5), 4) / 5
    return f"{low:.1f} to {low + 0.2:.1f}"


def _area(scores: np.ndarray, wrong: np.ndarray) -> float:
    """Return the chance that a token that differs has a higher score than one that does not."""
    order = scores.argsort(kind="stable").argsort() + 1
    count = int(wrong.sum())
    return float((order[wrong].sum() - count * (count + 1) / 2) / (count * (len(wrong) - count)))


def arms(tiny: Family, given: argparse.Namespace) -> Iterator[tuple[str, Gate]]:
    """Yield the routers with their names."""
    yield "never", routers.never
    for threshold in given.max_prob:
        yield f"max-prob < {threshold:g}", routers.max_prob(threshold)
    for threshold in given.gap:
        yield f"half the gap < {threshold:g}", routers.gap(threshold)
    if find_spec("sklearn") is not None:
        yield "svm", fitted(tiny, "target", "draft", given.tokens)
    yield "always", routers.always


def routed(tiny: Family, given: argparse.Namespace, truth: Sequence[Text], end: float) -> None:
    """Print the table of routers."""
    large, small = tiny.models["target"], tiny.models["draft"]
    print(
        "| router | asked | changed, of these | target's choice | more than at random |"
        " loss under the target | less than at random | same beginning |"
        "\n|---|---|---|---|---|---|---|--:|"
    )
    prompts = [prompt for prompt, _ in truth]

    def run(gate: Gate) -> tuple[list[Text], Mixed]:
        mixer = Asking(FsGen(small=small), gate)
        model = Mixed([Source(model=large), Source(model=small)], mixer, "fs-gen")
        return written(tiny, model, prompts, given.tokens), model

    for name, gate in arms(tiny, given):
        texts, model = run(gate)
        steps = [steps_of(model, prompt, text) for prompt, text in texts]
        seen = [judged(large, prompt, text) for prompt, text in texts]
        own = [float(one.own.mean()) for one in seen]
        losses = [float(one.losses.mean()) for one in seen]
        share = float(np.concatenate([one.routed for one in steps]).mean())
        more = less = ""
        if 0.0 < share < 1.0:
            others = [judged(large, *one) for one in run(AtRandom(share))[0]]
            more = shown(difference(own, [float(one.own.mean()) for one in others]))
            less = shown(difference([float(one.losses.mean()) for one in others], losses))
        asked = [one for one in steps if one.routed.any()]
        changed = percent(bootstrap([one.mismatch for one in asked])) if asked else ""
        begins = np.mean([same_beginning(a[1], b[1]) for a, b in zip(texts, truth, strict=True)])
        print(
            f"| {name} | {percent(bootstrap([one.frequency for one in steps]))} | {changed} |"
            f" {percent(bootstrap(own))} | {more} | {np.mean(losses):.3f} | {less} |"
            f" {begins:.0%} |",
            flush=True,
        )
        if time.monotonic() > end:
            print("time is up")
            break


def drafted(tiny: Family, truth: Sequence[Text], tokens: int) -> None:
    """Print how often the target is read if the small model drafts: the paper's third slow side."""
    generator = load(
        tiny.models["target"],
        draft=tiny.models["draft"],
        drafter="model",
        num_speculative_tokens=5,
        guard="off",
        tokenizer=tiny.codec,
    )
    shares, same = [], 0
    for prompt, text in truth:
        found = generator.generate(prompt, max_new_tokens=tokens, temperature=0.0)
        shares.append(found.speculation.target.forwards / len(found.token_ids))
        same += tuple(found.token_ids) == text
    print(
        f"drafting with the small model, 5 tokens: {percent(bootstrap(shares))} forwards of the"
        f" target a token, {same} of {len(truth)} texts are the target's"
    )


def main() -> None:
    """Write, judge, and print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--number", type=int, default=80)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--max-prob", type=float, nargs="+", default=(0.2, 0.3, 0.5, 0.7, 0.9))
    parser.add_argument("--gap", type=float, nargs="+", default=(0.05, 0.15, 0.3))
    parser.add_argument("--seconds", type=float, default=540.0)
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    tiny = Family.load()
    prompts = [ids_of(tiny.codec, prompt) for prompt in spread(own_prompts(), given.number)]
    texts = {tier: written(tiny, tier, prompts, given.tokens) for tier in ("target", "qualifier")}
    scaling(tiny, texts)
    places(tiny, texts["target"])
    routed(tiny, given, texts["target"], end)
    drafted(tiny, texts["target"], given.tokens)
    print(f"{len(prompts)} prompts; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
