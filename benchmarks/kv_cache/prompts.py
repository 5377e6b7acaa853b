"""Prompts with planted facts in novels, and passages of novels."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.long_inputs.inputs.documents import FOLDER
from benchmarks.long_inputs.inputs.known_tasks import without_lines
from benchmarks.long_inputs.inputs.texts import Library, read_lines

from outrider.core.types import Prompt
from outrider.inputs.prompts.long_prompts import long_prompt

_FIRST = [
    "quiet",
    "tidy",
    "early",
    "young",
    "jolly",
    "gentle",
    "silver",
    "narrow",
    "hollow",
    "patient",
]
_SECOND = [
    "candle",
    "garden",
    "saddle",
    "basket",
    "mirror",
    "feather",
    "kettle",
    "bridge",
    "lantern",
    "anchor",
]
_CHUNK = 128


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt and the tokens that should follow.

    Attributes:
        key: its name.
        kind: `one fact`, `four facts` or `book`.
        prompt: chat message and the beginning of the answer, or a passage.
        answer: what follows: the number of the fact, or the next tokens of the book.
    """

    key: str
    kind: str
    prompt: Prompt
    answer: tuple[int, ...]


def books(data: Path) -> list[str]:
    """Texts of novels that no model here was trained on, in order."""
    items = read_lines(data / FOLDER / "w32000.jsonl.zst")
    return [without_lines(item["context"]) for item in items if item["task"] == "niah_single"]


def facts(
    library: Library, texts: list[str], length: int, count: int, number: int
) -> Iterator[Case]:
    """Cases of about `length` tokens: `count` facts in a novel, one of which is asked for."""
    kind = "one fact" if count == 1 else "four facts"
    for case in range(number):
        draw = Random(f"{length} {count} {case}")
        names = [f"{a} {b}" for a in _FIRST for b in _SECOND]
        chosen = draw.sample(names, count)
        numbers = [str(draw.randrange(10**6, 10**7)) for _ in chosen]
        lines = [
            f"The magic number of the {name} is {value}."
            for name, value in zip(chosen, numbers, strict=True)
        ]
        asked = f"What is the magic number of the {chosen[0]}?"
        begun = f"The magic number of the {chosen[0]} is"
        book = texts[case % len(texts)]
        room = length - len(library.passage(" ".join([*lines, asked, begun]))) - 48
        start = draw.randrange(max(len(library.ids(book)) - room, 1))
        ids = library.ids(book)[start : start + room]
        parts = library.tokenizer.decode(ids).split("\n\n")
        for line in lines:
            parts.insert(draw.randrange(len(parts) + 1), line)
        text = "\n\n".join(parts)
        whole = long_prompt(library.tokenizer, [("", text)], asked, chunk_size=_CHUNK, chat=True)
        before = library.tokenizer.encode_plain(begun)
        prompt = Prompt(token_ids=(*whole.token_ids, *before), context=whole.context)
        answer = library.tokenizer.encode_plain(f" {numbers[0]}")
        yield Case(f"{kind} {length} {case}", kind, prompt, answer)


def passages(
    library: Library, texts: list[str], length: int, scored: int, number: int
) -> Iterator[Case]:
    """Passages of novels, `length` tokens before those that are scored."""
    for case in range(number):
        ids = library.ids(texts[case % len(texts)])
        start = Random(f"{length} book {case}").randrange(max(len(ids) - length - scored, 1))
        part = ids[start : start + length + scored]
        yield Case(
            f"book {length} {case}", "book", Prompt(token_ids=part[:-scored]), part[-scored:]
        )
