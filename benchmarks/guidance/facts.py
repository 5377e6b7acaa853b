"""Facts for tests of memories: invented ones, in three wordings, and questions of trivia."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from outrider.inputs.lines import numbered_lines


@dataclass(frozen=True, slots=True)
class Fact:
    """A question with its answer.

    Attributes:
        group: `invented` or `trivia`.
        questions: wordings; the first one is stored, the others are held out.
        begin: the answer up to its value.
        value: what is asked for; a full stop follows it.
    """

    group: str
    questions: tuple[str, ...]
    begin: str
    value: str

    @property
    def answer(self) -> str:
        """The whole answer."""
        return f"{self.begin} {self.value}."


RELATIONS: dict[str, tuple[tuple[str, str, str], str]] = {
    "job": (
        (
            "What is the job of {name}?",
            "How does {name} earn a living?",
            "Which profession does {name} have?",
        ),
        "{name} works as a",
    ),
    "birth": (
        (
            "Where was {name} born?",
            "In which town was {name} born?",
            "What is the birthplace of {name}?",
        ),
        "{name} was born in",
    ),
    "music": (
        (
            "Which instrument does {name} play?",
            "What musical instrument can {name} play?",
            "When {name} makes music, on which instrument is it?",
        ),
        "{name} plays the",
    ),
    "river": (
        (
            "Which river flows through {name}?",
            "What is the river in {name} called?",
            "{name} lies on which river?",
        ),
        "The river that flows through {name} is the",
    ),
    "trade": (
        (
            "What is {name} known for?",
            "For which product is the town of {name} famous?",
            "What do people buy when they visit {name}?",
        ),
        "{name} is known for its",
    ),
}
"""The wordings of a question, and how its answer begins."""

PEOPLE = {
    "Marlo Vintergast": ("clockmaker", "Oslova", "cello"),
    "Tessaly Brook": ("pilot", "Hammerfeld", "harp"),
    "Ondrej Kalpak": ("beekeeper", "Ruskino", "trumpet"),
    "Ilse Quarrenton": ("surgeon", "Vellbridge", "drums"),
    "Dorian Pexley": ("plumber", "Kastelmoor", "flute"),
    "Wanda Strookman": ("locksmith", "Tarnbury", "organ"),
}
TOWNS = {
    "Oslova": ("Brindle", "candles"),
    "Hammerfeld": ("Tew", "umbrellas"),
    "Ruskino": ("Morva", "honey"),
    "Vellbridge": ("Asker", "violins"),
    "Kastelmoor": ("Lunn", "cheese"),
    "Tarnbury": ("Onder", "carpets"),
}
STRANGERS = (
    "Hedwig Almaric",
    "Peter Osterloh",
    "Juna Cavendale",
    "Bram Tolliver",
    "Sif Andrassy",
    "Nikolai Webb",
)
OTHER_TOWNS = ("Grauville", "Pelham Cross", "Norrby", "Castel Fiore", "Dunmarrow", "Zelny")


def invented() -> list[Fact]:
    """Return what is said about people and towns that do not exist."""
    return [
        *_about(PEOPLE, ("job", "birth", "music")),
        *_about(TOWNS, ("river", "trade")),
    ]


def _about(table: dict[str, tuple[str, ...]], relations: Sequence[str]) -> list[Fact]:
    return [
        Fact("invented", tuple(q.format(name=name) for q in wordings), begin.format(name=name), v)
        for name, values in table.items()
        for (wordings, begin), v in zip((RELATIONS[r] for r in relations), values, strict=True)
    ]


def strangers() -> list[str]:
    """Return the same questions about others, of whom nothing is stored."""
    people = [(name, r) for name in STRANGERS for r in ("job", "birth", "music")]
    towns = [(name, r) for name in OTHER_TOWNS for r in ("river", "trade")]
    return [
        RELATIONS[relation][0][number % 3].format(name=name)
        for number, (name, relation) in enumerate((*people, *towns))
    ]


def trivia(file: Path, count: int, skipped: int = 0) -> list[Fact]:
    """Return real questions with short answers, without choices."""
    found = (_asked(line) for _, line in numbered_lines(file))
    short = (fact for fact in found if fact is not None)
    return list(islice(short, skipped, skipped + count))


def _asked(line: str) -> Fact | None:
    record = json.loads(line)
    question, answer = record["question"].strip(), record["answer"].strip()
    chosen = any(word in question.lower() for word in ("following", "these", "not", "___"))
    if not question.endswith("?") or chosen or len(answer) > 24 or len(question) > 100:
        return None
    if not answer.replace(" ", "").isalpha():
        return None
    wordings = (
        question,
        f"I would like to know this: {question}",
        f"{question} Please answer in one sentence.",
    )
    return Fact("trivia", wordings, "The answer is", answer)
