"""Texts of several systems, written once: their figures lie in a file of rows."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from benchmarks.guidance.dola import repeated
from benchmarks.guidance.pairs import judged
from benchmarks.long_inputs.intervals import bootstrap

from outrider import Generator
from outrider.core.types import Prompt
from outrider.engine.result import Result
from outrider.inputs.given import GivenPrompt
from outrider.protocols import LanguageModel


@dataclass(frozen=True)
class Text:
    """One text.

    Attributes:
        system: which wrote it.
        number: of the task.
        text: without the end token.
        ended: whether the model ended it.
        tokens: that were generated.
        loss: mean loss of a token under the plain model after the same prompt, in nats.
        repeated: share of 4-grams of tokens that were in the text before.
        seconds: of the processor, its share of the batch.
    """

    system: str
    number: int
    text: str
    ended: bool
    tokens: int
    loss: float
    repeated: float
    seconds: float


class Rows:
    """Texts by system and task.

    Args:
        path: the file; texts in it are not written again. None: texts are kept in memory alone.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._found: dict[tuple[str, int], Text] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                one = Text(**json.loads(line))
                self._found[one.system, one.number] = one

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._found

    def add(self, text: Text) -> None:
        """Keep a text, and write it to the file."""
        self._found[text.system, text.number] = text
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(text)) + "\n")

    def of(self, system: str) -> dict[int, Text]:
        """Return the texts of a system by task."""
        return {number: one for (name, number), one in self._found.items() if name == system}


def seen(model: LanguageModel, prompt: Prompt, system: str, number: int, result: Result) -> Text:
    """Return a text with its figures."""
    ids = tuple(result.token_ids)
    return Text(
        system=system,
        number=number,
        text=result.text,
        ended=result.finish_reason != "length",
        tokens=len(ids),
        loss=float(judged(model, prompt, ids).losses.mean()),
        repeated=repeated(ids),
        seconds=0.0,
    )


def write(
    generator: Generator,
    judge: Generator,
    system: str,
    asked: Sequence[GivenPrompt],
    others: Sequence[GivenPrompt | None],
    judged_after: Sequence[GivenPrompt],
    rows: Rows,
    *,
    end: float,
    batch: int,
    **sampling: Any,
) -> bool:
    """Write the texts of one system that are not there; return whether all are.

    Args:
        generator: writes.
        judge: the plain model.
        system: its name in the rows.
        asked: the prompts.
        others: the other prompt of each.
        judged_after: the prompts for the loss under the plain model.
        rows: gets the texts.
        end: stop at this time.
        batch: texts that are written together.
        **sampling: as for `Generator.generate`.
    """
    missing = [i for i in range(len(asked)) if (system, i) not in rows]
    for first in range(0, len(missing), batch):
        if perf_counter() > end:
            return False
        part = missing[first : first + batch]
        begun = process_time()
        results = generator.generate(
            [asked[i] for i in part], contrast=[others[i] for i in part], **sampling
        )
        spent = (process_time() - begun) / len(part)
        for i, result in zip(part, results, strict=True):
            prompt = judge.prompt(judged_after[i])
            one = seen(judge.strategy.target, prompt, system, i, result)
            rows.add(Text(**{**asdict(one), "seconds": spent}))
    return True


def interval(values: Sequence[float], digits: int = 2, *, sign: bool = False) -> str:
    """Return a mean with its interval as text."""
    if not values:
        return ""
    plus = "+" if sign else ""
    mean, low, high = (f"{value:{plus}.{digits}f}" for value in bootstrap(values))
    return f"{mean} [{low}, {high}]"
