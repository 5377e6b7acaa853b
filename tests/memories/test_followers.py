"""Followers by majority vote: equal to a replay, and bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.memories.followers import CLASSES, SHARES, VOTES, Followers, contexts

texts = st.lists(st.integers(0, 3), max_size=60)


def replay(text: list[int], context: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Follower, votes and occurrences of one context, from the definition."""
    found: tuple[int, int, int] | None = None
    n = len(context)
    for i in range(n, len(text)):
        if tuple(text[i - n : i]) != context:
            continue
        follower, votes, total = found or (text[i], 0, 0)
        if follower == text[i]:
            votes += 1
        elif votes > 1:
            votes -= 1
        else:
            follower, votes = text[i], 1
        found = follower, votes, total + 1
    return found


@given(text=texts, longest=st.integers(1, 4), tail=st.lists(st.integers(0, 3), max_size=6))
def test_predictions_equal_a_replay(text: list[int], longest: int, tail: list[int]) -> None:
    followers = Followers(longest)
    followers.learn(text, 0)
    expected: list[tuple[int, int]] = []
    for length in range(min(longest, len(tail)), 0, -1):
        wanted = replay(text, tuple(tail[-length:]))
        if wanted is None:
            continue
        token, votes, total = wanted
        by_votes = max(i for i, least in enumerate(VOTES) if votes >= least)
        by_share = max(i for i, least in enumerate(SHARES) if votes / total >= least)
        kind = ((length - 1) * len(VOTES) + by_votes) * len(SHARES) + by_share
        expected.append((token, kind))
    assert followers.find(contexts(tail, longest)) == expected


@given(text=texts, cut=st.integers(0, 60))
def test_learning_in_parts_is_learning_at_once(text: list[int], cut: int) -> None:
    whole, parts = Followers(3), Followers(3)
    whole.learn(text, 0)
    parts.learn(text[:cut], 0)
    parts.learn(text, cut)
    for end in range(len(text) + 1):
        assert list(whole.find(contexts(text[:end], 3))) == list(
            parts.find(contexts(text[:end], 3))
        )


def test_many_repetitions_keep_the_share() -> None:
    followers = Followers(1)
    followers.learn([1, 2] * 2000, 0)
    [found] = followers.find([1])
    assert found == (2, CLASSES - 1)


def test_old_contexts_are_forgotten_and_used_ones_are_kept() -> None:
    followers = Followers(1, most=8)
    for i in range(100):
        followers.learn([i, i + 1], 1)
        followers.learn([1000, 7], 1)
        assert len(followers) <= 8
    assert [token for token, _ in followers.find([1000])] == [7]
    assert list(followers.find([0])) == []
    assert [token for token, _ in followers.find([99])] == [100]


@pytest.mark.parametrize("options", [{"longest": 0}, {"most": 0}])
def test_numbers_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(OptionError, match="at least 1"):
        Followers(**options)
