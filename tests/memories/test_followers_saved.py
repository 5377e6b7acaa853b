"""Followers that are written to a file, and read again."""

from collections.abc import Callable

import numpy as np
import pytest

from outrider.core.errors import CheckpointError
from outrider.memories.followers import Followers, contexts

TEXT = [5, 70_000, 3, 5, 70_000, 3, 9, 5, 70_000, 4, 3, 9]


def learned() -> Followers:
    memory = Followers(3)
    memory.learn(TEXT, 1)
    return memory


def test_all_contexts_come_back() -> None:
    memory, again = learned(), Followers(3)
    again.restore(memory.saved(1), 80_000)
    assert len(again) == len(memory)
    for end in range(1, len(TEXT)):
        places = contexts(TEXT[:end], 3)
        assert again.find(places) == memory.find(places)
    again.learn([5, 70_000, 3, 8], 1)  # they are learned further
    memory.learn([5, 70_000, 3, 8], 1)
    assert again.find([3]) == memory.find([3])


def test_rare_contexts_are_left_out() -> None:
    again = Followers(3)
    again.restore(learned().saved(3), 80_000)
    assert [token for token, _ in again.find(contexts([9, 5], 3))] == [70_000]
    assert again.find(contexts([70_000, 4], 3)) == []


def test_longer_contexts_than_a_memory_has_are_left_out() -> None:
    again, short = Followers(1), Followers(1)
    again.restore(learned().saved(1), 80_000)
    short.learn(TEXT, 1)
    assert len(again) == len(short)
    assert again.find([5]) == short.find([5]) != []


DAMAGES: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "fewer entries": lambda saved: saved.update({"entries.2": saved["entries.2"][1:]}),
    "other lengths": lambda saved: saved.update({"contexts.2": saved["contexts.3"]}),
    "no token": lambda saved: saved["contexts.1"].fill(80_000),
    "negative": lambda saved: saved["contexts.3"].fill(-1),
    "follower": lambda saved: saved.update({"entries.1": saved["entries.1"] + (80_000 << 16)}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused(damage: str) -> None:
    saved = learned().saved(1)
    DAMAGES[damage](saved)
    with pytest.raises(CheckpointError, match="damaged contexts"):
        Followers(3).restore(saved, 80_000)
