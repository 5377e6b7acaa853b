"""Evidence by the beginnings of sentences (CFIC) beside BM25 and chunks, in long documents.

    python -m benchmarks.search.cfic smollm2 --paragraphs paragraphs.jsonl.zst --join 20 --each 10
    python -m benchmarks.search.cfic smollm2 --documents w02000.jsonl.zst

Of `--paragraphs`, a document is `--join` of them, one of which answers a question. A line of
`--documents` holds a `context`, a `question` and `answers`; all facts of a document with one asked
magic number are asked. The evidence are the sentences with an answer. `no prefix` and `no skip`
switch off a rule each. Retrieval returns sentences or chunks in the order of their scores, and as
many words as `cfic`; the last part is cut. F1 compares the words of what is returned with those of
the evidence; `hit` is the share of answers in it. A document is read once for all its questions.
Intervals draw documents, and differences are paired.
"""

import argparse
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.search.exact_extract import asked
from bm25s import BM25

from outrider import Generator, load
from outrider.context import ContextConfig, cut, make_ranker
from outrider.context.rankers.embeddings import Embed
from outrider.core.types import LongContext, Passage
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.protocols import Cache
from outrider.search import run_search
from outrider.search.spans.cfic import Cfic
from outrider.search.spans.sentences import sentences_of
from outrider.training.core.corpus import read_records

