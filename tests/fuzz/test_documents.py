"""Hostile documents and chat templates, each through the command line in a child with limits."""

from collections.abc import Callable, Iterator

import pytest

from tests.fuzz import document_cases, template_cases
from tests.fuzz.case import Case
from tests.fuzz.sandbox import Sandbox


@pytest.mark.slow
@pytest.mark.parametrize("cases", [document_cases.cases, template_cases.cases])
def test_each_is_one_line_or_is_read(cases: Callable[[], Iterator[Case]]) -> None:
    with Sandbox() as sandbox:
        assert list(sandbox.faults(cases())) == []
