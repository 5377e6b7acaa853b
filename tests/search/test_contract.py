"""What must hold of every search strategy (`outrider.testing.searches`)."""

from collections.abc import Sequence

import pytest

from outrider.search import Search, Task
from outrider.search.account import SearchStoppedError
from outrider.search.candidate import Candidate
from outrider.strategy.catalogue import names, record
from outrider.testing.rigs import tabular_family
from outrider.testing.searches import check_search, searched

SCORED: set[str] = {"a-star", "deal", "pg-td", "transfer-q"}
"""Strategies that need a scorer."""
OPTIONS: dict[str, dict[str, int | str]] = {
    "superposed": {"drafts": 1},  # more need embeddings: tests/search/steps/test_superposed.py
    "exact-extract": {"newline": False},  # the tokenizer knows letters only
    "a-star": {"delimiter": "c", "step_tokens": 3, "nodes": 12},
    "pg-td": {"rollouts": 6},
    "deal": {"num_beams": 2, "lookahead": 3},
    "transfer-q": {"branches": 3, "lookahead": 3},
}
"""Options with which they search in a few tokens, where the defaults are larger."""
OTHER: set[str] = {"cfic", "contrastive", "gfd", "icn"}
"""Strategies whose prompts have a form of their own, or that need another model; their tests check
the contract."""


@pytest.mark.parametrize("name", [name for name in names("search") if name not in OTHER])
def test_the_contract(name: str) -> None:
    def make() -> Search:
        made = record("search", name).build(OPTIONS.get(name, {}))
        assert isinstance(made, Search)
        return made

    check_search(make, scored=name in SCORED)


class Nothing(Search):
    """A strategy that finds nothing."""

    def run(self, task: Task) -> Sequence[Candidate]:
        return []


def test_a_search_without_any_text_is_an_error() -> None:
    with pytest.raises(SearchStoppedError, match="found no text"):
        searched(Nothing(), tabular_family().target, (1, 2))
