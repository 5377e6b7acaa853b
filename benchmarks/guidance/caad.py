"""CAAD on SmolLM2: held-out wordings of stored facts, and questions of which nothing is stored.

    python -m benchmarks.guidance.caad smollm2 --trivia train.jsonl.zst \\
        --reads reads.pt --seconds 560

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
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter, process_time

import torch
from benchmarks.guidance.facts import Fact, invented, strangers, trivia
from benchmarks.long_inputs.intervals import bootstrap
from torch import Tensor

from outrider import load
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.guidance.recipe import Parts
from outrider.guidance.retrieval.building import AnswerCodec, asked, stored
from outrider.guidance.retrieval.caad import Caad, Retrieving
from outrider.guidance.retrieval.nearest import Nearest
from outrider.guidance.retrieval.store import LogitStore, Origin
from outrider.inputs.given import TextCodec
from outrider.protocols import Cache, LanguageModel, Segment

LAYERS = (8, 14, 18, 22, 26, 30)
LEAST = (0.5, 0.7, 0.8, 0.9)
ALPHAS = (0.5, 2.0, 4.0, 8.0)
KINDS = ("told", "answer", "own")
"""Logits of the model that was told the answer; the token of the answer alone; the model's own."""
SURE = 20.0
"""Logit of the token of the answer, above all others."""
FLOORS = (0.0, 0.01)
TOKENS = 12


@dataclass(frozen=True)
class Text:
    """A text after a question, as the model reads it.

    Attributes:
        logits: `[tokens, vocab]`, the row before each token.
        states: `[layers, tokens, hidden]` of `LAYERS`.
        tokens: the text.
        value: the places of the value in it.
        prompt: tokens of the prompt.
        fact: number of its fact, or of its question.
        group: `invented`, `trivia`, or `unknown`.
    """

    logits: Tensor
    states: Tensor
    tokens: Tensor
    value: slice
    prompt: int
    fact: int
    group: str


@dataclass
class Score:
    """Figures of one system, with the fact of each."""

    known: list[float] = field(default_factory=list[float])
    exact: list[float] = field(default_factory=list[float])
    chance: list[float] = field(default_factory=list[float])
    facts: list[str] = field(default_factory=list[str])
    unchanged: list[float] = field(default_factory=list[float])


class Reader:
    """Reads texts after questions.

    Args:
        model: the target.
        codec: its tokenizer.
    """

    def __init__(self, model: LanguageModel, codec: TextCodec) -> None:
        assert isinstance(codec, AnswerCodec)
        self.model, self.codec = model, codec
        self.shared: Cache | None = None

    def prompt(self, question: str, facts: Sequence[Fact] = ()) -> Prompt:
        """Return a question, after facts if there are any."""
        told = " ".join(fact.answer for fact in facts)
        return asked(self.codec, f"{told}\n\n{question}" if told else question)

    def after(self, fact: Fact, number: int, question: str, given: Sequence[Fact]) -> Text:
        """Read the answer of a fact after a question, all layers at once."""
        tokens, value = self.answer(fact)
        prompt = self.prompt(question, given)
        if len(given) > 1:
            [self.shared] = self.model.start([prompt], [self.shared])
            cache = self.shared.fork()
        else:
            [cache] = self.model.start([prompt])
        assert self.model.hidden_states is not None
        self.model.hidden_states.watch(cache, LAYERS)
        want = as_ids(range(-1, len(tokens)))
        [rows] = self.model.forward([Segment(cache, as_ids(tokens))], [want])
        assert rows.states is not None
        ids, size = torch.tensor(tokens), len(prompt.token_ids)
        return Text(rows.logits.clone(), rows.states.clone(), ids, value, size, number, fact.group)

    def unknown(self, number: int, question: str) -> Text:
        """Write a greedy answer, and keep its rows."""
        prompt = self.prompt(question)
        tokens, logits, states = self.greedy(self.model, prompt, watched=True)
        size, ids = len(prompt.token_ids), torch.tensor(tokens)
        both = torch.stack(logits), torch.stack(states, dim=1)
        return Text(*both, ids, slice(0, 0), size, number, "unknown")

    def answer(self, fact: Fact) -> tuple[tuple[int, ...], slice]:
        """Return the tokens of an answer, and where its value is."""
        whole = self.codec.encode_plain(fact.answer)
        begin = self.codec.encode_plain(fact.begin)
        assert whole[: len(begin)] == begin, fact
        return whole, slice(len(begin), len(whole) - 1)

    def greedy(
        self,
        model: LanguageModel,
        prompt: Prompt,
        given: Cache | None = None,
        watched: bool = False,
    ) -> tuple[list[int], list[Tensor], list[Tensor]]:
        """Return the most likely tokens after a prompt; if watched, their rows and states."""
        [cache] = model.start([prompt], [given])
        tokens: list[int] = []
        logits: list[Tensor] = []
        states: list[Tensor] = []
        if watched:
            assert model.hidden_states is not None
            model.hidden_states.watch(cache, LAYERS)
        while len(tokens) < TOKENS:
            [rows] = model.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
            token = int(rows.logits[0].argmax())
            if watched:
                assert rows.states is not None
                logits.append(rows.logits[0].clone())
                states.append(rows.states[:, 0].clone())
            tokens.append(token)
            if token in model.info.end_ids:
                break
            cache.commit([token])
        return tokens, logits, states


