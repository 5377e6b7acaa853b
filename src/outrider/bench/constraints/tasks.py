"""Schemas that texts are written for: those that the engine accepts, from all splits in turn.

The prompt is in the manner of JSONSchemaBench: an instruction and the schema.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from outrider.bench.constraints.cases import Case
from outrider.constraints.validation import validator_of
from outrider.core.errors import OptionError
from outrider.core.types import Prompt
from outrider.core.values import JsonValue
from outrider.engine.generator import Generator
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling.constraint import Constraint

_INSTRUCTION = "Write one JSON value that is valid for this JSON schema. Write only the JSON."


@dataclass(frozen=True, slots=True)
class Task:
    """A schema that the engine accepts, with what the model is asked."""

    case: Case
    prompt: Prompt
    constraint: Constraint


def chosen(
    cases: Sequence[Case], generator: Generator, *, count: int, prompt_tokens: int, seed: int
) -> Iterator[Task]:
    """Yield schemas that can be used, from all splits in turn.

    Args:
        cases: schemas; those that the engine or Outrider's limits refuse are left out.
        generator: reads prompts and compiles grammars.
        count: number of schemas; fewer if there are no more.
        prompt_tokens: schemas whose prompt is longer are left out.
        seed: of the order within a split.
    """
    draw = random.Random(seed)
    splits: dict[str, list[Case]] = {}
    for case in draw.sample(list(cases), len(cases)):
        splits.setdefault(case.split, []).append(case)
    done = 0
    while splits and done < count:
        for split in sorted(splits):
            if not splits[split]:
                del splits[split]
                continue
            task = None
            while task is None and splits[split]:
                task = _task(splits[split].pop(), generator, prompt_tokens)
            if task is None:
                continue
            yield task
            done += 1
            if done == count:
                return


def _task(case: Case, generator: Generator, prompt_tokens: int) -> Task | None:
    if len(case.schema) > 16 * prompt_tokens:  # spares its tokenization
        return None
    prompt = generator.prompt(_asked(case.schema, generator))
    if len(prompt.token_ids) > prompt_tokens:
        return None
    try:
        constraint = Constraint.json_schema(case.schema)
        validator_of(case.schema)
        generator.grammars.of(constraint)
    except OptionError:
        return None
    return Task(case, prompt, constraint)


def _asked(schema: str, generator: Generator) -> str | list[dict[str, JsonValue]]:
    """Return messages, or a text for models without a chat template."""
    tokenizer = generator.tokenizer
    if isinstance(tokenizer, Tokenizer) and tokenizer.has_chat:
        return [
            {"role": "system", "content": _INSTRUCTION},
            {"role": "user", "content": f"The schema:\n{schema}"},
        ]
    return f"{_INSTRUCTION}\n\nThe schema:\n{schema}\n\nThe JSON:\n"
