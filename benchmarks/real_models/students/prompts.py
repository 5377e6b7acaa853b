"""Chats of training sets: the prompts that the model answers, and the texts it reads."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from outrider.training.core.corpus import read_records

_CHARACTERS = 1400
"""Longest prompt; longer contexts are cut."""

Pair = tuple[str, str]
"""A prompt and the answer of the data set."""


def chats(data: Path) -> Iterator[Pair]:
    """Yield prompts with their answers, in turn from each set until all are used up."""
    sets = [
        _dolly(data),
        _conversations(data),
        _sums(data),
        _summaries(data),
        _commands(data),
    ]
    for row in itertools.zip_longest(*sets):
        for pair in row:
            if pair is not None and len(pair[0]) <= 2 * _CHARACTERS:
                yield pair


def shuffled(path: Path) -> list[dict]:
    """The records of a file in an order that is the same in each run."""
    records = list(read_records(path))
    random.Random(5).shuffle(records)
    return records


def _dolly(data: Path) -> Iterator[Pair]:
    for record in shuffled(data / "dolly_part" / "train.jsonl.zst"):
        yield record["prompt"], record["response"]


def _conversations(data: Path) -> Iterator[Pair]:
    for record in shuffled(data / "oasst1_en" / "conversations.jsonl.zst"):
        turns = record["turns"]
        if len(turns) > 1 and turns[0]["role"] == "user":
            yield turns[0]["text"][:_CHARACTERS], turns[1]["text"]


def _sums(data: Path) -> Iterator[Pair]:
    for record in shuffled(data / "gsm8k" / "train.jsonl.zst"):
        yield record["question"], record["solution"]


def _summaries(data: Path) -> Iterator[Pair]:
    for record in shuffled(data / "onestop_english" / "articles.jsonl.zst"):
        text = record["text"]
        yield f"Summarize: {text[:_CHARACTERS]}", text[_CHARACTERS : 2 * _CHARACTERS]


def _commands(data: Path) -> Iterator[Pair]:
    for record in shuffled(data / "tldr_pages" / "pages.jsonl.zst"):
        lines = [f"- {one['task']}:\n  `{one['command']}`" for one in record["examples"]]
        yield (
            f"What does the command `{record['name']}` do?",
            "\n".join([record["description"], *lines]),
        )
