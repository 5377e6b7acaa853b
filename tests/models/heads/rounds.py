"""Caches of heads that have read a text in several ways."""

from collections.abc import Sequence

from outrider.core.types import NO_IDS, as_ids
from outrider.models.heads.cache import Following
from outrider.protocols import Segment
from tests.models.heads.setups import Rig


def in_parts(rig: Rig, text: Sequence[int]) -> Following:
    """A cache behind a text of which the head has read the first five tokens before the others."""
    cache = rig.head.follow(rig.reads(text))
    cache.commit(as_ids(text[1:5]))
    rig.head.forward([Segment(cache, NO_IDS)], [NO_IDS])
    cache.commit(as_ids(text[5:]))
    return cache


def after_a_round(rig: Rig, text: Sequence[int], draft: Sequence[int]) -> Following:
    """A cache behind a text whose last two tokens a round has added, after this draft."""
    source = rig.reads(text[:-2])
    cache = rig.head.follow(source)
    cache.commit(as_ids(text[1:-2]))
    rig.rows(cache, draft)
    rig.target.forward([Segment(source, as_ids(text[-2:-1]))], [as_ids([0])])
    source.commit(as_ids(text[-2:]))
    cache.commit(as_ids(text[-2:]))
    return cache


def after_one_token(rig: Rig, first: int, second: int) -> Following:
    """A cache behind a prompt of one token and the token after it, which the head waits for."""
    source = rig.reads((first,))
    cache = rig.head.follow(source)
    assert not cache.ready
    rig.target.forward([Segment(source, NO_IDS)], [as_ids([-1])])
    source.commit(as_ids([second]))
    cache.commit(as_ids([second]))
    assert cache.ready
    return cache
