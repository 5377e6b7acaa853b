"""Sources that are read only for some rows: they catch up, and no draft changes a text."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from outrider.core.errors import StrategyError, VocabularyError
from outrider.core.types import NO_IDS, FinishReason, Prompt, as_ids
from outrider.decoding import Session
from outrider.drafters import Lookup, ModelDrafter, NoDrafter
from outrider.drafters.neural.growth import Eagle2
from outrider.drafters.neural.tree import TreeDrafter
from outrider.guidance.cache import MixedCache
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Found, Mask, Mixer, Weighted
from outrider.guidance.source import Source, last_token, same
from outrider.models.tabular import TabularModel
from outrider.policies import FixedTree
from outrider.protocols import Segment
from tests.exactness.setups.rigs import PROMPTS, generation, outputs, preempted, run, stage

ONE, TWO = (TabularModel.random(vocab_size=7, order=3, seed=seed) for seed in (1, 2))
TEXTS = [Prompt(token_ids=ids) for ids in PROMPTS]


class Alternating(Mixer):
    """The first model writes after an even number of the token 3, the second one after an odd."""

    stages = ((0, 1),)
    reads_texts = True

    def wanted(self, source: int, found: Found) -> Mask:
        return torch.tensor([text.count(3) % 2 == source for text in found.texts])

    def mixed(self, found: Found) -> Tensor:
        out = torch.empty(len(found), 7, dtype=torch.float64)
        for rows, mask in zip(found.rows, found.masks, strict=True):
            if rows is not None:
                out[mask] = rows.logits
        return out


def by_hand(prompt: Sequence[int], generated: Sequence[int]) -> Tensor:
    """The same choice."""
    return (ONE, TWO)[list(generated).count(3) % 2].logits_after([*prompt, *generated])


def mixed() -> Mixed:
    return Mixed([Source(model=ONE), Source(model=TWO)], Alternating(), "alternating")


def expected(prompt: Prompt, count: int) -> tuple[int, ...]:
    """The greedy text."""
    text: list[int] = []
    for _ in range(count):
        text.append(int(by_hand(prompt.token_ids, text).argmax()))
    return tuple(text)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("drafter", ["none", "lookup", "model", "tree"])
def test_each_row_is_that_of_the_model_that_its_text_calls_for(drafter: str) -> None:
    made = {
        "none": NoDrafter(),
        "lookup": Lookup(max_ngram=2, min_ngram=1),
        "model": ModelDrafter(model=ONE),
        "tree": TreeDrafter(model=TWO, growth=Eagle2(width=3)),
    }[drafter]
    policy = FixedTree(depth=4, nodes=9) if drafter == "tree" else None
    found = run(stage(mixed(), made, policy=policy), TEXTS, max_new_tokens=24)
    assert outputs(found) == [expected(prompt, 24) for prompt in TEXTS]
    assert any(3 in text for text in outputs(found))


@pytest.mark.usefixtures("unchecked")
def test_where_the_prompt_ends_matters_and_so_it_is_read_whole_and_no_text_is_resumed() -> None:
    whole = stage(mixed(), ModelDrafter(model=ONE))
    session, [made] = Session(whole), [generation(TEXTS[0], max_new_tokens=16)]
    session.add([made], chunk=1)
    assert session.unread(made) == 0
    session.step()
    with pytest.raises(StrategyError, match="cannot be resumed from its text"):
        session.preempt(made)
    while session.pending:
        session.step()
    assert tuple(made.output) == expected(TEXTS[0], 16)


@pytest.mark.usefixtures("unchecked")
def test_requests_of_a_sum_may_leave_and_come_again() -> None:
    sources = [Source(model=ONE), Source(model=TWO)]
    model = Mixed(sources, Weighted(weights=(1.5, -0.5)), "sum")
    alone = stage(TabularModel(1.5 * ONE.table - 0.5 * TWO.table), NoDrafter())
    made = preempted(
        stage(model, ModelDrafter(model=ONE)), PROMPTS, temperature=0.0, max_new_tokens=16
    )
    assert outputs(made) == outputs(run(alone, PROMPTS, max_new_tokens=16))


class Counted(TabularModel):
    """Counts its forwards."""

    forwards = 0

    def forward(self, segments: Any, want: Any) -> Any:
        self.forwards += 1
        return super().forward(segments, want)


def test_a_source_that_is_not_wanted_is_not_read_and_catches_up_in_one_forward() -> None:
    one, two = Counted(ONE.table), Counted(TWO.table)
    model = Mixed([Source(model=one), Source(model=two)], Alternating(), "alternating")
    [cache] = model.start([TEXTS[0]])
    one.forwards = two.forwards = 0
    for token in (1, 2, 4):
        model.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
        cache.commit((token,))
    assert (one.forwards, two.forwards) == (3, 0)
    assert isinstance(cache, MixedCache)
    assert len(cache.sources[1].pending) == 4 and len(cache.pending) == 1
    cache.commit((3,))
    [rows] = model.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
    assert (one.forwards, two.forwards) == (3, 1)
    assert torch.equal(rows.logits[0], TWO.logits_after((2, 4, 3)))


class Played:
    """A text, its tree of speculative rows, and the cache that should hold the same."""

    def __init__(self) -> None:
        self.model = mixed()
        self.prompt = TEXTS[2]
        [self.cache] = self.model.start([self.prompt])
        self.written: list[int] = []
        self.tree: list[tuple[int, int]] = []

    def path(self, row: int) -> list[int]:
        found: list[int] = []
        while row >= 0:
            token, row = self.tree[row]
            found.insert(0, token)
        return found

    def feed(self, data: Any) -> None:
        old, first = len(self.tree), not self.cache.fed
        for i in range(data.draw(st.integers(0 if first else 1, 4))):
            parent = data.draw(st.integers(-1, old + i - 1))
            self.tree.append((data.draw(st.integers(0, 6)), parent))
        new = self.tree[old:]
        want = [*([-1] if first else []), *range(old, len(self.tree))]
        segment = Segment(self.cache, as_ids([t for t, _ in new]), as_ids([p for _, p in new]))
        [rows] = self.model.forward([segment], [as_ids(want)])
        for row, logits in zip(want, rows.logits, strict=True):
            text = [*self.written, *self.path(row)]
            assert torch.equal(logits, by_hand(self.prompt.token_ids, text))

    def keep(self, data: Any) -> None:
        kept: list[int] = []
        for row, (_, parent) in enumerate(self.tree):
            if (parent < 0 or parent in kept) and data.draw(st.booleans()):
                kept.append(row)
        self.cache.keep_rows(kept)
        number = {-1: -1} | {row: i for i, row in enumerate(kept)}
        self.tree = [(self.tree[r][0], number[self.tree[r][1]]) for r in kept]

    def commit(self, data: Any) -> None:
        row = data.draw(st.integers(-1, len(self.tree) - 1))
        tokens = [*self.path(row), data.draw(st.integers(0, 6))]
        self.cache.commit(tokens)
        self.written += tokens
        self.tree = []

    def fork(self, data: Any) -> None:
        self.cache = self.cache.fork()

    def cut(self, data: Any) -> None:
        if self.written:
            self.written.pop()
            self.cache.truncate(len(self.prompt) + len(self.written))
            self.tree = []


@settings(max_examples=150)
@given(st.data())
def test_rows_are_those_of_the_text_whatever_came_before(data: Any) -> None:
    played = Played()
    steps = (played.feed, played.feed, played.keep, played.commit, played.fork, played.cut)
    for _ in range(data.draw(st.integers(1, 8))):
        data.draw(st.sampled_from(steps))(data)
        assert list(played.cache.text) == [*played.prompt.token_ids, *played.written]
        assert played.cache.num_speculative == len(played.tree)


def test_the_window_is_that_of_the_shortest_model_that_reads_the_prompt() -> None:
    short = TabularModel.random(vocab_size=7, order=3, seed=3)
    short.info = replace(short.info, name="short", context_length=9)
    for view, window in ((same, 9), (last_token, ONE.info.context_length)):
        sources = [Source(model=ONE), Source(model=short, view=view)]
        model = Mixed(sources, Weighted(weights=(1.0, 1.0)), "sum")
        assert model.info.context_length == window
        assert (model.info.name == "tabular guided by short") == (window == 9)
        assert ("short" in model.info.context_reason) == (window == 9)
        [found] = run(stage(model, NoDrafter()), [TEXTS[0]], max_new_tokens=20, end_ids=())
        read = len(TEXTS[0]) if view is same else 1
        assert len(found.output) == 9 - read and found.finish is FinishReason.LENGTH
    assert (
        Mixed([Source(model=short), Source(model=ONE)], Weighted(weights=(1, 1)), "sum").info.name
        == "short"
    )


def test_vocabularies_of_different_sizes_are_refused() -> None:
    """K7."""
    other = TabularModel.random(vocab_size=8)
    with pytest.raises(VocabularyError, match="different vocabularies: tabular has 7, tabular has"):
        Mixed([Source(model=ONE), Source(model=other)], Alternating(), "alternating")
