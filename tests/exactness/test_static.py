"""I1 and I3 through forwards of static shape, choices made with them, and drafts that the device
writes: as on an accelerator, without the graphs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.drafters import NoDrafter
from outrider.models.cuda import StaticDecoder
from outrider.models.llama.decoder import Decoder
from tests.exactness.setups.checkpoints import PROMPTS, load_family, make_tiers
from tests.exactness.setups.rigs import SAMPLINGS, Family, nests, outputs, run, stage, undrafted
from tests.exactness.test_state_fuzz import SHAPE, walk
from tests.matrix import matrix
from tests.models.setups.make_checkpoints import make_checkpoint

KINDS = ("llama", "mistral")


@pytest.fixture(scope="module", params=KINDS)
def folders(request: Any, tmp_path_factory: Any) -> list[Path]:
    """Target, qualifier, small and draft; Mistral with a window that hides the beginning."""
    window = {"sliding_window": 6} if request.param == "mistral" else {}
    return make_tiers(tmp_path_factory.mktemp(request.param), request.param, **window)


@pytest.fixture(scope="module")
def family(folders: list[Path]) -> Family:
    return load_family(folders, "static")


@pytest.mark.parametrize(
    ("folders", "nest", "sampling"),
    matrix(KINDS, ["two", "four"], SAMPLINGS),
    indirect=["folders"],
    scope="module",
)
def test_drafted_equals_undrafted(
    family: Family, folders: list[Path], nest: str, sampling: str
) -> None:
    """Also what `Decoder` writes, and in batches of one, two (short) and five (packed)."""
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 8, "end_ids": (0,)}
    whole = stage(family.target, nests(family)[nest])
    eager = Decoder.load(folders[0], dtype=torch.float64)
    plain = outputs(run(stage(eager, NoDrafter()), PROMPTS, **options))
    for batch in (PROMPTS[:1], PROMPTS[:2], PROMPTS):
        expected = plain[: len(batch)]
        assert outputs(run(undrafted(whole), batch, **options)) == expected
        assert outputs(run(whole, batch, **options)) == expected


def test_drafts_are_accepted_and_refused(family: Family) -> None:
    [g] = run(stage(family.target, nests(family)["two"]), PROMPTS[:1], max_new_tokens=60)
    assert 3 < g.counters.accepted < g.counters.drafted


def test_walks(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "llama", dtype=torch.float64, **SHAPE)
    walk(StaticDecoder.load(tmp_path, dtype=torch.float64), range(60), steps=12)
