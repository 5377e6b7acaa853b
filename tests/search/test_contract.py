"""What must hold of every search strategy (`outrider.testing.searches`)."""

import pytest

from outrider.search import Search
from outrider.strategy.catalogue import names, record
from outrider.testing.searches import check_search

SCORED: set[str] = set()
"""Strategies that need a scorer."""
OPTIONS: dict[str, dict[str, int]] = {}
"""Options with which they search in a few tokens, where the defaults are larger."""
OTHER: set[str] = {"contrastive"}
"""Strategies whose prompts have a form of their own, or that need another model; their tests check
the contract."""


@pytest.mark.parametrize("name", [name for name in names("search") if name not in OTHER])
def test_the_contract(name: str) -> None:
    def make() -> Search:
        made = record("search", name).build(OPTIONS.get(name, {}))
        assert isinstance(made, Search)
        return made

    check_search(make, scored=name in SCORED)
