"""The most probable span of a passage, beside greedy answers and beams, on questions.

    python -m benchmarks.search.exact_extract smollm2 --questions paragraphs.jsonl.zst --words 100

A line of the file holds a `context` and `qa`, a list of a question `q` and its answer `a`. The
prompt is the passage, one example of a question and its answer, and the question. Scores are exact
match and F1 of words, as for SQuAD. Intervals draw passages, since questions about one passage are
alike. All systems continue the same cache. A run with `--out` continues the file of an earlier one.
"""

import argparse
import json
import os
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.search.intervals import shown

from outrider import Generator, load
from outrider.core.types import Prompt
from outrider.core.values import JsonValue
from outrider.inputs.lines import numbered_lines
from outrider.protocols import Cache
from outrider.search import Candidate, Task
from outrider.search.account import Account
from outrider.search.beams.beam import BeamSearch
from outrider.search.spans.exact_extract import ExactExtract
from outrider.search.spans.passage import Prefix, end_tokens, grown, passage_of

GREEDY = "greedy"
PROMPT = "{context}\n\n{examples}Question: {q}\nAnswer:"


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its passage."""

    passage: str
    text: str
    answer: str
    example: str


@dataclass(slots=True)
class Figures:
    """What one system has answered: a figure for each question."""

    exact: list[float] = field(default_factory=list[float])
    f1: list[float] = field(default_factory=list[float])
    rows: list[float] = field(default_factory=list[float])
    seconds: list[float] = field(default_factory=list[float])
    inside: list[float] = field(default_factory=list[float])
    score: list[float] = field(default_factory=list[float])

    def add(self, own: Sequence[float]) -> None:
        """Append the figures of one question, in the order of the fields."""
        for one, value in zip(fields(self), own, strict=True):
            getattr(self, one.name).append(value)


def questions(file: Path, words: int, examples: int) -> Iterator[Question]:
    """Yield the questions about passages with fewer words; the first of a passage are examples."""
    for _, line in numbered_lines(file, hint="Give JSON lines"):
        record = json.loads(line)
        if len(record["context"].split()) >= words:
            continue
        shown = record["qa"][:examples]
        example = "".join(f"Question: {qa['q']}\nAnswer: {qa['a']}\n\n" for qa in shown)
        for qa in record["qa"][examples:]:
            yield Question(record["context"], qa["q"], qa["a"], example)


def words_of(text: str) -> list[str]:
    """Return the words that SQuAD compares."""
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def f1_of(text: str, answer: str) -> float:
    """Return the F1 of words."""
    own, right = words_of(text), words_of(answer)
    same = sum((Counter(own) & Counter(right)).values())
    return 2 * same / (len(own) + len(right)) if same else 0.0


def greedy_span(task: Task, passage: str) -> Candidate:
    """Choose the best token that stays a span, or the end, one by one: no search."""
    tree, ends = task.tree(), end_tokens(task, newline=True)
    own = passage_of(task, passage)
    prefix = Prefix.empty(tree.root, len(own))
    row = task.logprobs(tree.first()[None], [()])[0]
    while True:
        longer = grown(prefix, own, ends)
        best = max(longer, key=lambda one: float(row[one.token]), default=None)
        end = float(row[ends].logsumexp(0)) if prefix.depth else float("-inf")
        if best is None or end >= float(row[best.token]) or prefix.depth == task.most:
            return task.candidate(prefix.node.tokens, prefix.logprob + end, finish="stop")
        best.logprob = prefix.logprob + float(row[best.token])
        [best.node], logits = tree.extend([(best.parent, best.token)])
        prefix, row = best, task.logprobs(logits, [best.node.tokens])[0]


def systems(by_length: int) -> dict[str, Callable[[Task, str], Candidate]]:
    """Return the systems by name; the last one is slow, and asked for the first questions only."""

    def greedy(task: Task, passage: str) -> Candidate:
        ends = {*end_tokens(task, newline=True)}
        [one] = task.passages.write(
            [task.root],
            [0],
            most=task.most,
            greedy=True,
            until=lambda new: next((i for i, token in enumerate(new) if token in ends), None),
        )
        return task.candidate(one.tokens, one.logprob)

    found: dict[str, Callable[[Task, str], Candidate]] = {
        GREEDY: greedy,
        "beam search, 4 beams": lambda task, passage: BeamSearch(num_beams=4).run(task)[0],
        "greedy within spans": greedy_span,
        "exact-extract": lambda task, passage: ExactExtract(passage=passage).run(task)[0],
    }
    if by_length:
        search = ExactExtract(by_length=True, longest=6, rows=64)
        found["exact-extract by length"] = lambda task, passage: replaced(search, passage).run(
            task
        )[0]
    return found


def replaced(search: ExactExtract, passage: str) -> ExactExtract:
    """Return the search with another passage."""
    from dataclasses import replace

    return replace(search, passage=passage)


def asked(generator: Generator, prompt: Prompt, cache: Cache, **options: JsonValue) -> Task:
    """Return the task of a prompt that was read, with options of sampling."""
    params = generator.defaults.params({"seed": 1, "temperature": 0.0, **options})
    used = generator.strategy_for(params)
    task = Task(
        stage=used.stage,
        request=generator.generation(prompt, params).request,
        account=Account(),
        codec=generator.tokenizer,
    )
    task._cache = cache
    return task


def interval(values: Sequence[float], groups: Sequence[str]) -> str:
    """Return a mean with its bootstrap interval; whole groups are drawn."""
    return shown(bootstrap([100 * value for value in values], groups), 1)


def main() -> None:
    """Answer the questions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--words", type=int, default=100, help="words of the passages, fewer")
    parser.add_argument("--examples", type=int, default=1)
    parser.add_argument("--most", type=int, default=200, help="questions")
    parser.add_argument("--by-length", type=int, default=0, help="questions scored by length too")
    parser.add_argument("--longest", type=int, default=16, help="tokens of an answer")
    parser.add_argument("--seconds", type=float, default=540, help="no question begins later")
    parser.add_argument("--out", type=Path, help="a line for each question; continued if it exists")
    given = parser.parse_args()
    generator = load(given.model, threads=1, drafter="none")
    assert generator.tokenizer is not None
    model = generator.strategy_for(generator.params()).stage.model
    ends = [i for text in ("\n", "\n\n") if len(i := generator.tokenizer.encode(text)) == 1]
    options = {"max_new_tokens": given.longest, "stop_token_ids": sum(ends, ())}
    arms = systems(given.by_length)
    found = {name: Figures() for name in arms}
    groups, begun, cache = list[str](), perf_counter(), None
    for line in given.out.read_text().splitlines() if given.out and given.out.exists() else ():
        group, before = json.loads(line)
        groups.append(group)
        for name, own in before.items():
            found[name].add(own)
    asks = islice(questions(given.questions, given.words, given.examples), len(groups), given.most)
    for question in asks:
        if perf_counter() - begun > given.seconds:
            break
        text = PROMPT.format(context=question.passage, examples=question.example, q=question.text)
        prompt = Prompt(token_ids=generator.tokenizer.encode(text))
        [cache] = model.start([prompt], [cache])
        figures: dict[str, list[float]] = {}
        for number, (name, answer) in enumerate(arms.items()):
            if number == 4 and len(groups) >= given.by_length:
                continue
            task = asked(generator, prompt, cache.fork(), **options)
            first = process_time()
            one = answer(task, question.passage)
            took, rows = process_time() - first, task.account.tokens
            exact = float(words_of(one.text) == words_of(question.answer))
            inside = float(one.text.strip() in question.passage)
            figures[name] = [exact, f1_of(one.text, question.answer), rows, took, inside, one.score]
            found[name].add(figures[name])
        groups.append(question.passage)
        if given.out:
            with given.out.open("a") as out:
                print(json.dumps([question.passage, figures]), file=out)
    show(found, groups)


def show(found: dict[str, Figures], groups: Sequence[str]) -> None:
    """Print the table."""
    print(
        "| | exact match | F1 | exact match minus greedy | F1 minus greedy | answers in the "
        "passage | rows | CPU seconds |\n|---|--:|--:|---|---|--:|--:|--:|"
    )
    base = found[GREEDY]
    for name, own in found.items():
        size = len(own.f1)
        if not size:
            continue
        gaps = [
            interval([a - b for a, b in zip(x, y, strict=False)], groups[:size])
            for x, y in ((own.exact, base.exact), (own.f1, base.f1))
        ]
        print(
            f"| {name} ({size}) | {100 * np.mean(own.exact):.1f} | {100 * np.mean(own.f1):.1f} | "
            f"{gaps[0]} | {gaps[1]} | {100 * np.mean(own.inside):.0f} % | "
            f"{np.mean(own.rows):.1f} | {np.mean(own.seconds):.2f} |"
        )
    print(
        f"{len(groups)} questions about {len(set(groups))} passages; "
        f"load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
