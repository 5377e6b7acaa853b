"""What every policy of the cache shows to drafters and searches between two points."""

from typing import Any

import numpy as np
import pytest
import torch

from outrider.core.types import as_ids
from tests.models.caches.eviction.setups import (
    NAMES,
    begin,
    ids,
    kept,
    look,
    model,
    policy,
    read,
    under,
    write,
    write_drafted,
)

pytestmark = pytest.mark.usefixtures("unchecked")
each_policy = pytest.mark.parametrize("name", NAMES)
TEXT, MORE = ids(13), ids(12, seed=1)


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    """Equal to 9 digits."""
    assert torch.allclose(a, b, rtol=0, atol=1e-9)


@each_policy
def test_a_model_under_a_policy_says_so(name: str) -> None:
    one = under(name)
    assert one.info.kv_policy == str(one._compression.policy)
    assert model().info.kv_policy == "" and model()._compression is None
    assert one.segmented is None
    with pytest.raises(RuntimeError, match="read the text again"):
        begin(one, TEXT).check_own()


@each_policy
def test_a_horizon_ends_at_the_next_point(name: str) -> None:
    """The draft and the next token together: the last row that is read lies before the point."""
    one = under(name)
    own = begin(one, TEXT)  # 12 rows
    if name == "snapkv":
        assert own.horizon == 1  # the last token of the prompt
        write(one, own, MORE[:1])
        assert own.horizon is None
        return
    for left in (4, 3, 2, 1, 4):
        assert own.horizon == left
        write(one, own, MORE[:1])


@pytest.mark.parametrize("name", ["h2o", "infllm", "actqkv"])
def test_a_chain_cut_to_some_rows_leaves_the_queries_of_these(name: str) -> None:
    """As a search does that drops branches between forwards."""
    one = under(name)
    expected, own = begin(one, TEXT), begin(one, TEXT)
    for token in (5, 6):
        read(one, expected)
        expected.commit([token])
    read(one, expected)
    tree = read(one, own, [9, 5, 7, 6], as_ids([-1, -1, 0, 1]))
    own.keep_rows([1, 3])
    assert own.num_speculative == 2
    own.commit([5, 6, 1])
    expected.commit([1])
    assert own._log.rows.tolist() == expected._log.rows.tolist()
    for layer in range(2):
        empty = torch.zeros(0, 2, 4, 8)
        ours, theirs = (c._log.of_layer(layer, empty) for c in (own, expected))
        assert torch.allclose(ours, theirs, atol=1e-9)
    same(write(one, own, MORE), write(one, expected, MORE))
    assert tree.shape[0] == 5


@each_policy
def test_states_of_all_rows_are_kept(name: str) -> None:
    """Hidden states that drafters ask for are those of the whole text."""
    full = model()
    one = full.under(policy(name, full)).keeping((1, 2))
    own = begin(one, TEXT)
    write(one, own, MORE)
    again = begin(one, TEXT)
    write_drafted(one, again, MORE, np.random.default_rng(1), trees=True)
    rows = own.length
    assert rows == len(TEXT) + len(MORE) - 1
    ours: Any = one.kept(own, 0, rows)
    assert torch.isfinite(ours).all()
    assert torch.allclose(ours, one.kept(again, 0, rows), atol=1e-6)
    whole = full.keeping((1, 2))
    assert torch.allclose(ours[:4], whole.kept(begin(whole, TEXT), 0, 4), atol=1e-6)


@each_policy
def test_looking_ahead_changes_nothing(name: str) -> None:
    one = under(name)
    own, other = begin(one, TEXT), begin(one, TEXT)
    for token in MORE:
        ahead = look(one, own)
        same(write(one, own, [token])[0], ahead)
        write(one, other, [token])
    assert kept(own) == kept(other)
