"""Contrast of two system messages: does a text move away from the other message?

    python -m benchmarks.guidance.prompted.two_prompts smollm2 --rows rows.jsonl

Three pairs of opposite messages, each in both directions, with a measure of the text: words, tone
(positive less negative words, in 100 words, from a list), and letters a word. Beside the message
alone (strength 0): strengths 0.5 and 1 with the mask of the library (0.1) and of the published code
(0.00001); the other message replaced by a neutral one or by the same one (the idea switched off);
and two samples at temperature 0.8 under the message alone, of which the one counts that the measure
prefers (as many rows as a contrast). The others are greedy. Gains are towards the message, paired
with the message alone; intervals draw questions. A call with the rows of an earlier one goes on.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.guidance.prompted.tasks import TOPICS, words
from benchmarks.guidance.prompted.written import Rows, Text, interval, write

from outrider import Generator, load
from outrider.core.types import Message
from outrider.inputs.given import GivenPrompt

GOOD = """
amazing awesome beautiful beauty best better bright calm charming cheerful comfort delicious
delight delightful enjoy enjoyable excellent exciting fantastic favorite fresh friendly fun glad
good gorgeous grateful great happiness happy healthy helpful hope incredible inspiring joy
joyful kind laugh laughter lively love lovely magical magnificent nice peace peaceful perfect
play pleasant pleasure precious pretty smile soothing special splendid strong sunny sweet
thrilling treasure unique vibrant warm warmth welcome wonder wonderful
"""
BAD = """
afraid alone anger angry anxiety awful bad bitter bleak boring broken burden cold cruel damage
danger dangerous dark darkness dead death decay depressing despair difficult dirty disease dull
empty evil fail failure fear forgotten gloom gloomy grey grief grim harm harsh hate hopeless
horrible hurt ill lonely loneliness lose loss lost melancholy miserable misery monotonous nasty
nothing pain painful pointless poor sad sadness shadow sick sorrow struggle suffer suffering
terrible tired tragic ugly unhappy useless waste weak worse worst
"""

_GOOD, _BAD = frozenset(GOOD.split()), frozenset(BAD.split())


def tone(text: str) -> float:
    """Return how many more positive than negative words there are in 100 words."""
    found = [word.lower() for word in words(text)]
    signs = [(word in _GOOD) - (word in _BAD) for word in found]
    return 100 * sum(signs) / max(len(found), 1)


def letters(text: str) -> float:
    """Return the mean number of letters of a word."""
    found = words(text)
    return sum(map(len, found)) / max(len(found), 1)


@dataclass(frozen=True)
class Pair:
    """Two opposite messages.

    Attributes:
        low: the message whose texts have the smaller measure.
        high: the other one.
        measure: of a text.
    """

    low: str
    high: str
    measure: Callable[[str], float]


PAIRS: dict[str, Pair] = {
    "words": Pair(
        "Answer with one short sentence.",
        "Answer with a long and detailed text.",
        lambda text: float(len(words(text))),
    ),
    "tone": Pair(
        "You are gloomy and see the bad side of everything.",
        "You are cheerful and see the good side of everything.",
        tone,
    ),
    "letters a word": Pair(
        "You speak to a small child, in short and simple words.",
        "You speak to scientists, in formal and technical language.",
        letters,
    ),
}
NEUTRAL = "You are a helpful AI assistant."


@dataclass(frozen=True)
class System:
    """How texts are written.

    Attributes:
        strength: of the contrast.
        alpha: of the mask.
        other: the other message: `opposite`, `neutral`, `same`.
        seed: of a sample under the message alone; None: greedy.
        few: the first questions alone, where texts are expected to be equal to the bit.
    """

    strength: float = 0.0
    alpha: float = 0.1
    other: str = ""
    seed: int | None = None
    few: bool = False


SYSTEMS: dict[str, System] = {
    "alone": System(),
    "1, mask 0.1": System(1.0, 0.1, "opposite"),
    "0.5, mask 0.1": System(0.5, 0.1, "opposite"),
    "1, mask 0.00001": System(1.0, 1e-5, "opposite"),
    "1, mask 0.1, neutral": System(1.0, 0.1, "neutral"),
    "sample 1": System(seed=1),
    "sample 2": System(seed=2),
    "0.5, mask 0.00001": System(0.5, 1e-5, "opposite"),
    "1, mask 0.1, same message": System(1.0, 0.1, "same", few=True),
}
BEST = "two samples, better one"


@dataclass(frozen=True)
class Direction:
    """One message of a pair as the first one.

    Attributes:
        pair: its name.
        high: whether the measure is to be large.
    """

    pair: str
    high: bool

    @property
    def name(self) -> str:
        """The measure, and whether it is to be large."""
        return f"{'more' if self.high else 'less'} {self.pair}"

    @property
    def sign(self) -> float:
        """The factor of the measure with which more is better."""
        return 1.0 if self.high else -1.0

    def message(self, other: str = "") -> str:
        """Return the first message, or the other one."""
        pair = PAIRS[self.pair]
        own, opposite = (pair.high, pair.low) if self.high else (pair.low, pair.high)
        return {"": own, "same": own, "opposite": opposite, "neutral": NEUTRAL}[other]

    def measure(self, text: str) -> float:
        """Return the measure of a text."""
        return PAIRS[self.pair].measure(text)


DIRECTIONS = [Direction(pair, high) for pair in PAIRS for high in (False, True)]


def chat(system: str, topic: str) -> list[Message]:
    """Return a system message and a question."""
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"What do you think about {topic}?"},
    ]


def written(
    direction: Direction,
    name: str,
    writer: Generator,
    plain: Generator,
    rows: Rows,
    end: float,
    tokens: int,
    topics: Sequence[str],
) -> bool:
    """Write the texts of one direction and system; return whether all are there."""
    system = SYSTEMS[name]
    asked: list[GivenPrompt] = [chat(direction.message(), topic) for topic in topics]
    others: list[GivenPrompt | None] = [None] * len(topics)
    if system.other:
        others = [chat(direction.message(system.other), topic) for topic in topics]
    return write(
        writer,
        plain,
        f"{direction.name}: {name}",
        asked,
        others,
        asked,
        rows,
        end=end,
        batch=12,
        max_new_tokens=tokens,
        temperature=0.0 if system.seed is None else 0.8,
        seed=system.seed or 0,
    )


def texts(direction: Direction, name: str, rows: Rows) -> dict[int, Text]:
    """Return the texts of a direction and a system by question."""
    if name != BEST:
        return rows.of(f"{direction.name}: {name}")
    pairs = [rows.of(f"{direction.name}: {one}") for one in ("sample 1", "sample 2")]
    return {
        i: max((p[i] for p in pairs), key=lambda t: direction.sign * direction.measure(t.text))
        for i in pairs[0].keys() & pairs[1].keys()
    }


def table(rows: Rows) -> None:
    """Print the measures under each message alone, and the gains of all systems."""
    names = [*SYSTEMS, BEST]
    print()
    print("| system | " + " | ".join(one.name for one in DIRECTIONS) + " |")
    print("|---|" + "---|" * len(DIRECTIONS))
    for name in names:
        cells: list[str] = []
        for one in DIRECTIONS:
            base, own = texts(one, "alone", rows), texts(one, name, rows)
            both = sorted(base.keys() & own.keys())
            values = [one.measure(own[i].text) for i in both]
            if name != "alone":
                olds = [one.measure(base[i].text) for i in both]
                values = [one.sign * (a - b) for a, b in zip(values, olds, strict=True)]
            cells.append(interval(values, sign=name != "alone"))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(
        "\n| system | texts | equal to alone | repeated 4-grams | loss under its message | "
        "tokens | processor ms a token |"
    )
    print("|---|--:|--:|---|---|--:|--:|")
    for name in names:
        own_texts: list[Text] = []
        equal = 0
        for one in DIRECTIONS:
            base = texts(one, "alone", rows)
            for i, text in texts(one, name, rows).items():
                own_texts.append(text)
                equal += i in base and base[i].text == text.text
        if own_texts:
            count = sum(one.tokens for one in own_texts)
            print(
                f"| {name} | {len(own_texts)} | {equal} |"
                f" {interval([one.repeated for one in own_texts], 3)} |"
                f" {interval([one.loss for one in own_texts], 3)} |"
                f" {count / len(own_texts):.0f} |"
                f" {1000 * sum(one.seconds for one in own_texts) / count:.1f} |"
            )


def main() -> None:
    """Write the texts and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--topics", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=560.0)
    parser.add_argument("--rows", type=Path, help="a file of rows; texts in it are kept")
    options = parser.parse_args()
    end = perf_counter() + options.seconds
    rows = Rows(options.rows)
    plain = load(options.model, mode="none", threads=1)
    topics = list(TOPICS)[: options.topics]
    for name, system in SYSTEMS.items():
        writer = plain
        if system.other:
            guidance = f"two-prompt(strength={system.strength},alpha={system.alpha})"
            writer = load(
                plain.strategy.target, tokenizer=plain.tokenizer, mode="none", guidance=guidance
            )
        whole = [
            written(
                one,
                name,
                writer,
                plain,
                rows,
                end,
                options.tokens,
                topics[: 1 if system.few else None],
            )
            for one in DIRECTIONS
        ]
        print(f"{name}: {sum(whole)} of {len(whole)} directions", flush=True)
    table(rows)
    print(f"\nload average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
