"""I1 and I3 through forwards of static shape, choices made with them, and drafts that the device
writes: as on an accelerator, without the graphs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.models.cuda import StaticDecoder
from outrider.models.llama.decoder import Decoder
from tests.exactness.setups.rigs import SAMPLINGS, Family, nests, outputs, run, stage
from tests.exactness.test_checkpoints import PROMPTS, noisy
from tests.exactness.test_checkpoints import SHAPE as FAMILY_SHAPE
from tests.exactness.test_state_fuzz import SHAPE, walk
from tests.models.make_checkpoints import make_checkpoint


@pytest.fixture(scope="module", params=["llama", "mistral"])
def folders(request: Any, tmp_path_factory: Any) -> list[Path]:
    """Target, qualifier, small and draft; Mistral with a window that hides the beginning."""
    root = tmp_path_factory.mktemp(request.param)
    window = {"sliding_window": 6} if request.param == "mistral" else {}
    made = []
    for i, amount in enumerate((0.0, 0.15, 0.25, 0.35)):
        path = root / str(i)
        make_checkpoint(path, request.param, dtype=torch.float64, **FAMILY_SHAPE, **window)
        if amount:
            noisy(path, i, amount)
        made.append(path)
    return made


@pytest.fixture(scope="module")
def family(folders: list[Path]) -> Family:
    return Family(*(StaticDecoder.load(path, dtype=torch.float64) for path in folders))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("nest", ["two", "four"])
def test_drafted_equals_undrafted(
    family: Family, folders: list[Path], nest: str, sampling: str
) -> None:
    """Also what `Decoder` writes, and in batches of one, two (short) and five (packed)."""
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 16, "end_ids": (0,)}
    drafters = nests(family)
    whole = stage(family.target, drafters[nest])
    eager = Decoder.load(folders[0], dtype=torch.float64)
    plain = outputs(run(stage(eager, drafters["none"]), PROMPTS, **options))
    for batch in (PROMPTS[:1], PROMPTS[:2], PROMPTS):
        expected = plain[: len(batch)]
        assert outputs(run(stage(family.target, drafters["none"]), batch, **options)) == expected
        assert outputs(run(whole, batch, **options)) == expected


def test_drafts_are_accepted_and_refused(family: Family) -> None:
    [g] = run(stage(family.target, nests(family)["two"]), PROMPTS[:1], max_new_tokens=60)
    assert 3 < g.counters.accepted < g.counters.drafted


def test_walks(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "llama", dtype=torch.float64, **SHAPE)
    walk(StaticDecoder.load(tmp_path, dtype=torch.float64), range(200), steps=12)
