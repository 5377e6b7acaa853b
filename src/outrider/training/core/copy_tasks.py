"""Makes copying tasks in chat form from plain text: repeat, extract, replace.

Drafting gains most in texts that copy their prompt, so a family has to learn such tasks.
"""

import random
import re
from collections.abc import Iterator
from typing import Any

from outrider.training.core.formats import question

_SENTENCE = re.compile(r"(?<=[.!?])[\"']?\s+(?=[A-Z\"'])")
_WORD = re.compile(r"\b[a-z]{4,}\b")
_MOST_CHARACTERS = 700

_REPEAT = ("Repeat this text exactly:", "Copy the text below word for word.", "Say this again:")
_REPLACE = (
    "Replace the word '{old}' with '{new}' in this text and give the text back:",
    "Write this text again, but with '{new}' instead of '{old}':",
)
_EXTRACT = {
    "first": "Which is the first sentence of this text?",
    "last": "Which is the last sentence of this text?",
    "with": "Give back the sentence with the word '{word}' from this text:",
}


def copy_task(record: dict[str, Any], rng: random.Random) -> Iterator[str]:
    """Yield one task from the field `text` of a record; none if the text is too short."""
    sentences = _some_sentences(record["text"], rng)
    if len(sentences) < 3:
        return
    passage = " ".join(sentences)
    kind = rng.choice(("repeat", "extract", "replace", "repeat"))
    if kind == "repeat":
        yield question(f"{rng.choice(_REPEAT)}\n\n{passage}", passage)
    elif kind == "extract":
        yield _extract(passage, sentences, rng)
    else:
        yield from _replace(passage, rng)


def _some_sentences(text: str, rng: random.Random) -> list[str]:
    """Choose two to seven adjacent sentences of one paragraph, at most 700 characters."""
    paragraphs = [part for part in text.split("\n\n") if len(part) > 200]
    if not paragraphs:
        return []
    sentences = _SENTENCE.split(rng.choice(paragraphs).replace("\n", " "))
    start = rng.randrange(max(1, len(sentences) - 3))
    chosen: list[str] = []
    for sentence in sentences[start : start + rng.randint(3, 7)]:
        if sum(map(len, chosen)) + len(sentence) > _MOST_CHARACTERS:
            break
        chosen.append(sentence)
    return chosen


def _extract(passage: str, sentences: list[str], rng: random.Random) -> str:
    kind = rng.choice(("first", "last", "with"))
    if kind != "with":
        return question(f"{_EXTRACT[kind]}\n\n{passage}", sentences[0 if kind == "first" else -1])
    for sentence in rng.sample(sentences, len(sentences)):
        once = [word for word in _WORD.findall(sentence) if passage.count(word) == 1]
        if once:
            lead = _EXTRACT["with"].format(word=rng.choice(once))
            return question(f"{lead}\n\n{passage}", sentence)
    return question(f"{_EXTRACT['first']}\n\n{passage}", sentences[0])


def _replace(passage: str, rng: random.Random) -> Iterator[str]:
    words = sorted(set(_WORD.findall(passage)))
    if len(words) < 2:
        return
    old, new = rng.sample(words, 2)
    changed = re.sub(rf"\b{old}\b", new, passage)
    yield question(f"{rng.choice(_REPLACE).format(old=old, new=new)}\n\n{passage}", changed)
