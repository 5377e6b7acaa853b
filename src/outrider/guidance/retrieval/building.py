"""Builds stores of logits from verified answers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import Message, Prompt, Rows, as_ids
from outrider.guidance.retrieval.store import KEPT, MOST, LogitStore, Origin
from outrider.guidance.source import states_of
from outrider.inputs.lines import numbered_lines
from outrider.protocols import LanguageModel, Segment

_QUESTIONS = ("question", "prompt")
_ANSWERS = ("answer", "response")
_TOLD = "{answer}\n\n{question}"
"""What the model reads that is told the answer before it is asked."""


@runtime_checkable
class AnswerCodec(Protocol):
    """The tokenizer functions that building needs."""

    @property
    def fingerprint(self) -> str:
        """Of its vocabulary."""
        ...

    @property
    def has_chat(self) -> bool:
        """Whether there is a chat template."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Encode a prompt."""
        ...

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Encode text without special tokens."""
        ...

    def chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Encode messages, ready for the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with a verified answer, as the model should write it."""

    question: str
    answer: str


def read_answers(file: Path) -> list[Answered]:
    """Read JSON lines with `question` and `answer`, or `prompt` and `response`.

    Raises:
        OptionError: the file cannot be read, a line has no question or no answer, or there is no
            line.
    """
    found: list[Answered] = []
    for number, line in numbered_lines(file, hint="Give JSON lines"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        question, answer = (_first(record, names) for names in (_QUESTIONS, _ANSWERS))
        if not question or not answer:
            raise OptionError(
                f"line {number} of {file} is {line.strip()!r:.60}",
                hint='Expected {"question": "...", "answer": "..."}',
            )
        found.append(Answered(question, answer))
    if not found:
        raise OptionError(f"{file} holds no answers", hint="Give JSON lines")
    return found


def _first(record: object, names: Sequence[str]) -> str | None:
    if not isinstance(record, dict):
        return None
    return next((record[n] for n in names if isinstance(record.get(n), str)), None)


def default_layer(num_layers: int) -> int:
    """Return the layer that describes contexts if none is given: that at seven eighths.

    On SmolLM2 its states find the fact of a context best (docs/results.md).
    """
    return max(num_layers * 7 // 8, 1)


def build_store(
    model: LanguageModel,
    codec: AnswerCodec,
    answers: Sequence[Answered],
    *,
    layer: int | None = None,
    told: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> LogitStore:
    """Read each answer after its question, and store a context for each token of it and its end.

    Args:
        model: the target.
        codec: its tokenizer; questions are chat messages if it has a template.
        answers: at least one.
        layer: the layer whose states describe contexts, from 1; None: `default_layer`.
        told: take the logits from a second reading, in which the answer stands before the question:
            the model then predicts the answer even if it does not know it. The states are those
            without the answer.
        progress: called after each answer.

    Raises:
        OptionError: there is no such layer, or there are more than `MOST` contexts.
        StrategyError: the model does not return the states of its layers.
    """
    most = states_of(model, "a store of answers").num_layers
    layer = default_layer(most) if layer is None else layer
    if not 1 <= layer <= most:
        raise OptionError(f"layer is {layer}", hint=f"Give a layer from 1 to {most}")
    texts = [codec.encode_plain(one.answer) for one in answers]
    if (count := sum(len(text) + 1 for text in texts)) > MOST:
        raise OptionError(
            f"the answers have {count} tokens with their ends, and a store holds {MOST}",
            hint="Give fewer or shorter answers",
        )
    states: list[Tensor] = []
    logits: list[Tensor] = []
    for one, text in zip(answers, texts, strict=True):
        rows = read_after(model, asked(codec, one.question), text, layer)
        assert rows.states is not None
        states.append(rows.states[0].float().cpu())
        if told:
            question = _TOLD.format(answer=one.answer, question=one.question)
            rows = read_after(model, asked(codec, question), text, layer)
        logits.append(rows.logits.float().cpu())
        progress()
    origin = Origin(
        model=model.info.fingerprint,
        tokenizer=codec.fingerprint,
        vocab_size=model.info.vocab_size,
        layer=layer,
        answers=len(answers),
        told=told,
    )
    return stored(torch.cat(states), torch.cat(logits), origin)


def stored(
    states: Float[Tensor, "entries hidden"], logits: Float[Tensor, "entries vocab"], origin: Origin
) -> LogitStore:
    """Keep the `KEPT` largest logits of each context, above the least of them."""
    best = logits.topk(min(KEPT, logits.shape[-1]), dim=-1)
    above = best.values - best.values[:, -1:]
    return LogitStore(
        states=states.contiguous(),
        tokens=best.indices.to(torch.int32),
        logits=above.contiguous(),
        origin=origin,
    )


def asked(codec: AnswerCodec, question: str) -> Prompt:
    """Return the prompt of a question: a chat message, or the plain text without a template."""
    if codec.has_chat:
        return Prompt(token_ids=codec.chat([{"role": "user", "content": question}]))
    return Prompt(token_ids=codec.encode(question))


def read_after(model: LanguageModel, prompt: Prompt, text: Sequence[int], layer: int) -> Rows:
    """Read a text after a prompt: one row before each of its tokens and one after the last, with
    the states of a layer."""
    [cache] = model.start([prompt])
    assert model.hidden_states is not None
    model.hidden_states.watch(cache, (layer,))
    want = as_ids(range(-1, len(text)))
    [rows] = model.forward([Segment(cache, as_ids(text))], [want])
    return rows
