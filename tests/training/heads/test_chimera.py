"""Training of a head of Chimera (arXiv 2402.15758): its steps, its start and its loss."""

from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.models.heads.chimera import module as arithmetic
from outrider.training.heads import unroll as unrolling
from tests.models.heads.chimera.setups import PARTS, chimera_rig
from tests.models.heads.setups import Rig, make_target
from tests.training.heads.test_unroll import STEPS, TOLERANCE, differences, recorded

pytestmark = pytest.mark.method("chimera")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module", params=PARTS)
def rig(request: Any, folder: Path) -> Rig:
    return chimera_rig(folder, heads=STEPS, **PARTS[request.param])


@pytest.fixture(scope="module")
def whole(folder: Path) -> Rig:
    return chimera_rig(folder, heads=STEPS)


def test_a_step_in_training_equals_a_step_in_decoding(rig: Rig) -> None:
    """Four steps after each place of two texts, the shorter of which is padded."""
    with torch.no_grad():
        assert max(differences(rig, recorded(rig))) <= TOLERANCE