ASK = "\n\nCopy the sentence of this text that answers the question: "
FACT = re.compile(r"The (magic number of the [a-z ]+) is (\d+)\.")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a document, with the sentences that answer it."""

    group: str
    document: str
    text: str
    answers: Sequence[str]
    evidence: str


def in_paragraphs(file: Path, number: int, join: int, each: int) -> Iterator[Question]:
    """Yield `each` questions about every document of `join` paragraphs."""
    records = list(read_records(file))
    for document in range(number):
        at = document * (len(records) - join) // number
        joined = records[at : at + join]
        text = "\n\n".join(record["context"] for record in joined)
        for place in range(each):
            own = joined[(document + place) % join]
            if place // join >= len(own["qa"]):
                continue
            qa = own["qa"][place // join]
            found = next((one for one in sentences(own["context"]) if qa["a"] in one), None)
            if found is not None:
                yield Question(str(document), text, qa["q"], [qa["a"]], found)


def in_documents(file: Path, number: int, tasks: Sequence[str]) -> Iterator[Question]:
    """Yield the questions of documents; those of a document with several facts ask for each."""
    chosen = [record for record in read_records(file) if record["task"] in tasks]
    for record in chosen[:number]:
        text = record["context"]
        facts = [(f"What is the {what}?", [value]) for what, value in FACT.findall(text)]
        single = record["task"] == "niah_multikey"
        for question, answers in facts if single else [(record["question"], record["answers"])]:
            found = [one for one in sentences(text) if any(answer in one for answer in answers)]
            yield Question(record["book"], text, question, answers, " ".join(found))


def sentences(text: str) -> list[str]:
    """Return the sentences of a text."""
    return [text[a:b] for a, b in sentences_of(text)]


def words(text: str) -> list[str]:
    """Return lower-case words."""
    return re.findall(r"\w+", text.lower())


def f1(found: str, evidence: str) -> float:
    """Return F1 over words."""
    a, b = Counter(words(found)), Counter(words(evidence))
    same = sum((a & b).values())
    return 2 * same / (sum(a.values()) + sum(b.values())) if same else 0.0


def within(parts: Iterable[str], count: int) -> list[str]:
    """Return the first parts with this number of words together; the last one is cut."""
    found: list[str] = []
    for part in parts:
        ends = [word.end() for word in re.finditer(r"\w+", part)][:count]
        if ends:
            found.append(part[: ends[-1]])
            count -= len(ends)
        if not count:
            break
    return found


@dataclass(slots=True)
class Retrieval:
    """Orders the parts of a document for a question.

    Attributes:
        codec: cuts into tokens.
        embed: input embeddings, for chunk scorers that compare vectors.
        sizes: tokens of a chunk; all are tried.
    """

    codec: Tokenizer
    embed: Embed | None
    sizes: Sequence[int]
    _known: dict[str, tuple[BM25, dict[int, LongContext]]] = field(
        default_factory=dict[str, tuple[BM25, dict[int, LongContext]]]
    )

    def best(self, document: str, question: str) -> Iterator[tuple[str, Iterable[str]]]:
        """Yield the name of each way to retrieve, and the parts, the best first."""
        if document not in self._known:
            model = BM25(method="lucene")
            model.index([words(one) for one in sentences(document)], show_progress=False)
            self._known = {document: (model, {})}
        model, contexts = self._known[document]
        own = sentences(document)
        scores = model.get_scores(words(question))
        yield "bm25 sentences", [own[i] for i in np.argsort(-scores, kind="stable")]
        for size in self.sizes:
            if size not in contexts:
                ids, ends = self.codec.encode_spans(document)
                contexts[size] = LongContext(
                    start=0, chunks=cut(document, ids, ends, size), query=Passage("", ())
                )
            query = Passage(question, self.codec.encode_plain(question))
            for name in ("bm25", "apce"):
                index = make_ranker(ContextConfig(selector=name), self.embed).index(contexts[size])
                order = np.argsort(-index.scores(query, None, 1.0), kind="stable")
                yield f"chunks of {size}, {name}", [contexts[size].chunks[i].text for i in order]


@dataclass(slots=True)
class Figures:
    """What one system has returned: a figure for each question."""

    f1: list[float] = field(default_factory=list[float])
    hit: list[float] = field(default_factory=list[float])
    words: list[float] = field(default_factory=list[float])
    parts: list[float] = field(default_factory=list[float])
    rows: list[float] = field(default_factory=list[float])
    seconds: list[float] = field(default_factory=list[float])

    def add(self, found: Sequence[str], asked: Question, rows: int, seconds: float) -> None:
        """Judge what was returned for a question."""
        text = " ".join(found)
        self.f1.append(f1(text, asked.evidence))
        self.hit.append(float(np.mean([answer in text for answer in asked.answers])))
        self.words.append(len(words(text)))
        self.parts.append(float(np.mean([part in asked.document for part in found])))
        self.rows.append(rows)
        self.seconds.append(seconds)


@dataclass(slots=True)
class Reader:
    """Answers questions with one cache, so that a document is read once."""

    generator: Generator
    arms: Mapping[str, Cfic]
    figures: dict[str, Figures]
    cache: Cache | None = None
    read: tuple[int, ...] = ()

    def answer(self, question: Question) -> list[str]:
        """Find evidence with all variants; return that of the first."""
        content = question.document + ASK + question.text
        prompt = self.generator.prompt([{"role": "user", "content": content}])
        model = self.generator.strategy_for(self.generator.params()).stage.model
        begun = process_time()
        [self.cache] = model.start([prompt], [self.cache])
        took = process_time() - begun
        pairs = zip(self.read, prompt.token_ids, strict=False)
        fresh = len(prompt) - sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.read = prompt.token_ids
        own = self.figures.setdefault("the whole document", Figures())
        own.add([question.document], question, fresh, took)
        returned: list[list[str]] = []
        for name, search in self.arms.items():
            task = asked(self.generator, prompt, self.cache.fork(), max_new_tokens=256)
            begun = process_time()
            found = run_search(replace(search, document=question.document), task, name)
            took = process_time() - begun
            returned.append([one.text for one in found.candidates])
            self.figures.setdefault(name, Figures()).add(
                returned[-1], question, task.account.tokens, took
            )
        return returned[0]


def main() -> None:
    """Find the evidence of all questions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--paragraphs", type=Path)
    kind.add_argument("--documents", type=Path)
    parser.add_argument("--number", type=int, default=30, help="documents")
    parser.add_argument("--join", type=int, default=3)
    parser.add_argument("--each", type=int, default=1, help="questions about joined paragraphs")
    parser.add_argument("--tasks", default="niah_single,niah_multikey,niah_multivalue")
    parser.add_argument("--spans", type=int, default=3)
    parser.add_argument("--reach", type=int, default=96)
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=540.0, help="no question begins later")
    parser.add_argument("--out", type=Path, help="a line for each question, as they are answered")
    given = parser.parse_args()
    generator = load(given.model, drafter="none", threads=given.threads)
    assert isinstance(generator.tokenizer, Tokenizer)
    embed = generator.strategy_for(generator.params()).stage.model.embed
    retrieval = Retrieval(generator.tokenizer, embed, given.chunks)
    base = Cfic(spans=given.spans, reach=given.reach)
    figures, groups = dict[str, Figures](), list[str]()
    arms = {
        "cfic": base,
        "no prefix": Cfic(spans=given.spans, reach=given.reach, prefix=False),
        "no skip": Cfic(spans=given.spans, reach=given.reach, skip=False),
    }
    reader = Reader(generator, arms, figures)
    if given.paragraphs is not None:
        questions = in_paragraphs(given.paragraphs, given.number, given.join, given.each)
    else:
        questions = in_documents(given.documents, given.number, given.tasks.split(","))
    rng, begun = np.random.default_rng(0), perf_counter()
    with given.out.open("w") if given.out else nullcontext() as out:
        for question in questions:
            if perf_counter() - begun > given.seconds:
                break
            count = len(words(" ".join(reader.answer(question))))
            own, first = sentences(question.document), process_time()
            for name, parts in retrieval.best(question.document, question.text):
                took = process_time() - first
                found = within(parts, count)
                figures.setdefault(name, Figures()).add(found, question, 0, took)
                first = process_time()
            mixed = within([own[i] for i in rng.permutation(len(own))], count)
            figures.setdefault("random sentences", Figures()).add(mixed, question, 0, 0.0)
            groups.append(question.group)
            if out:
                last = {name: [one.f1[-1], one.hit[-1]] for name, one in figures.items()}
                print(json.dumps({"group": question.group, **last}), file=out, flush=True)
    show(figures, groups)


def show(figures: Mapping[str, Figures], groups: Sequence[str]) -> None:
    """Print the table."""
    print(
        "| | F1 | hit | F1 of cfic minus this | hit of cfic minus this | words | "
        "parts of the document | rows | CPU seconds |\n|---|--:|--:|---|---|--:|--:|--:|--:|"
    )
    base = figures["cfic"]
    for name, own in figures.items():
        gaps = [
            "{:+.3f} [{:+.3f}, {:+.3f}]".format(
                *bootstrap([a - b for a, b in zip(x, y, strict=True)], groups)
            )
            for x, y in ((base.f1, own.f1), (base.hit, own.hit))
        ]
        print(
            f"| {name} | {np.mean(own.f1):.3f} | {np.mean(own.hit):.3f} | {' | '.join(gaps)} | "
            f"{np.mean(own.words):.0f} | {100 * np.mean(own.parts):.0f} % | "
            f"{np.mean(own.rows):.0f} | {np.mean(own.seconds):.2f} |"
        )
    print(
        f"{len(groups)} questions about {len(set(groups))} groups of documents; "
        f"load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
