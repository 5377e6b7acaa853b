"""The page of limits says what the class says."""

import re
from dataclasses import fields
from pathlib import Path

from outrider.models.checkpoints.limits import VARIABLE, CheckpointLimits

PAGE = Path(__file__).parents[3] / "docs/limits.md"


def test_the_page_lists_every_limit_with_its_value() -> None:
    section = (
        PAGE.read_text(encoding="utf-8").partition("\n## Checkpoints\n")[2].partition("\n##")[0]
    )
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", section, re.M)
    listed = {name: int(value.replace(",", "")) for name, value in rows}
    limits = CheckpointLimits()
    assert listed == {one.name: getattr(limits, one.name) for one in fields(limits)}
    assert VARIABLE in section


def test_every_limit_is_described() -> None:
    described = re.findall(r"^        (\w+): ", CheckpointLimits.__doc__ or "", re.M)
    assert described == [one.name for one in fields(CheckpointLimits)]
