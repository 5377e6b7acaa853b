"""Type names for values that must be checked at run time."""

from typing import Any

JsonValue = Any
"""A value that is read from or written to a JSON file. A file may contain anything, so code that
reads a value must check it."""