class Record:
    """What was read, appended to a file as it goes, so that a later run goes on from there.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[tuple[str, str], Text] = {}
        if path.exists():
            good = 0
            with path.open("rb") as file:
                while True:
                    try:
                        key, text = pickle.load(file)
                    except (EOFError, pickle.UnpicklingError):
                        break
                    self.found[key] = text
                    good = file.tell()
            os.truncate(path, good)

    def get(self, kind: str, question: str, read: Callable[[], Text]) -> Text:
        """Return a text of the file, or read it now."""
        if (kind, question) not in self.found:
            text = self.found[kind, question] = read()
            with self.path.open("ab") as file:
                pickle.dump(((kind, question), text), file)
        return self.found[kind, question]


@dataclass
class Reads:
    """All that the model has read.

    Attributes:
        states: of the contexts of the store, by layer.
        logits: of them, for each of `KINDS`.
        owners: the fact of each context.
        texts: held-out wordings with their answers, and unknown questions with greedy answers.
        primed: those that judge, after all facts in the prompt.
        alone: the stored wordings, each after its own fact.
    """

    states: Tensor
    logits: dict[str, Tensor]
    owners: list[str]
    texts: list[Text]
    primed: list[Text]
    alone: list[Text]


def read_all(
    reader: "Reader", record: Record, facts: Sequence[Fact], questions: Sequence[str]
) -> Reads:
    """Read the store, the held-out wordings, and the unknown questions."""
    states: list[Tensor] = []
    logits: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    owners: list[str] = []
    alone: list[Text] = []
    for number, fact in enumerate(facts):
        question = fact.questions[0]
        own = record.get("own", question, partial(reader.after, fact, number, question, []))
        told = record.get("told", question, partial(reader.after, fact, number, question, [fact]))
        logits["own"].append(own.logits.float())
        logits["told"].append(told.logits.float())
        answer = torch.zeros_like(own.logits.float())
        end = torch.tensor(reader.model.info.end_ids[:1])
        answer[torch.arange(len(answer)), torch.cat([own.tokens, end])] = SURE
        logits["answer"].append(answer)
        states.append(own.states.float())
        owners += [f"{fact.group} {number}"] * len(own.logits)
        alone.append(told)
    texts: list[Text] = []
    primed: list[Text] = []
    for number, fact in enumerate(facts):
        # One wording chooses; two judge.
        for question in fact.questions[1 : 2 + number % 2]:
            texts.append(
                record.get("text", question, partial(reader.after, fact, number, question, []))
            )
            if number % 2:
                read = partial(reader.after, fact, number, question, facts)
                primed.append(record.get("primed", question, read))
    for number, question in enumerate(questions):
        texts.append(record.get("unknown", question, partial(reader.unknown, number, question)))
    both = {kind: torch.cat(part) for kind, part in logits.items()}
    return Reads(torch.cat(states, dim=1), both, owners, texts, primed, alone)


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
