"""CAAD on SmolLM2: held-out wordings of stored facts, and questions of which nothing is stored.

    python -m benchmarks.guidance.caad smollm2 --trivia train.jsonl.zst \\
        --reads reads.pkl --seconds 560

The store holds the first wording of each fact. Options are chosen on every second fact, in its held
out wordings, and on every second unknown question; the others judge them. A fact is `known` if each
token of its value is the most likely one after the beginning of the answer, `exact` if that holds
of the whole answer, so that it is the greedy text. An unknown question is `unchanged` if each token
of the model's own greedy answer is still the most likely one. All systems are read on the same
rows. The baseline has all facts in its prompt. `written` is the share of greedy texts that hold the
value. Intervals draw facts, or questions.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from time import perf_counter, process_time

import torch
from benchmarks.guidance.caad_reads import KINDS, LAYERS, Reader, Record, Text, read_all
from benchmarks.guidance.facts import invented, strangers, trivia
from benchmarks.long_inputs.intervals import bootstrap
from torch import Tensor

from outrider import load
from outrider.guidance.recipe import Parts
from outrider.guidance.retrieval.building import stored
from outrider.guidance.retrieval.caad import Caad, Retrieving
from outrider.guidance.retrieval.nearest import Nearest
from outrider.guidance.retrieval.store import LogitStore, Origin
from outrider.protocols import LanguageModel

LEAST = (0.5, 0.7, 0.8, 0.9)
ALPHAS = (0.5, 2.0, 4.0, 8.0)
FLOORS = (0.0, 0.01)


@dataclass
class Score:
    """Figures of one system, with the fact of each."""

    known: list[float] = field(default_factory=list[float])
    exact: list[float] = field(default_factory=list[float])
    chance: list[float] = field(default_factory=list[float])
    facts: list[str] = field(default_factory=list[str])
    unchanged: list[float] = field(default_factory=list[float])


def judged(texts: Sequence[Text], rows: Sequence[Tensor]) -> Score:
    """Compare texts with the most likely tokens."""
    score = Score()
    for text, logits in zip(texts, rows, strict=True):
        logits = logits[: len(text.tokens)]
        hits = logits.argmax(-1) == text.tokens
        if text.group == "unknown":
            score.unchanged.append(float(hits.all()))
            continue
        chances = torch.log_softmax(logits[text.value].float(), -1)
        places = torch.arange(len(chances)), text.tokens[text.value]
        score.chance.append(float(chances[places].sum().exp()))
        score.known.append(float(hits[text.value].all()))
        score.exact.append(float(hits.all()))
        score.facts.append(f"{text.group} {text.fact}")
    return score


def guided(texts: Sequence[Text], store: LogitStore, **options: float) -> Score:
    """Judge texts with the rows that a store changes."""
    mixer = Retrieving(Caad(store=store, **options), store)  # type: ignore[arg-type]
    layer = LAYERS.index(store.origin.layer)
    return judged(texts, [mixer.shifted(t.logits, t.states[layer]) for t in texts])


def total(score: Score) -> float:
    """Return what options are chosen by: known facts and unchanged answers."""
    parts = score.known, score.unchanged
    return sum(sum(part) / max(len(part), 1) for part in parts)


def told(values: Sequence[float], groups: Sequence[str] | None = None) -> str:
    """Return a share with its interval."""
    if not values:
        return "-"
    mean, low, high = bootstrap(values, groups)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def show(name: str, score: Score, plain: Score | None = None) -> None:
    """Print a line for each group of facts."""
    for group in ("invented", "trivia"):
        at = [i for i, fact in enumerate(score.facts) if fact.startswith(group)]
        if not at:
            continue
        facts = [score.facts[i] for i in at]
        cells = [told([part[i] for i in at], facts) for part in (score.known, score.exact)]
        gain = ""
        if plain is not None:
            apart = [score.chance[i] - plain.chance[i] for i in at]
            mean, low, high = bootstrap(apart, facts)
            gain = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        chance = sum(score.chance[i] for i in at) / len(at)
        print(f"| {name} | {group} | {cells[0]} | {cells[1]} | {chance:.3f} | {gain} |", flush=True)
    if score.unchanged:
        print(f"| {name} | unknown: unchanged | {told(score.unchanged)} | | | |", flush=True)


def separation(
    texts: Sequence[Text], store: LogitStore, owners: Sequence[str], *, centred: bool
) -> tuple[float, float, float]:
    """Say how well cosines find the fact of a row, at the first token of the value.

    Returns:
        The share of rows whose nearest context belongs to their fact; and the medians of the
        largest cosine of rows with a stored fact, and of unknown questions at their first token.
    """
    memory = Nearest(store, count=1, least=-1.0, temperature=0.1, centred=centred)
    layer = LAYERS.index(store.origin.layer)
    right: list[float] = []
    near: list[float] = []
    far: list[float] = []
    for text in texts:
        if text.group == "unknown":
            for state in text.states[layer]:
                far.append(float(memory.similarities(state).max()))
            continue
        alike = memory.similarities(text.states[layer][text.value.start])
        right.append(float(owners[int(alike.argmax())] == f"{text.group} {text.fact}"))
        near.append(float(alike.max()))
    middle = [float(torch.tensor(part).median()) for part in (near, far)]
    return sum(right) / len(right), middle[0], middle[1]


def _own_rows(texts: Sequence[Text]) -> tuple[Sequence[Text], list[Tensor]]:
    return texts, [text.logits for text in texts]


def main() -> None:
    """Read everything once, choose on one half, judge on the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--trivia", type=Path, required=True, help="OpenTriviaQA, JSON lines")
    parser.add_argument("--real", type=int, default=4)
    parser.add_argument("--unrelated", type=int, default=8)
    parser.add_argument(
        "--reads", type=Path, required=True, help="keeps what was read; a later run goes on"
    )
    parser.add_argument("--seconds", type=float, default=560.0)
    given = parser.parse_args()
    begun = perf_counter()
    generator = load(given.target, mode="none", threads=1)
    assert generator.tokenizer is not None
    model = generator.strategy.target
    reader = Reader(model, generator.tokenizer)
    facts = invented() + trivia(given.trivia, given.real)
    questions = strangers()
    questions += [f.questions[0] for f in trivia(given.trivia, given.unrelated, given.real)]

    reads = read_all(reader, Record(given.reads), facts, questions)
    print(f"all read after {perf_counter() - begun:.0f} s, load {os.getloadavg()}", flush=True)
    begun = perf_counter()
    owners, texts, primed = reads.owners, reads.texts, reads.primed
    stores = {
        (layer, kind): stored(
            reads.states[n],
            reads.logits[kind],
            Origin(
                model=model.info.fingerprint,
                tokenizer=reader.codec.fingerprint,
                vocab_size=model.info.vocab_size,
                layer=layer,
                answers=len(facts),
                told=kind == "told",
            ),
        )
        for n, layer in enumerate(LAYERS)
        for kind in KINDS
    }
    print(f"{len(facts)} facts, {len(owners)} contexts", flush=True)
    fit = [text for text in texts if text.fact % 2 == 0]
    rest = [text for text in texts if text.fact % 2 == 1]

    print("\n| layer | mean subtracted | nearest is of the fact | cosine, fact | cosine, unknown |")
    print("|---|---|---|---|---|")
    best: tuple[float, int, bool] = (-9.0, 0, False)
    for layer, centred in product(LAYERS, (False, True)):
        right, near, far = separation(fit, stores[layer, "told"], owners, centred=centred)
        best = max(best, (right + near - far, layer, centred))
        print(f"| {layer} | {centred} | {right:.2f} | {near:.2f} | {far:.2f} |", flush=True)
    _, layer, centred = best
    print(f"chosen: layer {layer}, centred {centred}", flush=True)

    plain = judged(rest, [text.logits for text in rest])
    default = {"centred": centred}
    found: dict[str, list[tuple[float, dict[str, float]]]] = {kind: [] for kind in KINDS}
    sweep = product(KINDS, FLOORS, (1, 5), ALPHAS, LEAST)
    for number, (kind, floor, nearest, alpha, least) in enumerate(sweep):
        if perf_counter() - begun > 0.6 * given.seconds:
            print(f"the sweep was stopped by --seconds after {number} settings", flush=True)
            break
        options = default | {"least": least, "alpha": alpha, "floor": floor, "nearest": nearest}
        found[kind].append((total(guided(fit, stores[layer, kind], **options)), options))
    best_of = {kind: max(some, key=lambda one: one[0]) for kind, some in found.items() if some}
    for kind, (value, options) in best_of.items():
        print(f"chosen: {kind}, {value:.3f}, {options}", flush=True)
    chosen = best_of["told"][1]
    print("\n| system | group | value known | whole answer | probability | gain over plain |")
    print("|---|---|---|---|---|---|")
    show("plain", plain)
    for kind in ("own", "told"):
        show(f"caad, published values, {kind}", guided(rest, stores[layer, kind], **default), plain)
    for kind, (_, options) in best_of.items():
        show(f"caad, chosen, {kind}", guided(rest, stores[layer, kind], **options), plain)
    shorter = [text.prompt for text in rest if text.group != "unknown"]
    cost = sum(p.prompt - size for p, size in zip(primed, shorter, strict=True)) / len(primed)
    source = stores[layer, "told"]
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    mixed = replace(source, tokens=source.tokens[order], logits=source.logits[order])
    show("caad, chosen, told, logits of other contexts", guided(rest, mixed, **chosen), plain)
    show("all facts in the prompt", judged(primed, [text.logits for text in primed]), plain)
    show("stored wordings, their fact in the prompt", judged(*_own_rows(reads.alone)))
    print(f"the prompt has {cost:.0f} more tokens; load {os.getloadavg()}")
    print("\n| least | logits | value known | probability of it | unknown: unchanged |")
    print("|---|---|---|---|---|")
    for kind, least in product(best_of, LEAST):
        score = guided(rest, stores[layer, kind], **(best_of[kind][1] | {"least": least}))
        chance = sum(score.chance) / len(score.chance)
        known = told(score.known, score.facts)
        print(
            f"| {least} | {kind} | {known} | {chance:.3f} | {told(score.unchanged)} |", flush=True
        )

    systems: dict[str, tuple[LanguageModel, bool]] = {
        "plain": (model, False),
        **{
            f"caad, {kind}": (
                Caad(store=stores[layer, kind], **best_of[kind][1]).build(  # type: ignore[arg-type]
                    Parts(target=model, models={})
                ),
                False,
            )
            for kind in best_of
            if kind != "own"
        },
        "all facts in the prompt": (model, True),
    }
    written: dict[str, list[float]] = {name: [] for name in systems}
    spent: dict[str, float] = dict.fromkeys(systems, 0.0)
    names: list[str] = []
    for number, fact in enumerate(facts):
        if number % 2 == 0 or perf_counter() - begun > given.seconds:
            continue
        names.append(f"{fact.group} {number}")
        for name, (one, primes) in systems.items():
            prompt = reader.prompt(fact.questions[1 + number // 2 % 2], facts if primes else ())
            start = process_time()
            tokens = reader.greedy(one, prompt, reader.shared if primes else None)[0]
            spent[name] += process_time() - start
            text = generator.tokenizer.decode(tokens)
            written[name].append(float(fact.value.lower() in text.lower()))
            if len(names) <= 8:
                print(f"   {name}: {fact.questions[1]} {text!r} ({fact.value})", flush=True)
    for name, values in written.items():
        print(f"written, {name}: {told(values)} of {len(values)}, {spent[name]:.1f} CPU s")
    print(f"{perf_counter() - begun:.0f} s, load {os.getloadavg()}")


if __name__ == "__main__":
    main()
