"""Names for values whose type is not known before they are looked at."""

from typing import Any

JsonValue = Any
"""A value read from a JSON file, or written to one. Files come from elsewhere and may hold
anything, so whoever reads a value checks it."""
