"""Short runs of the tiny family: real models, few tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outrider.bench.config import make_settings
from outrider.bench.run import Bench, Measured
from outrider.bench.settings import Settings

SMALL: dict[str, Any] = {
    "dtype": "float32",
    "threads": 1,
    "prompts": 1,
    "repeats": 1,
    "workloads": "stories,copy",
    "strategies": "draft:k=3",
    "max_new_tokens": 8,
}

Measure = Callable[..., Measured]


def small(**changes: Any) -> Settings:
    return make_settings(SMALL | changes)


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    """Run a small bench, with these settings instead of the small ones."""

    def run(folder: Path | None = None, costs: bool = False, **changes: Any) -> Measured:
        bench = Bench(
            settings=small(**changes), folder=folder, scratch=tmp_path / "scaled", costs=costs
        )
        return bench.run()

    return run
