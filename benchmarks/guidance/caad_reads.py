"""What the benchmark of CAAD reads: answers after questions, and greedy answers."""

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from benchmarks.guidance.facts import Fact
from torch import Tensor

from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.guidance.retrieval.building import AnswerCodec, asked
from outrider.inputs.given import TextCodec
from outrider.protocols import Cache, LanguageModel, Segment

LAYERS = (8, 14, 18, 22, 26, 30)
KINDS = ("told", "answer", "own")
"""Logits of the model that was told the answer; the token of the answer alone; the model's own."""
SURE = 20.0
"""Logit of the token of the answer, above all others."""
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
