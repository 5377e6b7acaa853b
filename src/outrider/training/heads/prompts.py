"""Makes chat prompts from the records of public data sets.

A form is a function from one JSON record to one conversation that ends with a user turn, or None
if the record does not fit.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider.core.errors import OptionError, reject_unknown
from outrider.core.types import Message
from outrider.training.core.copy_tasks import copy_task
from outrider.training.core.corpus import read_records
from outrider.training.core.prompts import messages as first_messages

Record = dict[str, Any]
Form = Callable[[Record, random.Random], Sequence[Message] | None]

_MOST_WORDS = 190
_ANSWERS_ON_CODE = (
    "Write a Python function for {name}.",
    "Implement {name} in Python, with a short explanation.",
    "Explain what this code does:\n```python\n{code}\n```",
    "How do I do {name} in Python? Give an example.",
)
_REWRITES = ("Split this sentence into two: ", "Rewrite more simply: ", "Paraphrase: ")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFile:
    """A file of records from which prompts are made.

    Attributes:
        name: the kind of its prompts, in reports.
        file: path below the data folder, `.jsonl` or `.jsonl.zst`.
        form: how a record becomes a prompt, one of `FORMS`.
        share: its share of all prompts, before normalization.
        licence: of the records, for the card.
    """

    name: str
    file: str
    form: str
    share: float
    licence: str = ""

    def __post_init__(self) -> None:
        reject_unknown("form of prompts:", {self.form: None}, FORMS)
        if self.share <= 0:
            raise OptionError(f"prompts {self.name!r} have share {self.share:g}", hint="Give > 0")


@dataclass(frozen=True, slots=True)
class TrainingPrompt:
    """A conversation that the target continues; `kind` is the name of its file."""

    kind: str
    messages: Sequence[Message]


def training_prompts(
    files: Sequence[PromptFile], data: Path, seed: int
) -> Iterator[TrainingPrompt]:
    """Yield the prompts of all files in random order, in proportion to their shares.

    A file that is used up drops out; the order depends on the files and on `seed` only.
    """
    rng = random.Random(seed)
    pools = {one.name: _pool(one, data, rng) for one in files}
    shares = {one.name: one.share for one in files}
    while pools := {name: pool for name, pool in pools.items() if pool}:
        [name] = rng.choices(list(pools), [shares[name] for name in pools])
        yield TrainingPrompt(name, pools[name].pop())


def _pool(one: PromptFile, data: Path, rng: random.Random) -> list[Sequence[Message]]:
    made = (FORMS[one.form](record, rng) for record in read_records(data / one.file))
    found = [messages for messages in made if messages and words(messages) <= _MOST_WORDS]
    rng.shuffle(found)
    return found


def words(messages: Sequence[Message]) -> int:
    """Return the number of words of a conversation."""
    return sum(len(str(message["content"]).split()) for message in messages)


def _asked(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def instruction(record: Record, rng: random.Random) -> Sequence[Message]:
    """Return the field `prompt`."""
    return _asked(record["prompt"])


def question(record: Record, rng: random.Random) -> Sequence[Message]:
    """Return the field `question`."""
    return _asked(record["question"])


def choices(record: Record, rng: random.Random) -> Sequence[Message]:
    """Return the field `question`, with its choices in half of the cases."""
    listed = [
        f"{letter}) {choice}" for letter, choice in zip("ABCDEFGH", record["choices"], strict=False)
    ]
    return _asked("\n".join([record["question"], *(listed if rng.random() < 0.5 else [])]))


def asking_text(record: Record, rng: random.Random) -> Sequence[Message] | None:
    """Return the field `text` if it is a short question."""
    text = record["text"]
    return _asked(text) if text.rstrip().endswith("?") and len(text.split()) < 70 else None


def long_text(record: Record, rng: random.Random) -> Sequence[Message] | None:
    """Return a request for a summary of the field `text`, or of its beginning."""
    cut = record["text"].split()[: rng.randrange(90, 180)]
    return _asked("Summarize: " + " ".join(cut)) if len(cut) >= 60 else None


def turns(record: Record, rng: random.Random) -> Sequence[Message] | None:
    """Return the field `turns` up to one of its first four user turns."""
    found = record["turns"]
    last = 2 * rng.randrange(0, max(1, min(4, len(found) // 2)))
    kept: list[Message] = [{"role": t["role"], "content": t["text"]} for t in found[: last + 1]]
    return kept if kept and kept[-1]["role"] == "user" else None


def opening(record: Record, rng: random.Random) -> Sequence[Message]:
    """Return the first of the field `turns`."""
    return _asked(record["turns"][0]["text"])


def code(record: Record, rng: random.Random) -> Sequence[Message] | None:
    """Return a task about a file of code, by its name or its beginning."""
    name = Path(record["path"]).stem.replace("_", " ")
    if name.startswith("test") or name in {"init", "example", "exemplar"} or "  " in name:
        return None
    return _asked(rng.choice(_ANSWERS_ON_CODE).format(name=name, code=record["code"][:400]))


def rewrite(record: Record, rng: random.Random) -> Sequence[Message]:
    """Return a request to rewrite the field `complex`."""
    return _asked(rng.choice(_REWRITES) + record["complex"])


def passage(record: Record, rng: random.Random) -> Sequence[Message] | None:
    """Return the field `context`, or one of `sections`, with one of its questions."""
    if not record["qa"]:
        return None
    pair = rng.choice(record["qa"])
    text = record.get("context")
    if text is None:
        number = str(pair.get("section", "1")).split(",")[0].strip()
        at = int(number) if number.isdigit() else 1
        text = record["sections"][min(max(at, 1), len(record["sections"])) - 1]
    return _asked(f"Answer the question with the help of this text.\n\n{text}\n\n{pair['q']}")


def copying(record: Record, rng: random.Random) -> Sequence[Message] | None:
    """Return a task that copies a part of the field `text`."""
    for document in copy_task(record, rng):
        return first_messages(document) or None
    return None


FORMS: Mapping[str, Form] = {
    form.__name__: form
    for form in (
        instruction,
        question,
        choices,
        asking_text,
        long_text,
        turns,
        opening,
        code,
        rewrite,
        passage,
        copying,
    )
}
"""All forms by name."""
