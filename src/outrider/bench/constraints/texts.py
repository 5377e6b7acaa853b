"""Texts for schemas: a model is asked for JSON of each schema, with its grammar and without one.

All strategies write the text of one schema before any writes the next, so that they are measured in
turn.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from outrider.bench.constraints.cases import Case
from outrider.bench.constraints.records import Record, Records
from outrider.bench.constraints.tasks import Task, chosen
from outrider.bench.models import OpenModels
from outrider.bench.settings import Models, fingerprint
from outrider.bench.strategies import BASELINE, Named
from outrider.constraints.validation import validator_of
from outrider.core.errors import LogitsError, OptionError
from outrider.core.types import GRAMMAR
from outrider.core.values import JsonValue
from outrider.engine.generator import Generator
from outrider.engine.result import Result
from outrider.sampling import SamplingParams

FREE = "free"
"""The undrafted baseline without a grammar."""

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)

Told = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSettings:
    """Settings of a run; records of other settings are not mixed with it.

    Attributes:
        models: the models.
        strategies: names and options of drafters, the undrafted baseline first.
        count: number of schemas.
        max_new_tokens: limit of a text.
        prompt_tokens: schemas whose prompt is longer are left out.
        batch: schemas whose texts are written together. The speed of a text is then that beside the
            others.
        temperature: 0 chooses the best token.
        seed: of the order of the schemas, and of texts.
    """

    models: Models
    strategies: Sequence[Named]
    count: int
    max_new_tokens: int = 512
    prompt_tokens: int = 1024
    batch: int = 1
    temperature: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """What has to be equal for texts of two runs to be compared."""
        own = asdict(replace(self, strategies=(), count=1))
        return fingerprint(own)


def write_texts(
    cases: Sequence[Case],
    opened: OpenModels,
    settings: TextSettings,
    *,
    out: Path | None = None,
    resume: bool = False,
    told: Told = lambda name, done, total: None,
) -> list[Record]:
    """Write a text for each of `settings.count` schemas with each strategy, and without a grammar.

    Schemas are those of `chosen`.

    Args:
        cases: schemas.
        opened: the models.
        settings: see there.
        out: a file of JSON lines, written as it goes.
        resume: whether texts that `out` has are kept.
        told: called with the strategy, the number of texts, and of all.

    Raises:
        OptionError: the file cannot be used, it has texts of other settings, a strategy does not
            fit the models, or no schema is left.
        MissingExtraError: jsonschema-rs is not installed.
    """
    records = Records(out, ("strategy", "split", "id"), resume=resume)
    if any(record["settings"] != settings.name for record in records.all()):
        raise OptionError(f"{out} has texts of other settings", hint="Use another file")
    writers = {each.name: _generator(opened, each) for each in settings.strategies}
    writers[FREE] = writers[BASELINE]
    tasks = list(
        chosen(
            cases,
            writers[BASELINE],
            count=settings.count,
            prompt_tokens=settings.prompt_tokens,
            seed=settings.seed,
        )
    )
    if not tasks:
        raise OptionError(
            "no schema is left to write texts for",
            hint="Give schemas that the engine accepts, or a larger limit of prompt tokens",
        )
    found: list[Record] = []
    for start in range(0, len(tasks), settings.batch):
        part = tasks[start : start + settings.batch]
        for name, generator in writers.items():
            known = [records.find(name, *task.case.key) for task in part]
            new = [task for task, record in zip(part, known, strict=True) if record is None]
            made = _written(name, generator, new, settings)
            for record in made:
                records.add(record)
            found += [record for record in known if record is not None] + made
            told(name, len(found), len(tasks) * len(writers))
    return found


def _generator(opened: OpenModels, strategy: Named) -> Generator:
    generator = opened.build(strategy)
    generator.tokenizer = opened.tokenizer  # grammars and prompts need it
    return generator


def _written(
    name: str, generator: Generator, tasks: Sequence[Task], settings: TextSettings
) -> list[Record]:
    """Write the texts of some schemas together."""
    if not tasks:
        return []
    generator.reset()
    given: dict[str, JsonValue] = {
        "temperature": settings.temperature,
        "top_p": 1.0,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
    }
    plain = generator.params(**given)
    strategy = generator.strategy_for(plain)
    generations = [
        generator.generation(task.prompt, _params(plain, task, free=name == FREE)) for task in tasks
    ]
    deque(generator.run(generations, strategy), maxlen=0)
    results = [generator.result(generation, strategy) for generation in generations]
    return [
        _record(name, task, result, settings) for task, result in zip(tasks, results, strict=True)
    ]


def _params(plain: SamplingParams, task: Task, *, free: bool) -> SamplingParams:
    return replace(plain, constraint=None if free else task.constraint)


def _record(name: str, task: Task, result: Result, settings: TextSettings) -> Record:
    if result.error is not None:
        raise LogitsError(f"strategy {name!r}, schema {task.case.id}: {result.error}")
    speed = result.tokens_per_second
    return {
        "settings": settings.name,
        "strategy": name,
        "split": task.case.split,
        "id": task.case.id,
        "prompt_tokens": result.prompt_tokens,
        "tokens": result.completion_tokens,
        "seconds": result.completion_tokens / speed if speed else 0.0,
        "forwards": result.speculation.target.forwards,
        "forced": sum(source == GRAMMAR for source in result.sources),
        "finished": result.finish_reason == "stop",
        "valid": is_valid(task.case.schema, result.text),
        "text": result.text,
    }


def is_valid(schema: str, text: str) -> bool:
    """Whether a text is JSON of a schema. Of a text with a block between fences, as models write
    it without a grammar, the block counts."""
    fenced = _FENCED.search(text)
    try:
        return validator_of(schema).is_valid(json.loads(fenced[1] if fenced else text))
    except (ValueError, RecursionError):
        return False
