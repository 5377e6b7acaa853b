"""Hostile documents and chat templates, each through the command line in a child with limits."""

import pytest

from tests.fuzz import document_cases, template_cases
from tests.fuzz.sandbox import Sandbox

CASES = [*document_cases.cases(), *template_cases.cases()]
PARTS = 8
"""Groups of cases, so that processes can share them."""


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_each_is_one_line_or_is_read(part: int, sandbox: Sandbox) -> None:
    assert list(sandbox.faults(CASES[part::PARTS])) == []
