"""The records every room speaks."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.counters import Counters
from outrider.core.tree import depths, path_to
from outrider.core.types import (
    EMPTY_DRAFT,
    NO_IDS,
    Budget,
    Draft,
    Exactness,
    Prompt,
    Verdict,
    as_ids,
)
from tests.core.test_tree import trees


def draft(parents: list[int], **parts: object) -> Draft:
    size = len(parents)
    return Draft(
        tokens=as_ids(range(10, 10 + size)),
        parents=as_ids(parents),
        sources=tuple(f"s{i}" for i in range(size)),
        **parts,  # pyright: ignore[reportArgumentType]
    )


def test_ids_are_integers_whatever_they_came_as() -> None:
    for given_ids in ([1, 2], (1, 2), range(1, 3), np.array([1, 2])):
        assert as_ids(given_ids).dtype == np.int64
        assert as_ids(given_ids).tolist() == [1, 2]
    assert len(NO_IDS) == len(EMPTY_DRAFT) == 0


def test_children_in_draw_order_without_probes() -> None:
    tree = draft([-1, -1, 0, -1, 0])
    assert tree.children(-1) == [0, 1, 3]
    assert tree.children(0) == [2, 4]
    assert tree.children(2) == []
    probed = draft([-1, -1, 0, -1, 0], probe=np.array([False, True, True, False, False]))
    assert probed.children(-1) == [0, 3] and probed.children(0) == [4]
    assert EMPTY_DRAFT.children(-1) == []


@given(parents=trees(), data=st.data())
def test_a_part_of_a_draft_keeps_its_paths(parents: np.ndarray, data: st.DataObject) -> None:
    whole = draft(parents.tolist())
    chosen = data.draw(st.sets(st.sampled_from(range(len(parents))))) if len(parents) else set()
    nodes = as_ids(sorted({n for node in chosen for n in path_to(parents, node)}))
    part = whole.only(nodes)
    assert part.tokens.tolist() == whole.tokens[nodes].tolist()
    assert depths(part.parents).tolist() == depths(parents)[nodes].tolist()
    for new, old in enumerate(nodes):
        path = [int(nodes[i]) for i in path_to(part.parents, new)]
        assert path == path_to(parents, int(old))


def test_a_part_of_a_draft_takes_everything_along() -> None:
    distributions = tuple(torch.full((2,), float(i)) for i in range(3))
    whole = draft(
        [-1, -1, 1],
        probs=distributions,
        reference=distributions,
        probe=np.array([True, False, True]),
    )
    part = whole.only(as_ids([1, 2]))
    assert part.parents.tolist() == [-1, 0]
    assert part.sources == ("s1", "s2")
    assert part.probs == distributions[1:] and part.reference == distributions[1:]
    assert part.probe is not None and part.probe.tolist() == [False, True]
    assert draft([-1]).only(NO_IDS).probs is None


def test_budgets() -> None:
    assert Budget.chain(4) == Budget(depth=4, nodes=4)
    assert Budget.chain(-1) == Budget(depth=0, nodes=0)
    tree = Budget(depth=4, nodes=20)
    assert tree.clipped(9) == tree
    assert tree.clipped(2) == Budget(depth=2, nodes=20)
    assert tree.clipped(0) == tree.clipped(-3) == Budget(depth=0, nodes=0)


def test_what_a_verdict_emits() -> None:
    assert Verdict(tokens=(1, 2), next_token=3).emitted == (1, 2, 3)
    assert Verdict(tokens=(1, 2)).emitted == (1, 2)
    assert Verdict(next_token=0).emitted == (0,)


def test_counters() -> None:
    counters = Counters(accepted=5, next_tokens=2, cut=1)
    assert counters.tokens == 6
    counters.add_seconds(draft=1.0, verify=0.5)
    counters.add_seconds(draft=0.25)
    assert counters.seconds == {"draft": 1.25, "verify": 0.5}
    assert Counters().sources is not Counters().sources


def test_promises_are_ordered() -> None:
    assert sorted(Exactness, key=lambda e: e.rank) == [
        "identical",
        "identical up to rounding",
        "distribution",
        "lossy",
    ]


def test_records_are_frozen() -> None:
    prompt = Prompt(token_ids=(1, 2))
    assert len(prompt) == 2
    with pytest.raises(FrozenInstanceError):
        prompt.token_ids = (3,)  # pyright: ignore[reportAttributeAccessIssue]
