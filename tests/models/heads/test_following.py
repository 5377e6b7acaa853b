"""I3 for heads: a cache that follows its target equals that of a head that reads the text anew."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.heads.cache import Following
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.models.heads.setups import VOCAB, Rig, close, head_cases, make_rig, make_target

CASES = head_cases(["torch", "native"], ("hinted", "eagle3", "mtp"))
TOLERANCE = 2e-5
tokens = st.integers(0, VOCAB - 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module", params=CASES)
def rig(request: Any, folder: Path) -> Rig:
    return make_rig(folder, *request.param)


def fresh(rig: Rig, text: tuple[int, ...]) -> Following:
    """The cache of a head that has read the text at once; only its last row is not kept."""
    cache = rig.follows(text)
    rig.rows(cache)
    cache.commit(())
    return cache


def check(rig: Rig, cache: Following) -> None:
    """Keys and values of the committed rows, and the logits after the text, are those of a fresh
    reading."""
    text = (int(cache.source.text[0]), *cache.text)
    assert text == tuple(cache.source.text[: len(text)])
    if len(text) < 2 or cache.readable < 0:
        return
    twin = fresh(rig, text)
    for name in ("keys", "values"):
        ours, theirs = getattr(cache, name), getattr(twin, name)
        size = cache.length
        assert ours.shape[2] >= size
        if size:
            close(ours[:, :, :size], theirs[:, :, :size], TOLERANCE)
    cache.commit(())
    close(rig.rows(cache, (3, 4, 3)), rig.rows(twin, (3, 4, 3)), TOLERANCE)
    cache.commit(())


class Walk(RuleBasedStateMachine):
    """A request as the drafter sees it: the target reads, drafts come and go, turns follow."""

    rig: Rig

    @initialize(prompt=st.lists(tokens, min_size=1, max_size=12))
    def begin(self, prompt: list[int]) -> None:
        self.text = list(prompt)
        [self.source] = self.rig.target.start([Prompt(token_ids=tuple(prompt))])
        self.cache = self.rig.head.follow(self.source, prompt[1:])
        self.ahead = prompt[1:]

    # -- what the drafter does ------------------------------------------------------------------

    @rule(count=st.integers(1, 6))
    def read_a_part(self, count: int) -> None:
        """Some tokens of the text become pending, and are read."""
        count = min(count, len(self.ahead), self.cache.readable)
        if count <= 0:
            return
        self.cache.commit(as_ids(self.ahead[:count]))
        self.ahead = self.ahead[count:]
        self.rig.head.forward([Segment(self.cache, NO_IDS)], [NO_IDS])

    @rule(drafted=st.lists(tokens, max_size=4), shape=st.integers(0, 3))
    def draft(self, drafted: list[int], shape: int) -> None:
        """Rows of a draft, as chain or tree, in one or more forwards."""
        if not self.ready():
            return
        parents = np.arange(len(drafted)) - 1 if not shape else np.arange(len(drafted)) // 2 - 1
        if not drafted or shape == 3:
            parents = parents[: len(drafted)]
            self.rig.rows(self.cache)
        known = self.cache.num_speculative
        self.rig.rows(self.cache, drafted, np.where(parents < 0, known - 1, parents + known))

    @rule(depth=st.integers(1, 4))
    def write(self, depth: int) -> None:
        """A chain in one call."""
        decoder = self.rig.head.chain_decoder
        if not self.ready() or decoder is None or self.cache.fed:
            return
        sampler = Sampler(SamplingParams(seed=depth))
        decoder.write_chains([ChainRequest(Segment(self.cache, NO_IDS), sampler, (), depth)])

    def ready(self) -> bool:
        """Everything is pending or read; the first draft reads the rest."""
        while self.ahead and self.cache.readable > 0:
            count = min(len(self.ahead), self.cache.readable)
            self.cache.commit(as_ids(self.ahead[:count]))
            self.ahead = self.ahead[count:]
        assert self.cache.ready == (len(self.text) > 1 and self.source.length == len(self.text) - 1)
        return self.cache.ready and self.cache.remaining > 8 and self.cache.num_speculative < 4

    # -- what the target does -------------------------------------------------------------------

    @rule(emitted=st.lists(tokens, min_size=1, max_size=4))
    def advance(self, emitted: list[int]) -> None:
        """A round: the target reads what is pending and a draft, of which a part is right."""
        if self.source.remaining < len(emitted) + 2:
            return
        wrong = [*emitted[:2], (emitted[-1] + 1) % VOCAB]
        self.rig.target.forward([Segment(self.source, as_ids(wrong))], [as_ids([-1])])
        self.source.commit(as_ids(emitted))
        self.text += emitted
        if self.ahead:
            self.ahead = [*self.ahead, *emitted]
            self.cache.commit(())
        else:
            self.cache.commit(as_ids(emitted))

    @rule()
    def preempt(self) -> None:
        """The target's cache is made anew; the head's one starts anew as well."""
        [self.source] = self.rig.target.start([Prompt(token_ids=tuple(self.text))])
        self.cache = self.rig.head.follow(self.source, self.text[1:])
        self.ahead = self.text[1:]

    @rule()
    def fork(self) -> None:
        """Another sample takes a copy of the target's cache."""
        self.source.commit(())
        self.source = self.source.fork()
        self.cache = self.rig.head.follow(self.source, self.text[1:], self.cache)
        self.ahead = self.text[1 + len(self.cache.text) :]

    @rule(kept=st.integers(0, 40), more=st.lists(tokens, max_size=4), reuse=st.booleans())
    def next_turn(self, kept: int, more: list[int], reuse: bool) -> None:
        """A text that begins with a part of this one; its caches are reused, or only the head's."""
        text = [*self.text[:kept], *more][:30] or [1]
        old = [self.source] if reuse else None
        [self.source] = self.rig.target.start([Prompt(token_ids=tuple(text))], old)
        self.cache = self.rig.head.follow(self.source, text[1:], self.cache)
        self.text, self.ahead = text, text[1 + len(self.cache.text) :]
        same = [a == b for a, b in zip(self.cache.text, text[1:], strict=False)]
        assert all(same)

    @invariant()
    def as_fresh(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert self.text == list(self.source.text)
        assert [self.text[0], *self.cache.text, *self.ahead] == self.text
        read = len(self.source.text) - len(self.source.pending)
        assert self.cache.readable <= min(read, len(self.text) - 1) - len(self.cache.text)

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.commit(())
            check(self.rig, self.cache)


@pytest.mark.parametrize("steps", [12, pytest.param(40, marks=pytest.mark.slow)])
def test_a_walk_keeps_the_cache_of_a_fresh_reading(rig: Rig, steps: int) -> None:
    machine = type("WalkOf", (Walk,), {"rig": rig}).TestCase
    machine.settings = settings(
        max_examples=12, stateful_step_count=steps, deadline=None, phases=[Phase.generate]
    )
    machine().runTest()


def test_the_check_sees_a_stale_row(rig: Rig) -> None:
    cache = fresh(rig, (5, 6, 7, 8, 9, 10))
    check(rig, cache)
    with torch.inference_mode():
        cache.values[..., 2, :] += 1e-2
    with pytest.raises(AssertionError):
        check(rig, cache)


# -- what can be read, and when ------------------------------------------------------------------


def test_a_prompt_of_one_token_waits_for_the_second(rig: Rig) -> None:
    source = rig.reads((5,))
    cache = rig.head.follow(source)
    assert (cache.readable, cache.ready) == (0, False)
    rig.target.forward([Segment(source, NO_IDS)], [as_ids([-1])])
    assert not cache.ready
    source.commit(as_ids([9]))
    assert cache.readable == 1
    cache.commit(as_ids([9]))
    assert cache.ready
    close(rig.rows(cache, (3,)), rig.rows(rig.follows((5, 9)), (3,)), TOLERANCE)


def test_rows_of_the_prompt_wait_for_the_target(rig: Rig) -> None:
    """The target reads its prompt in parts: the head follows as far as there are states."""
    text = (5, 6, 7, 8, 9, 10, 11)
    source = rig.reads(text[:3])
    cache = rig.head.follow(source, text[1:])
    assert cache.readable == 2 and not cache.ready
    cache.commit(as_ids(text[1:3]))
    assert cache.ready
    source.commit(as_ids(text[3:]))  # pending: not read
    assert cache.readable == 0
    assert len(source.pending) == 5
    rig.target.forward([Segment(source, NO_IDS)], [NO_IDS])
    source.commit(as_ids([12]))
    assert cache.readable == 5 and not cache.ready
    cache.commit(as_ids((*text[3:], 12)))
    assert cache.ready
    close(rig.rows(cache, (3,)), rig.rows(rig.follows((*text, 12)), (3,)), TOLERANCE)


def test_the_next_turn_keeps_rows(rig: Rig) -> None:
    text = (5, 6, 7, 8, 9, 10, 11, 12)
    cache = fresh(rig, text)
    source = rig.reads((*text[:6], 1, 2))
    again = rig.head.follow(source, (*text[1:6], 1, 2), cache)
    assert again is cache and tuple(again.text) == text[1:6]
    assert again.length >= 4 and again.hinted == 0
    again.commit(as_ids([1, 2]))
    expected = rig.rows(rig.follows((*text[:6], 1, 2)), (3, 4))
    close(rig.rows(again, (3, 4)), expected, TOLERANCE)


def test_another_first_token_changes_the_first_row(rig: Rig) -> None:
    """The first row reads the state of the first token, which is not a token of its own text."""
    cache = fresh(rig, (5, 6, 7, 8))
    source = rig.reads((40, 6, 7, 8, 9))
    again = rig.head.follow(source, (6, 7, 8, 9), cache)
    again.commit(as_ids((6, 7, 8, 9)[len(again.text) :]))
    close(rig.rows(again, (3,)), rig.rows(rig.follows((40, 6, 7, 8, 9)), (3,)), TOLERANCE)


def test_a_cache_of_another_head_is_not_reused(rig: Rig, folder: Path) -> None:
    other = make_rig(folder, rig.head.info.name, "torch")
    cache = fresh(rig, (5, 6, 7))
    again = other.head.follow(other.reads((5, 6, 7)), (6, 7), cache)
    assert again is not cache and not len(again.text)
