"""Tables of cases too long to be run each time: every row and every column is, at least once."""

from collections.abc import Iterable
from typing import Any

import pytest


def sparse(rows: Iterable[Any], columns: Iterable[Any], every: int) -> list[Any]:
    """All pairs; but for every `every`-th of a row, shifted from row to row, they are slow."""
    wide = list(columns)
    return [
        pytest.param(row, column, marks=() if (i + j) % every == 0 else pytest.mark.slow)
        for i, row in enumerate(rows)
        for j, column in enumerate(wide)
    ]
