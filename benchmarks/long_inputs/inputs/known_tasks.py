"""Cases from the needle, tracking, copying and bAbI tasks of `eval_longctx_pd`."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.long_inputs.inputs.babi import needed_facts
from benchmarks.long_inputs.inputs.needs import Case, Span, Want

from outrider.inputs.documents.borders import SENTENCE, borders

_LINE = re.compile(r"(?:The|One of the) magic numbers? of the .+? is \d+\.")


def case_of(item: dict[str, Any]) -> Case:
    """One item, with its answer as the forced continuation.

    Raises:
        ValueError: the lines it asks for are not in its text.
    """
    task, text, answer = item["task"], item["context"], ", ".join(item["answers"])
    if task == "copy_paragraph":
        answer = item["answers"][0]
        wants = copied(text, answer)
    else:
        spans = _spans(item)
        wants = (Want(spans=spans, end=len(answer)),)
    return Case(
        name=item["id"],
        task="babi_qa" if task.startswith("babi") else task,
        document=item["id"],
        text=text,
        asked=item["question"],
        written=answer,
        wants=wants,
    )


def _spans(item: dict[str, Any]) -> tuple[Span, ...]:
    text, task = item["context"], item["task"]
    if task.startswith("babi"):
        all_facts = lines_in_order(text, item["facts"])
        answer, needed = needed_facts(item["facts"], item["question"])
        if answer is not None and answer not in item["answers"]:
            raise ValueError(f"{item['id']}: {answer} is not {item['answers']}")
        return tuple(all_facts[i] for i in needed)
    if task == "variable_tracking":
        return tuple(line_with(text, f"VAR {name} = ") for name in item["answers"])
    return tuple(line_with(text, f" is {value}.") for value in item["answers"])


def copied(text: str, paragraph: str) -> tuple[Want, ...]:
    """Each sentence of the paragraph is needed while it is written, from its first letter on."""
    at = text.find(paragraph)
    if at < 0:
        raise ValueError(f"no such paragraph: {paragraph[:60]!r}")
    marks = borders(paragraph)
    stops = [
        i for i in range(1, len(paragraph)) if marks[i] == SENTENCE and marks[i - 1] != SENTENCE
    ]
    cuts = [0, *stops, len(paragraph)]
    return tuple(Want(spans=((at + a, at + b),), begin=a, end=b) for a, b in pairwise(cuts))


def line_with(text: str, part: str) -> Span:
    """The line that holds `part`, which no other line does."""
    at = text.find(part)
    if at < 0 or text.find(part, at + 1) >= 0:
        raise ValueError(f"{part!r} is not in just one place")
    return text.rfind("\n", 0, at) + 1, (text + "\n").find("\n", at)


def lines_in_order(text: str, lines: Sequence[str]) -> tuple[Span, ...]:
    """Where the lines stand, each a paragraph of its own, one after the other."""
    spans: list[Span] = []
    at = 0
    padded = f"\n\n{text}\n\n"
    for line in lines:
        found = padded.find(f"\n\n{line}\n\n", at)
        if found < 0:
            raise ValueError(f"no line {line!r} after character {at}")
        spans.append((found, found + len(line)))
        at = found + len(line)
    return tuple(spans)


def turned_keys(item: dict[str, Any], talk: Callable[[str], str]) -> Case | None:
    """`niah_multikey` with a change of mind: the answer is written, then the writing turns to
    another of the needles. `talk`: what is then written, from the name of the needle."""
    text, answer = item["context"], item["answers"][0]
    asked = line_with(text, f" is {answer}.")
    others = [found for found in _LINE.finditer(text) if found.span() != asked]
    if not others:
        return None
    other = others[len(item["id"]) % len(others)]
    key = re.search(r"of the (.+?) is", other[0])
    assert key is not None
    begin = f"{text[slice(*asked)]} "
    rest = talk(f"the {key[1]}")
    want = Want(spans=(other.span(),), begin=len(begin), end=len(begin) + len(rest), decisions=2)
    return Case(
        name=f"{item['id']}-turned",
        task="turn_key",
        document=item["id"],
        text=text,
        asked=item["question"],
        written=begin + rest,
        wants=(want,),
    )


def without_lines(text: str) -> str:
    """The text of a `niah_single` item without its needle."""
    return re.sub(r"\n\n" + _LINE.pattern + r"(?=\n\n)", "", text)
