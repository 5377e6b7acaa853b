"""Word problems of one step with small numbers, and solved ones to be given before them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from outrider.training.core.corpus import read_records

SOLVED = (
    (
        "Tom has 5 apples. He buys 3 more apples. How many apples does he have now?",
        "Tom starts with 5 apples. He buys 3 more, so he has 5 + 3 = 8 apples. The answer is 8.",
    ),
    (
        "A box holds 12 pens. Ann takes 4 pens out of the box. How many pens are left in the box?",
        "12 - 4 = 8. The answer is 8.",
    ),
    (
        "There are 6 bags with 4 oranges in each bag. How many oranges are there in all?",
        "There are 6 bags, and each of them holds 4 oranges. The number of oranges is 6 * 4 = 24. "
        "The answer is 24.",
    ),
    (
        "18 sweets are shared by 3 children equally. How many sweets does each child get?",
        "Each child gets 18 / 3 = 6 sweets. The answer is 6.",
    ),
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its answer."""

    text: str
    answer: str

    def messages(self, before: str = "") -> list[dict[str, str]]:
        """Return the solved problems and this question; each solution begins with `before`."""
        found: list[dict[str, str]] = []
        for question, solution in SOLVED:
            found += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": before + solution},
            ]
        return [*found, {"role": "user", "content": self.text}]


def small(record: Mapping[str, str], largest: int) -> bool:
    """Return whether a question has two numbers, and these and its answer are not too large."""
    numbers = [float(one) for one in re.findall(r"\d+\.?\d*", record["question"])]
    return len(numbers) == 2 and max(numbers) <= largest and float(record["answer"]) <= 2 * largest


def questions(path: Path, number: int, largest: int) -> Sequence[Question]:
    """Return the questions with small numbers, at equal distances in the file."""
    found = [
        Question(one["question"], one["answer"])
        for one in read_records(path)
        if small(one, largest)
    ]
    count = min(number, len(found))
    return [found[i * len(found) // count] for i in range(count)]
