"""Guidance and selected parts of long inputs: the other prompt is read, and stays."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from outrider.context.config import ContextConfig
from outrider.context.selector import Selected
from outrider.core.types import Passage, Prompt, as_ids
from outrider.drafters import Lookup, NoDrafter
from outrider.guidance.classifier_free import guided
from outrider.guidance.mixed import Mixed
from outrider.models.tabular import TabularModel
from outrider.protocols import Segment
from tests.context.toys import Wandering, long_prompt
from tests.exactness.setups.rigs import outputs, run, stage

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.method("classifier-free")]

MODEL = TabularModel.random(vocab_size=48, order=3, seed=5)
CONFIG = ContextConfig(
    keep_ratio=0.5, refresh=4, hysteresis=0.0, max_swaps=2, recompute="suffix", pin_ends=False
)
FIRST = long_prompt(4, chunks=7)


def other_prompt(tail: tuple[int, ...] = (7, 8)) -> Prompt:
    """The same documents with another instruction, and a longer head."""
    context = FIRST.context
    assert context is not None
    begin = context.start
    inside = FIRST.token_ids[begin : begin + context.num_tokens]
    moved = replace(context, start=begin + 1, query=Passage("", tail))
    return Prompt(token_ids=(*FIRST.token_ids[:begin], 9, *inside, *tail), context=moved)


def test_the_other_prompt_is_read_with_the_chunks_of_the_first_one() -> None:
    model = Selected(guided(MODEL, 3.0), Wandering(), CONFIG)
    other = other_prompt()
    [cache] = model.start([replace(FIRST, contrast=other)])
    [rows] = model.forward([Segment(cache, as_ids((1, 2)))], [as_ids((-1, 1))])
    chosen = model.selection(FIRST).chosen
    assert 0 < len(chosen) < 7
    texts: list[tuple[int, ...]] = []
    for prompt in (FIRST, other):
        context = prompt.context
        assert context is not None
        parts = [context.chunks[i].token_ids for i in chosen]
        head, tail = prompt.token_ids[: context.start], prompt.token_ids[context.starts[-1] :]
        texts.append((*head, *(token for part in parts for token in part), *tail))
    assert model.selection(other).chosen != chosen
    inner: Any = cache
    assert [tuple(one.text) for one in inner.inner.sources] == texts
    for row, after in enumerate(((), (1, 2))):
        seen, null = (MODEL.logits_after((*text, *after)) for text in texts)
        torch.testing.assert_close(rows.logits[row], null + 3.0 * (seen - null))


def test_another_prompt_with_other_documents_selects_for_itself() -> None:
    model = Selected(guided(MODEL, 3.0), Wandering(), CONFIG)
    strange = long_prompt(8, chunks=5)
    [cache] = model.start([replace(FIRST, contrast=strange)])
    assert strange.context is not None
    kept = model.selection(strange).chosen
    held = sum(len(strange.context.chunks[i]) for i in kept)
    length = len(strange) - strange.context.num_tokens + held
    inner: Any = cache
    assert len(inner.inner.sources[1].text) == length


def test_drafters_that_select_are_not_asked_about_the_other_prompt() -> None:
    short = Prompt(token_ids=(1, 2), context=FIRST.context)  # could not be selected from
    [cache] = Selected(MODEL, Wandering(), CONFIG).start([replace(FIRST, contrast=short)])
    assert len(cache.text) < len(FIRST)


@pytest.mark.parametrize("contrast", [None, other_prompt()])
def test_a_guided_text_stays_guided_and_no_draft_changes_it(contrast: Prompt | None) -> None:
    """A refresh would read the text so far as a prompt, which guidance by prompts forbids."""
    prompt = replace(FIRST, contrast=contrast)
    texts = []
    for drafter in (NoDrafter(), Lookup(min_ngram=1)):
        model = Selected(guided(MODEL, 3.0), Wandering(), CONFIG)
        found = run(stage(model, drafter), [prompt], max_new_tokens=24, temperature=0.0)
        texts += outputs(found)
        inner: Any = found[0].sequence and found[0].sequence.cache
        assert inner.report.guidance == 3.0
        assert inner.report.reading.refreshes == 0
        sources = inner.inner.sources
        assert [tuple(one.text[-20:]) for one in sources] == [texts[0][-20:]] * 2
    assert texts[0] == texts[1]


def test_guidance_that_does_not_depend_on_the_prompt_selects_again() -> None:
    from outrider.guidance.mixer import Weighted
    from outrider.guidance.source import Source

    small = TabularModel.random(vocab_size=48, order=3, seed=6)
    mixed = Mixed([Source(model=MODEL), Source(model=small)], Weighted(weights=(1.5, -0.5)), "two")
    model = Selected(mixed, Wandering(), CONFIG)
    [found] = run(stage(model, NoDrafter()), [FIRST], max_new_tokens=24, temperature=0.0)
    inner: Any = found.sequence and found.sequence.cache
    assert inner.report.reading.refreshes > 2
