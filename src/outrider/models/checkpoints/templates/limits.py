"""Limits on chat templates, and the measures that are taken while one is rendered."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import CheckpointError

Value = Any
"""A value in a template: it may have any type."""

_STEPS_PER_CHECK = 512
_DEEPEST = 500
"""Deepest nesting of values: C code that hashes or compares deeper ones can overflow the stack."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateLimits:
    """Limits on a chat template and on one rendering of it.

    Attributes:
        source_characters: length of the template.
        tokens: words and signs of the template.
        steps: parts of the template that are evaluated, repetitions included.
        value_characters: length of one value, and of the output.
        total_characters: length of all values that are made.
        seconds: time of one rendering.
        memory_bytes: memory of the process that renders a template with unusual operations.
    """

    source_characters: int = 1 << 20
    tokens: int = 30_000
    steps: int = 1_000_000
    value_characters: int = 32 << 20
    total_characters: int = 256 << 20
    seconds: float = 5.0
    memory_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        """Check all ranges. Raises `OptionError`."""
        whole = Range(1, whole=True)
        seconds = Range(0, 1e6, above=True)
        names = [field.name for field in fields(self)]
        check_ranges(self, {n: seconds if n == "seconds" else whole for n in names})


DEFAULT = TemplateLimits()


class TemplateLimitError(CheckpointError):
    """A chat template exceeds a limit."""


class ExceededError(Exception):
    """A limit is exceeded; the text is its name."""


class UnboundedError(Exception):
    """An operation whose cost is not known before; it must run in a child process."""


class Meter:
    """Counts the steps and the characters of one rendering.

    Attributes:
        limits: the limits.
        steps: steps so far.
        characters: length of all values so far.
        depth: nesting of the value that was measured last.
    """

    def __init__(self, limits: TemplateLimits) -> None:
        self.limits = limits
        self.steps = self.characters = 0
        self.depth = 0
        self._check_at = _STEPS_PER_CHECK
        self._until = time.monotonic() + limits.seconds

    def tick(self, steps: int = 1) -> bool:
        """Count steps; return True. Raises `ExceededError`."""
        self.steps += steps
        if self.steps >= self._check_at:
            self._check_at = self.steps + _STEPS_PER_CHECK
            if self.steps > self.limits.steps:
                raise ExceededError("steps")
            if time.monotonic() > self._until:
                raise ExceededError("seconds")
        return True

    def size(self, characters: int) -> None:
        """Count a value of this length, before it is made. Raises `ExceededError`."""
        if characters > self.limits.value_characters:
            raise ExceededError("value_characters")
        self.characters += characters
        if self.characters > self.limits.total_characters:
            raise ExceededError("total_characters")
        self.tick(1 + (characters >> 14))

    def ticking(self, values: Iterable[Value]) -> Iterator[Value]:
        """Yield values; each is a step."""
        for value in values:
            self.tick()
            yield value

    def measure(self, value: Value) -> int:
        """Return the length of a value as text, about; shared parts count each time.

        Raises:
            ExceededError: the value is too long or too deep.
            UnboundedError: a part is of an unknown type.
        """
        if isinstance(value, str):
            return len(value)
        total = visited = 0
        todo = [(value, 0)]
        self.depth = 0
        while todo:
            part, depth = todo.pop()
            visited += 1
            total += 2
            self.depth = max(self.depth, depth)
            if depth > _DEEPEST:
                raise ExceededError("value_characters")
            if isinstance(part, str):
                total += len(part)
            elif isinstance(part, int):
                total += 1 + part.bit_length() // 3
            elif isinstance(part, dict):
                todo += [(inner, depth + 1) for pair in part.items() for inner in pair]
            elif isinstance(part, list | tuple | type({}.keys()) | type({}.values())):
                todo += [(inner, depth + 1) for inner in part]
            elif isinstance(part, type({}.items())):
                todo += [(inner, depth + 2) for pair in part for inner in pair]
            elif part is None or isinstance(part, float):
                total += 10
            else:
                raise UnboundedError(type(part).__name__)
            if total + len(todo) > self.limits.value_characters:
                raise ExceededError("value_characters")
            if not visited & 1023:
                self.tick(1024)
        self.tick(visited & 1023)
        return total
