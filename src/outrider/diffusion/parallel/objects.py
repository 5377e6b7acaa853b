"""Small JSON objects that follow a schema and a text. Not a task of ParallelBench: it serves
decoding under a grammar."""

import json
import random
from dataclasses import dataclass

from outrider.core.values import JsonValue
from outrider.diffusion.parallel.item import Item, Task
from outrider.diffusion.parallel.words import ADJECTIVES, ALL_NAMES, OBJECTS, PLACES, SUBJECTS

_COLOURS = ("red", "blue", "green", "white")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an object: its schema, and the sentence that tells its value."""

    name: str
    schema: dict[str, JsonValue]
    sentence: str


FIELDS = (
    Field("name", {"type": "string"}, "The name is {}."),
    Field("age", {"type": "integer"}, "The age is {}."),
    Field("colour", {"enum": list(_COLOURS)}, "The colour is {}."),
    Field("place", {"type": "string"}, "It is in the {}."),
    Field("count", {"type": "integer"}, "There are {}."),
    Field("animal", {"type": "string"}, "There is a {}."),
    Field("open", {"type": "boolean"}, "It is {} open."),
    Field("things", {"type": "array", "items": {"type": "string"}}, "I see the {}."),
    Field("kind", {"type": "string"}, "It is {}."),
)
"""The fields that objects are drawn from."""


def _value(field: Field, rng: random.Random) -> JsonValue:
    numbers = {"age": rng.randint(1, 99), "count": rng.randint(2, 30)}
    words = {"name": ALL_NAMES, "colour": _COLOURS, "place": PLACES, "animal": SUBJECTS[11:]}
    if field.name in numbers:
        return numbers[field.name]
    if field.name == "open":
        return rng.random() < 0.5
    if field.name == "things":
        return list(rng.sample(OBJECTS, rng.randint(1, 3)))
    return rng.choice(words.get(field.name, ADJECTIVES))


def _told(field: Field, value: JsonValue) -> str:
    if isinstance(value, bool):
        return field.sentence.format("now" if value else "not")
    if isinstance(value, list):
        return field.sentence.format(" and the ".join(str(one) for one in value))
    return field.sentence.format(value)


def object_schema(fields: tuple[Field, ...]) -> dict[str, JsonValue]:
    """Return the JSON schema of an object with exactly these fields."""
    return {
        "type": "object",
        "properties": {field.name: field.schema for field in fields},
        "required": [field.name for field in fields],
        "additionalProperties": False,
    }


def draw_fields(rng: random.Random) -> tuple[Field, ...]:
    """Draw two to four fields in random order."""
    return tuple(rng.sample(FIELDS, rng.randint(2, 4)))


def make_object(rng: random.Random, split: str) -> Item:
    """Draw an object: the prompt has the types of its fields and sentences with their values."""
    fields = draw_fields(rng)
    values = {field.name: _value(field, rng) for field in fields}
    told = [_told(field, values[field.name]) for field in fields]
    rng.shuffle(told)
    types = ", ".join(f'"{field.name}": {_type(field)}' for field in fields)

    def score(text: str) -> float:
        try:
            return float(json.loads(text) == values)
        except ValueError:
            return 0.0

    prompt = f"Write a JSON object with {types}. {' '.join(told)}"
    return Item(prompt=prompt, key=prompt, score=score, answer=lambda own: json.dumps(values))


def _type(field: Field) -> str:
    return "|".join(_COLOURS) if field.name == "colour" else str(field.schema["type"])


OBJECT_TASKS = (Task(name="json", group="objects", slot=64, make=make_object),)
