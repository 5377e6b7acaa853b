"""What must hold of all heads that read the last state of their target alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from outrider.core.errors import StrategyError
from outrider.models.heads.chimera.config import ChimeraConfig
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.formats.verifying import check_verifier
from outrider.models.heads.formats.writing import write_head
from outrider.models.heads.medusa.config import MedusaConfig
from outrider.models.llama.decoder import Decoder

Head = tuple[ChimeraConfig | MedusaConfig, dict[str, Tensor]]


def check_last_state(
    folder: Path, target: Decoder, last: int, head: Callable[[tuple[int, ...]], Head]
) -> None:
    """Files of a head of another state are refused, and those of the last one are not."""
    folder.mkdir()
    for states, message in (((last - 1,), f"has {last} as its last state"), ((last,), "")):
        write_head(folder, *head(states), Verifier(), bits=None, card="")
        file = read_head(folder)
        if message:
            with pytest.raises(StrategyError, match=message):
                check_verifier(file, target)
        else:
            check_verifier(file, target)
