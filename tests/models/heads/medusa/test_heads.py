"""Medusa heads as a model: what they compute, and how deep they draft."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from outrider.core.errors import ContextError
from outrider.core.types import NO_IDS, as_ids
from outrider.models.heads.medusa.model import MedusaModel
from outrider.models.heads.medusa.module import untrained
from outrider.protocols import Segment
from tests.models.heads.medusa.setups import HEADS, medusa_config, medusa_rig
from tests.models.heads.rounds import after_a_round, after_one_token, in_parts
from tests.models.heads.setups import VOCAB, Rig, close, make_target, random_text

pytestmark = pytest.mark.method("medusa")

TEXT = random_text(12)
EXACT = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module", params=[{}, {"own_rows": True, "blocks": 2}])
def rig(request: Any, folder: Path) -> Rig:
    return medusa_rig(folder, **request.param)


def state_of(rig: Rig) -> Tensor:
    """The last state of the token before the last one of the text."""
    cache = rig.reads(TEXT)
    return rig.head._states.kept(cache, len(TEXT) - 2, len(TEXT) - 1)[0, 0]


def by_hand(rig: Rig, head: int) -> np.ndarray:
    """`W2 (h + SiLU(W1 h + b))` in numpy."""
    found = {name: tensor.double().numpy() for name, tensor in rig.tensors.items()}
    h = state_of(rig).double().numpy()
    for block in range(rig.config.blocks):  # pyright: ignore[reportAttributeAccessIssue]
        name = f"heads.{head}.blocks.{block}"
        z = found[f"{name}.weight"] @ h + found[f"{name}.bias"]
        h = h + z / (1 + np.exp(-z))
    if f"heads.{head}.rows.weight" in found:
        return found[f"heads.{head}.rows.weight"] @ h
    rows = rig.teacher.lm_head[rig.tensors["ids"].long()].double().numpy()
    return rows @ (found[f"heads.{head}.mix.weight"] @ h)


def test_a_row_of_depth_d_has_the_logits_of_head_d(rig: Rig) -> None:
    """Whatever the tokens of the draft are, as a chain and as a tree, at once and in parts."""
    ids = rig.tensors["ids"].long()
    chain = rig.rows(rig.follows(TEXT), (5, 9))
    assert chain.shape == (HEADS, VOCAB)
    for head in range(HEADS):
        expected = torch.from_numpy(by_hand(rig, head))
        close(chain[head, ids].double(), expected, 1e-4)
    assert not torch.allclose(chain[0, ids], chain[1, ids])
    assert int(torch.isfinite(chain[0]).sum()) == len(ids)
    assert torch.equal(rig.rows(rig.follows(TEXT), (7, 1)), chain)
    tree = rig.rows(rig.follows(TEXT), (5, 6, 7, 8), (-1, -1, 0, 1))
    close(tree, chain[[0, 1, 1, 2, 2]], EXACT)
    cache = rig.follows(TEXT)
    close(torch.cat((rig.rows(cache), rig.rows(cache, (3,)), rig.rows(cache, (4,)))), chain, EXACT)
    assert isinstance(rig.head, MedusaModel)
    close(rig.head.after(rig.follows(TEXT)), chain[:, ids], EXACT)


def test_untrained_heads_give_the_logits_of_the_lm_head(folder: Path) -> None:
    rig = medusa_rig(folder)
    plain = medusa_rig(folder, **untrained(medusa_config(rig.teacher)))
    ids = plain.tensors["ids"].long()
    rows = plain.rows(plain.follows(TEXT), (5, 9))
    cache = plain.reads(TEXT[:-1])
    [target] = plain.target.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
    for row in rows:
        close(row[ids], target.logits[0][ids], 1e-4)
    assert not torch.allclose(rig.rows(rig.follows(TEXT))[0, ids], rows[0, ids], atol=1e-2)


def test_no_more_tokens_than_heads(rig: Rig) -> None:
    cache = rig.follows(TEXT)
    rig.rows(cache, (1, 2))
    with pytest.raises(ContextError, match="drafts at most 3 tokens after a text, and token 4"):
        rig.rows(cache, (3,))
    assert rig.head.follow(rig.reads(TEXT)).longest == HEADS


def test_a_text_in_parts_and_after_a_round(rig: Rig) -> None:
    """The state is always that of the place before the last token."""
    whole = rig.rows(rig.follows(TEXT), (5,))
    close(rig.rows(in_parts(rig, TEXT), (5,)), whole, EXACT)
    cache = after_a_round(rig, TEXT, (9, 9))
    close(rig.rows(cache, (5,)), whole, EXACT)


def test_a_prompt_of_one_token_waits_for_the_second(rig: Rig) -> None:
    close(rig.rows(after_one_token(rig, 5, 9)), rig.rows(rig.follows((5, 9))), EXACT)


def test_caches_of_earlier_turns(rig: Rig, folder: Path) -> None:
    cache = rig.follows(TEXT)
    rig.rows(cache)
    again = rig.head.follow(rig.reads(TEXT), TEXT[1:], cache)
    assert again is cache
    again.commit(as_ids(TEXT[1 + len(again.text) :]))
    close(rig.rows(again), rig.rows(rig.follows(TEXT)), EXACT)
    other = medusa_rig(folder)
    assert other.head.follow(other.reads(TEXT), TEXT[1:], cache) is not cache


def test_it_stores_nothing_and_costs_time(rig: Rig) -> None:
    assert rig.head.info.bytes_per_token == 0
    assert rig.head.draft_seconds() > 0
    with pytest.raises(Exception, match="reads hidden states of its target"):
        rig.head.start([])
