"""Classifier-free guidance of texts: are wishes about a text followed more often?

    python -m benchmarks.guidance.prompted.text_cfg smollm2 --rows rows.jsonl

Each task names a topic and one wish that a program checks (`tasks`). The other prompt is the last
token of the prompt (the default for models of text), the task without its wish, or another task
(the idea switched off). Beside them without guidance: the wish said twice, and two samples at
temperature 0.8, of which the one with the larger mean log-probability counts, or one that is as
wished if there is one (about as many rows as guidance). The others are greedy. Intervals draw
tasks; gains are paired with the plain model. A call with the rows of an earlier one goes on.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.guidance.prompted.tasks import WISHES, Task, tasks
from benchmarks.guidance.prompted.written import Rows, Text, interval, write

from outrider import load
from outrider.core.types import Message
from outrider.inputs.given import GivenPrompt

TEMPERATURE = 0.8
STEP = 17
"""Tasks to the one that is the other prompt where the idea is switched off: another topic and
another wish, since it divides neither of their numbers."""


@dataclass(frozen=True)
class System:
    """How texts are written.

    Attributes:
        scale: of the guidance.
        other: the other prompt: `last token`, `without the wish`, or `another task`.
        twice: the wish is said twice.
        seed: of a sample; None: greedy.
    """

    scale: float = 1.0
    other: str = ""
    twice: bool = False
    seed: int | None = None


SYSTEMS: dict[str, System] = {
    "plain": System(),
    **{
        f"{other}, {scale:g}": System(scale=scale, other=other)
        for other in ("last token", "without the wish", "another task")
        for scale in (1.25, 1.5, 2.0)
    },
    "wish said twice": System(twice=True),
    "sample 1": System(seed=1),
    "sample 2": System(seed=2),
}


def message(text: str) -> list[Message]:
    """Return a chat of one message."""
    return [{"role": "user", "content": text}]


def prompts(
    given: Sequence[Task], every: Sequence[Task], system: System
) -> tuple[list[GivenPrompt], list[GivenPrompt | None]]:
    """Return the prompts of tasks, and the other prompts; `every` holds all tasks."""
    asked: list[GivenPrompt] = [message(one.twice if system.twice else one.text) for one in given]
    others: list[GivenPrompt | None] = [None] * len(given)
    for number, task in enumerate(given):
        if system.other == "without the wish":
            others[number] = message(task.bare)
        elif system.other == "another task":
            others[number] = message(every[(number + STEP) % len(every)].text)
    return asked, others


def pick(given: Sequence[Task], rows: Rows, *, checked: bool) -> dict[int, Text]:
    """Return one of the two samples of each task: the likelier one, or one that is as wished."""
    first, second = rows.of("sample 1"), rows.of("sample 2")
    found: dict[int, Text] = {}
    for number in first.keys() & second.keys():
        pair = sorted((first[number], second[number]), key=lambda one: one.loss)
        if checked:
            pair.sort(key=lambda one: not given[number].kept(one.text, one.ended))
        found[number] = pair[0]
    return found


def table(given: Sequence[Task], rows: Rows) -> None:
    """Print what was measured, each system beside the plain model on the same tasks."""
    texts = {name: rows.of(name) for name in SYSTEMS}
    texts["two samples, likelier"] = pick(given, rows, checked=False)
    texts["two samples, checked"] = pick(given, rows, checked=True)
    print(
        "\n| system | tasks | as wished | minus plain | and names the topic | minus plain |"
        " repeated 4-grams | minus plain | loss under the plain model | tokens | processor ms a"
        " token |\n|---|--:|---|---|---|---|---|---|---|--:|--:|"
    )
    plain = texts["plain"]
    for name, found in texts.items():
        every = sorted(found.keys() & plain.keys() & set(range(len(given))))
        if not every:
            continue
        measures = {
            "as wished": [float(given[i].kept(found[i].text, found[i].ended)) for i in every],
            "both": [float(both(given[i], found[i])) for i in every],
            "repeated": [found[i].repeated for i in every],
        }
        olds = {
            "as wished": [float(given[i].kept(plain[i].text, plain[i].ended)) for i in every],
            "both": [float(both(given[i], plain[i])) for i in every],
            "repeated": [plain[i].repeated for i in every],
        }
        cells = [str(len(every))]
        for measure, own in measures.items():
            gain = [a - b for a, b in zip(own, olds[measure], strict=True)]
            digits = 3 if measure == "repeated" else 2
            cells.append(interval(own, digits))
            cells.append("" if name == "plain" else interval(gain, digits, sign=True))
        count = sum(found[i].tokens for i in every)
        cells += [
            interval([found[i].loss for i in every]),
            f"{count / len(every):.0f}",
            f"{1000 * sum(found[i].seconds for i in every) / count:.1f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    by_wish(given, texts)


def both(task: Task, text: Text) -> bool:
    """Return whether a text is as wished and names the topic."""
    return task.kept(text.text, text.ended) and task.on_topic(text.text)


def by_wish(given: Sequence[Task], texts: dict[str, dict[int, Text]]) -> None:
    """Print the share of tasks that are as wished, by wish."""
    print("\n| wish | " + " | ".join(texts) + " |\n|---|" + "--:|" * len(texts))
    for wish in WISHES:
        cells: list[str] = []
        for found in texts.values():
            own = [i for i in found if i < len(given) and given[i].wish == wish]
            kept = sum(given[i].kept(found[i].text, found[i].ended) for i in own)
            cells.append(f"{kept / len(own):.2f} ({len(own)})" if own else "")
        print(f"| {wish} | {' | '.join(cells)} |")


def main() -> None:
    """Write the texts and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--topics", type=int, default=16, help="12 tasks each")
    parser.add_argument("--count", type=int, help="tasks to write; all if it is left out")
    parser.add_argument("--tokens", type=int, default=80)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=560.0)
    parser.add_argument("--rows", type=Path, help="a file of rows; texts in it are kept")
    options = parser.parse_args()
    end = perf_counter() + options.seconds
    rows, given = Rows(options.rows), tasks(options.topics)
    plain = load(options.model, mode="none", threads=1)
    model, codec = plain.strategy.target, plain.tokenizer
    part = given[: options.count]
    after: list[GivenPrompt] = [message(one.text) for one in part]
    for name, system in SYSTEMS.items():
        writer = plain
        if system.other:
            writer = load(
                model,
                tokenizer=codec,
                mode="none",
                guidance=f"classifier-free(scale={system.scale})",
            )
        asked, others = prompts(part, given, system)
        whole = write(
            writer,
            plain,
            name,
            asked,
            others,
            after,
            rows,
            end=end,
            batch=options.batch,
            max_new_tokens=options.tokens,
            temperature=0.0 if system.seed is None else TEMPERATURE,
            seed=system.seed or 0,
        )
        print(f"{name}: {len(rows.of(name))} texts", flush=True)
        if not whole:
            break
    table(given, rows)
    print(f"\nload average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
