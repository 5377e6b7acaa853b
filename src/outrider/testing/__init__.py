"""Conformance tests for drafters, rules, runners and method records of other packages.

>>> from outrider.testing import check_drafter
>>> from outrider.drafters import TokenRecycling
>>> check_drafter(lambda family: TokenRecycling())  # report, or ConformanceError

They need no test framework, no network and no checkpoint: models are tables of seven tokens.
"""

from outrider.testing.drafters import DrafterReport, check_drafter
from outrider.testing.errors import ConformanceError
from outrider.testing.guidance import GuidanceReport, check_guidance
from outrider.testing.methods import check_method
from outrider.testing.rigs import Family
from outrider.testing.rules import RuleReport, check_rule
from outrider.testing.runners import RunnerReport, check_runner

__all__ = [
    "ConformanceError",
    "DrafterReport",
    "Family",
    "GuidanceReport",
    "RuleReport",
    "RunnerReport",
    "check_drafter",
    "check_guidance",
    "check_method",
    "check_rule",
    "check_runner",
]
