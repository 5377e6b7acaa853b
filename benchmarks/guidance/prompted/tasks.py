"""Short writing tasks with one wish each that a program can check."""

import re
from collections.abc import Callable
from dataclasses import dataclass

TOPICS: dict[str, str] = {
    "bees": r"\bbees?\b|honey",
    "the sea": r"\bseas?\b|ocean|water",
    "bread": r"bread|loaf|dough",
    "winter": r"winter|snow|cold",
    "bicycles": r"bicycl|bike|cycling",
    "the moon": r"moon|lunar",
    "libraries": r"librar|book",
    "cats": r"\bcats?\b|kitten|feline",
    "rivers": r"river|stream|water",
    "music": r"music|song|melod",
    "gardens": r"garden|flower|plant",
    "trains": r"train|rail",
    "coffee": r"coffee|espresso|caffeine",
    "mountains": r"mountain|peak|summit",
    "school": r"school|student|teacher|learn",
    "rain": r"\brain|drop",
    "horses": r"horse|equine|pony",
    "the sun": r"\bsun|solar",
    "football": r"football|soccer|\bball\b|team",
    "dreams": r"dream|sleep",
    "cheese": r"chees",
    "forests": r"forest|tree|wood",
    "clocks": r"clock|time|watch",
    "friends": r"friend",
}
"""Each with an expression that finds it in an answer."""


@dataclass(frozen=True)
class Wish:
    """What an answer must be like.

    Attributes:
        text: the wish, in words.
        kept: whether an answer is like that, given its text and whether it came to an end.
    """

    text: str
    kept: Callable[[str, bool], bool]


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return re.findall(r"[A-Za-z']+", text)


def _lines(text: str, mark: str) -> int:
    return sum(re.match(mark, line.strip()) is not None for line in text.splitlines())


def _sentences(text: str) -> int:
    return len(re.findall(r"[.!?]+(?=\s|[\"')]|$)", text))


WISHES: dict[str, Wish] = {
    "capitals": Wish(
        "Write only in capital letters.", lambda t, _: bool(words(t)) and t == t.upper()
    ),
    "lower case": Wish(
        "Write only in lower-case letters, without any capital letter.",
        lambda t, _: bool(words(t)) and t == t.lower(),
    ),
    "one sentence": Wish(
        "Write exactly one sentence.", lambda t, ended: ended and _sentences(t) == 1
    ),
    "15 words": Wish("Use fewer than 15 words.", lambda t, ended: ended and 0 < len(words(t)) < 15),
    "bullets": Wish(
        "Write exactly three bullet points, each on a line that begins with '- '.",
        lambda t, _: _lines(t, r"[-*\u2022] ") == 3,
    ),
    "numbers": Wish(
        "Write three lines that begin with '1.', '2.' and '3.'.",
        lambda t, _: all(_lines(t, rf"{n}\.") == 1 for n in (1, 2, 3)),
    ),
    "silver": Wish(
        "Use the word 'silver' in your text.", lambda t, _: "silver" in map(str.lower, words(t))
    ),
    "seven": Wish(
        "Mention the number seven.", lambda t, _: bool(re.search(r"\b(7|seven)\b", t.lower()))
    ),
    "honestly": Wish(
        "Begin with the word 'Honestly'.",
        lambda t, _: re.match(r"\W*honestly\b", t.lower()) is not None,
    ),
    "question": Wish(
        "End with a question.", lambda t, ended: ended and t.rstrip("\"' \n").endswith("?")
    ),
    "quoted": Wish(
        "Put the whole text between double quotation marks.",
        lambda t, ended: ended and re.fullmatch(r'"[^"]+"', t.strip()) is not None,
    ),
    "without the": Wish(
        "Do not use the word 'the'.",
        lambda t, _: len(words(t)) > 4 and "the" not in map(str.lower, words(t)),
    ),
}


@dataclass(frozen=True)
class Task:
    """A topic and a wish.

    Attributes:
        topic: one of `TOPICS`.
        wish: one of `WISHES`.
    """

    topic: str
    wish: str

    @property
    def bare(self) -> str:
        """The task without the wish."""
        return f"Write a short text about {self.topic}."

    @property
    def text(self) -> str:
        """The task as it is asked."""
        return f"{self.bare} {WISHES[self.wish].text}"

    @property
    def twice(self) -> str:
        """The task with the wish said twice."""
        return f"{WISHES[self.wish].text} {self.text}"

    def kept(self, text: str, ended: bool) -> bool:
        """Return whether an answer is as wished."""
        return WISHES[self.wish].kept(text, ended)

    def on_topic(self, text: str) -> bool:
        """Return whether an answer names the topic."""
        return re.search(TOPICS[self.topic], text.lower()) is not None


def tasks(topics: int) -> list[Task]:
    """Return all wishes, each with the first `topics` topics, mixed so that each beginning of the
    list has all wishes about equally often."""
    names, wishes = list(TOPICS)[:topics], list(WISHES)
    return [
        Task(names[(row + column) % len(names)], wish)
        for row in range(len(names))
        for column, wish in enumerate(wishes)
    ]
