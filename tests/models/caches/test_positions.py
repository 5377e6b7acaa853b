"""Places of tokens, in one axis and in three, against plain lists."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from outrider.core.errors import ContextError
from outrider.core.tree import path_to
from outrider.core.types import NO_IDS, Fresh, IntArray, Kept, Prompt, as_ids
from outrider.models.caches.bookkeeping import CacheBook
from outrider.models.caches.positions import Places
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.text_stack import text_checkpoint
from outrider.protocols import Segment
from tests.models.setups.drafts import random_draft, random_emission
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import close
from tests.models.setups.vision_checkpoints import make_vision_checkpoint

Spot = tuple[int, ...]
"""The three places of one token."""


def spots_of(parts: list[tuple[int, int, int]]) -> list[Spot]:
    """Words and images in turn: `words` tokens of text, then an image of `rows` x `columns`."""
    spots: list[Spot] = []
    at = 0
    for words, rows, columns in parts:
        spots += [(at + i,) * 3 for i in range(words)]
        at += words
        spots += [(at, at + row, at + column) for row in range(rows) for column in range(columns)]
        at += max(rows, columns) if rows * columns else 0
    return spots


Parts = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=4
).filter(lambda parts: bool(spots_of(parts)))


def goes_on(spots: list[Spot], count: int) -> list[Spot]:
    """`spots`, and `count` tokens of text behind them."""
    first = max(spots[-1]) + 1 if spots else 0
    return [*spots, *((first + i,) * 3 for i in range(count))]


def array(spots: list[Spot]) -> IntArray:
    return np.array(spots, dtype=np.int64).reshape(-1, 3).T


def agree(places: Places, spots: list[Spot]) -> None:
    """`places` says of each token what the list says, and of what follows too."""
    known = goes_on(spots, 4)
    expected = array(known)
    assert [places.at(i) for i in range(len(known))] == [max(spot) for spot in known]
    for start in range(len(known)):
        assert places.between(start, len(known)).tolist() == expected[:, start:].max(0).tolist()
        axes = places.spread(start, len(known))
        flat = all(len(set(spot)) == 1 for spot in known[start:])
        assert (axes is None) == flat
        if axes is not None:
            assert axes.tolist() == expected[:, start:].tolist()
    assert len(places.differ(expected)) == 0
    moved = expected.copy()
    moved[1, len(known) // 2] += 1
    assert places.differ(moved).tolist() == [len(known) // 2]


@given(Parts, st.integers(0, 60), Parts)
def test_places_are_those_of_a_list(
    parts: list[tuple[int, int, int]], cut: int, more: list[tuple[int, int, int]]
) -> None:
    spots = spots_of(parts)
    places = Places.of(array(spots))
    agree(places, spots)
    known = goes_on(spots, 6)
    cut = min(cut, len(known))
    left = places.cut(cut)
    if cut:
        agree(left, known[:cut])
    first = max(known[cut - 1]) + 1 if cut else 0
    added = [tuple(axis + first for axis in spot) for spot in spots_of(more)]
    agree(left.joined(cut, array(added)), known[:cut] + added)
    follows = np.arange(3) + first + 2  # a gap, and one axis
    agree(left.joined(cut, follows), known[:cut] + [(int(place),) * 3 for place in follows])


def test_text_alone_is_not_kept() -> None:
    places = Places.of(array(spots_of([(9, 0, 0)])))
    assert len(places.given) == 0 and places.axes is None and places.lag == 0


def test_only_what_is_irregular_is_kept() -> None:
    places = Places.of(array(spots_of([(3, 2, 2), (50, 0, 0)])))
    assert len(places.given) == 7 and places.lag == 2
    assert places.spread(7, 57) is None


class Book(CacheBook):
    """Books without tensors."""

    def _move(self, slots: list[int], start: int) -> None:
        pass

    def _lay_out(self, kept: Any, slots: int) -> None:
        pass

    def _share(self) -> "Book":
        return Book(self.context_length)


class Rounds(RuleBasedStateMachine):
    """A cache over a prompt with images, and the list of where its tokens stand."""

    @initialize(parts=Parts, seed=st.integers(0, 99))
    def begin(self, parts: list[tuple[int, int, int]], seed: int) -> None:
        self.spots = goes_on(spots_of(parts), 1)
        self.prompt = len(self.spots)
        self.rng = np.random.default_rng(seed)
        self.book = Book(1000)
        half = self.prompt // 2
        for start, stop in ((0, half), (half, self.prompt)):
            if start < stop:
                self.book.extend([1] * (stop - start), array(self.spots[start:stop]))
                if stop < self.prompt:
                    feed = self.book.feed(Segment(self.book, NO_IDS), NO_IDS)
                    self.check(feed.positions, feed.axes, self.spots[start:stop])
                    self.book.settle()

    def check(self, positions: IntArray, axes: IntArray | None, spots: list[Spot]) -> None:
        assert positions.tolist() == [max(spot) for spot in spots]
        flat = all(len(set(spot)) == 1 for spot in spots)
        assert (axes is None) == flat
        if axes is not None:
            assert axes.tolist() == array(spots).tolist()

    @rule()
    def draft(self) -> None:
        """A tree, and a chain after its newest row."""
        draft = random_draft(self.rng, 20)
        if self.book.fed:
            self.book.commit(())
        unread = self.spots[len(self.spots) - len(self.book.pending) :]
        feed = self.book.feed(Segment(self.book, draft.tokens, draft.parents), NO_IDS)
        last = max(self.spots[-1])
        depths = [len(path_to(draft.parents, node)) for node in range(len(draft))]
        self.check(feed.positions, feed.axes, [*unread, *((last + d,) * 3 for d in depths)])
        emitted = random_emission(self.rng, draft)
        self.book.commit(emitted)
        self.spots = goes_on(self.spots, len(emitted))

    @rule(tokens=st.integers(0, 3))
    def commit(self, tokens: int) -> None:
        self.book.commit([7] * tokens)
        self.spots = goes_on(self.spots, tokens)

    @rule(share=st.floats(0, 1))
    def truncate(self, share: float) -> None:
        length = self.prompt + int(share * (len(self.spots) - self.prompt))
        self.book.truncate(length)
        del self.spots[length:]

    @rule()
    def fork(self) -> None:
        twin = self.book.fork()
        self.book.commit([3, 3, 3])
        self.book = twin

    @invariant()
    def stands_where_the_list_says(self) -> None:
        if not hasattr(self, "book"):
            return
        length = len(self.spots)
        assert len(self.book.text) == length
        assert self.book.slot_positions(length).tolist() == [max(spot) for spot in self.spots]
        assert self.book.remaining == 1000 - max(length, max(self.spots[-1]) + 1)


TestRounds = Rounds.TestCase
TestRounds.settings = settings(max_examples=30, stateful_step_count=12)


AXES = tuple(tuple(axis) for axis in array(goes_on(spots_of([(2, 2, 3)]), 2)).tolist())
IDS = tuple(range(len(AXES[0])))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    path = make_vision_checkpoint(tmp_path_factory.mktemp("qwen"), "qwen2_vl")
    text = text_checkpoint(open_checkpoint(path))
    assert text is not None
    return Decoder.load(text, dtype=torch.float64)


def test_models_of_one_axis_refuse_three(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = Decoder.load(make_checkpoint(tmp_path_factory.mktemp("llama")))
    with pytest.raises(ContextError, match="reads one position for each token"):
        model.start([Prompt(token_ids=IDS, axes=AXES)])


WRONG: dict[str, tuple[Any, str]] = {
    "two": (AXES[:2], "10 tokens, but axes of 10, 10 positions"),
    "short": (tuple(axis[1:] for axis in AXES), "axes of 9, 9, 9 positions"),
    "apart": (((*AXES[0][:-1], 9), *AXES[1:]), r"last token has several positions: \[9, 6, 6\]"),
    "negative": (tuple((-1, *axis[1:]) for axis in AXES), "a token at position -1"),
    "far": (tuple((*axis[:-1], 255) for axis in AXES), "a token at position 255"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_axes_are_refused(qwen: Decoder, name: str) -> None:
    axes, message = WRONG[name]
    with pytest.raises(ContextError, match=message):
        qwen.start([Prompt(token_ids=IDS, axes=axes)])


def test_tokens_are_counted_too(qwen: Decoder) -> None:
    """An image of 300 tokens takes 20 places, and is still too long for a window of 256."""
    axes = array(goes_on(spots_of([(2, 15, 20)]), 2)).tolist()
    prompt = Prompt(token_ids=(1,) * 304, axes=tuple(tuple(axis) for axis in axes))
    with pytest.raises(ContextError, match="304 tokens"):
        qwen.start([prompt])


def test_texts_with_images_are_not_rearranged(qwen: Decoder) -> None:
    [cache] = qwen.start([Prompt(token_ids=IDS, axes=AXES)])
    before = cache.keys.clone()
    with pytest.raises(ContextError, match="has read images"):
        qwen.rearrange([cache], [[Kept(0, 2), Fresh((4, 5))]])
    assert torch.equal(cache.keys, before)


def test_reuse_looks_at_all_axes(qwen: Decoder) -> None:
    [cache] = qwen.start([Prompt(token_ids=IDS, axes=AXES)])
    [same] = qwen.start([Prompt(token_ids=IDS, axes=AXES)], [cache])
    assert same is cache and cache.length == len(IDS) - 1
    higher = (AXES[0], (*AXES[1][:6], AXES[1][6] + 1, *AXES[1][7:]), AXES[2])
    [other] = qwen.start([Prompt(token_ids=IDS, axes=higher)], [same])
    [fresh] = qwen.start([Prompt(token_ids=IDS, axes=higher)])
    close(other.keys, fresh.keys, 1e-12)
    assert other.places.spread(0, 10).tolist() == [list(axis) for axis in higher]
    [plain] = qwen.start([Prompt(token_ids=IDS)], [other])
    [bare] = qwen.start([Prompt(token_ids=IDS)])
    close(plain.keys, bare.keys, 1e-12)
    assert plain.places.lag == 0


def test_equal_axes_are_plain_positions(qwen: Decoder) -> None:
    flat = (tuple(range(10)),) * 3
    caches = qwen.start([Prompt(token_ids=IDS, axes=flat), Prompt(token_ids=IDS)])
    close(caches[0].keys, caches[1].keys, 1e-12)
    assert caches[0].places.axes is None
    assert as_ids(caches[0].text).tolist() == list(IDS)


def test_drafted_rows_follow_unread_rows_of_an_image_on_all_axes() -> None:
    """A cache cut into an image has image rows pending; a draft may come in the same forward."""
    book = CacheBook(50)
    image = np.array([[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]])
    book.extend([9, 7, 7, 7, 7, 8], image)
    tree = book.feed(Segment(book, as_ids([4, 5, 6]), as_ids([-1, -1, 0])), as_ids([-1]))
    assert tree.axes is not None
    assert tree.axes[:, :6].tolist() == image.tolist()
    assert tree.axes[:, 6:].tolist() == [[4, 4, 5]] * 3
    assert tree.positions[6:].tolist() == [4, 4, 5]
