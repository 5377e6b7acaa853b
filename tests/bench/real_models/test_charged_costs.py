"""Drafters on recorded answers, with a clock that charges measured costs."""

import pytest
from benchmarks.real_models.charged_costs import DRAFTERS, MILLISECONDS, Charges, Text, play

from outrider.core.errors import OptionError
from outrider.policies import CostSurface

CURVE = CostSurface.of({rows: ms / 1e3 for rows, ms in MILLISECONDS.items()})
CHARGES = Charges(curve=CURVE, believed=CURVE, asking=1e-4, choice=1e-4)
REPEATED = Text([1, 2, 3, 4, 5, 1, 2, 3], [4, 5, 1, 2, 3, 4, 5, 1, 2, 3])


@pytest.mark.parametrize("name", DRAFTERS)
def test_drafts_of_a_repeated_text_are_kept(name: str) -> None:
    [text] = play(name, [REPEATED], CHARGES, 0.0)
    assert text.rounds < len(REPEATED.answer)
    assert 0.0 < text.seconds < len(REPEATED.answer) * CHARGES.seconds(1, 1, False)


def test_a_drafter_that_learns_from_rows_is_refused() -> None:
    """Without rows it would be measured as a drafter that has learned nothing."""
    with pytest.raises(OptionError, match=r"recycling.*learns from rows"):
        play("recycling", [REPEATED], CHARGES, 0.0)
