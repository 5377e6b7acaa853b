"""Some heads read only the last tokens of a long prompt."""

from typing import Any

import numpy as np
import pytest
import torch

from outrider.core.types import as_ids
from outrider.training.heads.data import text_hints
from outrider.training.heads.unroll import Texts, unroll
from tests.models.heads.setups import (
    Rig,
    close,
    head_cases,
    make_module,
    make_rig,
    make_target,
    random_text,
)

TOLERANCE = 2e-5


@pytest.fixture(
    scope="module", params=head_cases(["torch", "native"], ("hinted", "eagle1", "fspad"))
)
def rig(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    folder = make_target(tmp_path_factory.mktemp("target"))
    return make_rig(folder, *request.param)


def test_a_long_prompt_is_read_from_its_last_tokens(rig: Rig) -> None:
    """The rows are those of the last tokens alone, with the states and hints of the whole text."""
    text, most = random_text(24), 6
    rig.head.reads = most
    source = rig.reads((*text, 3))
    cache = rig.head.follow(source, text[1:])
    assert (cache.offset, cache.readable) == (17, most + 1)  # the target has read one more
    cache.commit(as_ids(text[18:]))
    assert cache.readable == 1
    found = rig.rows(cache)[0, rig.tensors["ids"].long()]
    states = rig.head._states.kept(source, 17, 23)
    hints, levels = text_hints(np.array(text), 1, rig.head._table, 1)
    batch = Texts(
        states=states[None],
        tokens=torch.tensor(text[18:])[None],
        rows=torch.tensor([[most - 1]]),
        counts=torch.tensor([1]),
        hints=torch.from_numpy(hints[None, 17:]),
        levels=torch.from_numpy(levels[None, 17:]),
    )
    module = make_module(rig.config, rig.tensors, rig.teacher)
    with torch.no_grad():
        [step] = unroll(module, rig.head._rotary, batch, 1)
    close(found, step.logits[0], TOLERANCE)
    rig.head.reads = None
    whole = rig.rows(rig.follows(text))[0, rig.tensors["ids"].long()]
    assert (found - whole).abs().max() > TOLERANCE  # the rows before them do count


def test_a_reused_cache_keeps_what_it_left_out(rig: Rig) -> None:
    text = random_text(20)
    rig.head.reads = 6
    try:
        cache = rig.head.follow(rig.reads((*text, 3)), text[1:])
        assert cache.offset == 13
        cache.commit(as_ids(text[14:]))
        rig.rows(cache)
        longer = (*text, 1, 2, 3)
        again = rig.head.follow(rig.reads((*longer, 3)), longer[1:], cache)
        assert again.offset == 13 and again.length >= 4  # few tokens are new
        far = (*longer, *random_text(9))
        again = rig.head.follow(rig.reads((*far, 3)), far[1:], again)
        assert again.offset == len(far) - 7 and len(again.text) == 0
        again.commit(as_ids(far[len(far) - 6 :]))
        other = (9, *far[1:])
        again = rig.head.follow(rig.reads((*other, 3)), other[1:], again)
        assert len(again.text) == 0  # a token that no row reads has changed all states
    finally:
        rig.head.reads = None
