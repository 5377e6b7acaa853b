"""Schemas with instances, and what measures them."""

import json
import os
from functools import cache
from pathlib import Path

from outrider.bench.constraints.cases import Case, read_cases, sampled, text_of
from outrider.bench.constraints.engines import Vocabulary
from outrider.core.values import JsonValue
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.sources.families import family

FOLDER = "OUTRIDER_JSON_SCHEMAS"
"""The environment variable that names a folder with JSONSchemaBench."""

MISSING = f"{FOLDER} names no folder of JSONSchemaBench"


@cache
def vocabulary() -> Vocabulary:
    tokenizer = Tokenizer.load(family("tiny")["target"])
    assert tokenizer.eos_id is not None
    size = len(tokenizer.tokenizer)
    return Vocabulary(tokenizer=tokenizer.definition, ends=(tokenizer.eos_id,), size=size)


def case(
    schema: JsonValue,
    *instances: tuple[JsonValue, bool | None],
    name: str = "one",
    split: str = "own",
) -> Case:
    texts = tuple((text_of(data), valid) for data, valid in instances)
    return Case(split=split, id=name, schema=json.dumps(schema), instances=texts)


@cache
def bench() -> list[Case]:
    return read_cases(Path(os.environ[FOLDER]))


def sample(count: int) -> list[Case]:
    return sampled(bench(), count, 0)
