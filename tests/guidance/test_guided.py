"""A guided model is any other model: its distribution is the mixed one, and no draft changes its
text."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.acceptance import Rejection
from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, Draft, FinishReason, Prompt, as_ids
from outrider.decoding import generate
from outrider.drafters import Lookup, ModelDrafter, NoDrafter, Qualified
from outrider.drafters.neural.growth import Eagle2
from outrider.drafters.neural.tree import TreeDrafter
from outrider.guidance.cache import MixedCache
from outrider.guidance.classifier_free import check_scale, guide, guided
from outrider.guidance.mixed import Mixed
from outrider.models.caches.attaching import attach
from outrider.models.tabular import TabularModel
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import Cache, Drafter, LanguageModel, Segment
from tests.exactness.setups.rigs import SAMPLINGS, check_counters, generation, outputs, run, stage
from tests.exactness.setups.roster import free
from tests.guidance.toys import ImageTable, image_prompt, image_table, mixed_table
from tests.matrix import matrix

pytestmark = pytest.mark.method("classifier-free")

PROMPTS = [
    image_prompt(1, 2, 3),
    Prompt(token_ids=(4, 4)),
    image_prompt(5, 5, 5, 5, 5),
    image_prompt(6),
    Prompt(token_ids=(2, 6)),
]
VISION_MODEL = image_table()
DRAFT = TabularModel.random(vocab_size=7, near=mixed_table(VISION_MODEL, 2.0), distance=2.0, seed=3)


SOME = ("greedy", "t1.3", "penalties")


def plain(prompts: list[Prompt], scale: float, **options: Any) -> list[tuple[int, ...]]:
    """What the distributions say, each prompt alone and undrafted: with images the mixed one."""
    out: list[tuple[int, ...]] = []
    for prompt in prompts:
        model = VISION_MODEL if prompt.image_prompt is None else mixed_table(VISION_MODEL, scale)
        # Penalties look at the question, so the table is given what the model sees.
        out += outputs(run(stage(model, NoDrafter()), [prompt], **options))
    return out


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("scale", "sampling"), [*zip((0.0, 0.5, 1.0, 1.5, 1.5, 3.0, 3.0, 2.0), SAMPLINGS, strict=True)]
)
def test_the_distribution_is_the_mixed_one(scale: float, sampling: str) -> None:
    options = SAMPLINGS[sampling] | {"end_ids": (0,), "max_new_tokens": 20}
    found = run(stage(guided(VISION_MODEL, scale), NoDrafter()), PROMPTS, **options)
    assert outputs(found) == plain(PROMPTS, scale, **options)


def test_rows_are_mixed_by_the_formula_of_the_paper() -> None:
    [cache] = guided(VISION_MODEL, 1.0).start(PROMPTS[:1])
    for scale in (0.0, 0.7, 2.0):
        twin = cache.fork()
        segment, want = Segment(twin, as_ids((1, 2))), as_ids((-1, 0, 1))
        [rows] = guided(VISION_MODEL, scale).forward([segment], [want])
        text = (*twin.text, 1, 2)
        for row, end in enumerate((len(text) - 2, len(text) - 1, len(text))):
            seen, null = (
                VISION_MODEL.logits_after(text[:end]),
                VISION_MODEL.null.logits_after(text[:end]),
            )
            torch.testing.assert_close(rows.logits[row], null + scale * (seen - null))
        assert rows.chooser is None


def test_a_scale_of_one_is_the_model_bit_for_bit_and_of_zero_the_blind_one() -> None:
    segments: list[Any] = [NO_IDS, as_ids((3, 1))]
    for tokens in segments:
        want = as_ids(range(-1, len(tokens)))
        [cache], [alone] = (
            guided(VISION_MODEL, 1.0).start(PROMPTS[:1]),
            VISION_MODEL.start(PROMPTS[:1]),
        )
        [expected] = VISION_MODEL.forward([Segment(alone, tokens)], [want])
        [rows] = guided(VISION_MODEL, 1.0).forward([Segment(cache.fork(), tokens)], [want])
        assert torch.equal(rows.logits, expected.logits)
        [rows] = guided(VISION_MODEL, 0.0).forward([Segment(cache.fork(), tokens)], [want])
        texts = [(*cache.text, *tokens[: i + 1].tolist()) for i in want.tolist()]
        null = [VISION_MODEL.null.logits_after(text) for text in texts]
        assert torch.equal(rows.logits, torch.stack(null))
    assert guide(VISION_MODEL, 1.0) is VISION_MODEL
    assert guide(VISION_MODEL, 1) is VISION_MODEL


def test_both_texts_are_read_in_one_forward_and_prompts_without_images_once() -> None:
    vision_model = image_table()
    run(stage(guided(vision_model, 2.0), NoDrafter()), PROMPTS, max_new_tokens=3)
    assert set(vision_model.batches) == {len(PROMPTS) + 3}
    vision_model.batches.clear()
    run(stage(guided(vision_model, 2.0), NoDrafter()), PROMPTS[1:2], max_new_tokens=3)
    assert set(vision_model.batches) == {1}


def test_samples_of_one_prompt_share_its_blank_twin() -> None:
    vision_model = image_table()
    guided(vision_model, 2.0).start([PROMPTS[0], PROMPTS[0]])
    assert len(vision_model.read) == 4
    assert len({id(prompt) for prompt in vision_model.read}) == 2
    assert [prompt.image_prompt.blank for prompt in vision_model.read if prompt.image_prompt] == [
        0,
        0,
        1,
        1,
    ]


# -- drafting -------------------------------------------------------------------------------


def drafters() -> dict[str, Callable[[], Drafter]]:
    two = ModelDrafter(model=DRAFT)
    blind = guided(image_table(seed=1), 2.0)
    nest = Qualified(drafter=two, qualifier=blind, policy=FixedLength(3))
    return free() | {
        "two": lambda: two,
        "tree": lambda: TreeDrafter(model=DRAFT, growth=Eagle2(width=3)),
        "guided-draft": lambda: ModelDrafter(model=blind),
        "nest": lambda: nest,
        "nest-lookup": lambda: Qualified(drafter=Lookup(min_ngram=1), qualifier=blind),
    }


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "sampling"), matrix(drafters(), SOME))
def test_no_draft_changes_a_guided_text(name: str, sampling: str) -> None:
    options = SAMPLINGS[sampling] | {"end_ids": (0,), "max_new_tokens": 24}
    policy = FixedTree(depth=4, nodes=9) if name in ("tree", "aded", "recycling") else None
    drafted = run(
        stage(guided(VISION_MODEL, 2.0), drafters()[name](), policy=policy), PROMPTS, **options
    )
    assert outputs(drafted) == plain(PROMPTS, 2.0, **options)
    assert sum(g.counters.drafted for g in drafted) > 0
    for g in drafted:
        check_counters(g.counters, len(g.output))


@pytest.mark.usefixtures("unchecked")
@given(
    scale=st.floats(0, 4),
    seed=st.integers(0, 2**40),
    temperature=st.sampled_from([0.0, 0.6, 1.3]),
    window=st.integers(1, 8),
    images=st.lists(st.booleans(), min_size=1, max_size=3),
    limit=st.integers(1, 12),
)
def test_any_batch_any_window(
    scale: float, seed: int, temperature: float, window: int, images: list[bool], limit: int
) -> None:
    options = {"seed": seed, "temperature": temperature, "max_new_tokens": limit, "end_ids": (0,)}
    prompts = [
        image_prompt(i + 1, 2) if has else Prompt(token_ids=(i + 1, 2))
        for i, has in enumerate(images)
    ]
    whole = stage(guided(VISION_MODEL, scale), ModelDrafter(model=DRAFT), window=window)
    assert outputs(run(whole, prompts, **options)) == plain(prompts, scale, **options)


@pytest.mark.usefixtures("unchecked")
def test_drafts_are_accepted_and_refused() -> None:
    [g] = run(
        stage(guided(VISION_MODEL, 0.7), ModelDrafter(model=DRAFT)),
        PROMPTS[:1],
        temperature=1.5,
        max_new_tokens=150,
    )
    assert 20 < g.counters.accepted < g.counters.drafted - 20


@pytest.mark.usefixtures("unchecked")
def test_rejection_draws_from_the_mixed_distribution() -> None:
    """A distribution of the first two tokens, against many draws."""
    vision_model, prompt, draws = image_table(vocab_size=4, order=1), image_prompt(1), 600
    mixed = mixed_table(vision_model, 2.0)
    drafter = ModelDrafter(model=TabularModel.random(vocab_size=4, order=1, seed=9))
    whole = stage(guided(vision_model, 2.0), drafter, rule=Rejection(), window=2)
    counts = torch.zeros(4, 4, dtype=torch.float64)
    options = {"temperature": 1.0, "max_new_tokens": 2}
    for start in range(0, draws, 200):
        seeds = range(start, start + 200)
        batch = [generation(prompt, seed=seed, **options) for seed in seeds]
        for _ in generate(whole, batch):
            pass
        for g in batch:
            counts[tuple(g.output)] += 1
    probs = mixed.sequence_probs((1,), 2, generation(prompt, **options).request.sampler)
    distance = 0.5 * (counts / draws - probs).abs().sum()
    blind = 0.5 * (
        vision_model.sequence_probs((1,), 2, generation(prompt, **options).request.sampler) - probs
    )
    assert distance < 0.1
    assert blind.abs().sum() > 0.2


# -- the cache ------------------------------------------------------------------------------


def guided_cache(scale: float = 2.0) -> tuple[Mixed, MixedCache]:
    model = guided(VISION_MODEL, scale)
    return model, model.start(PROMPTS[:1])[0]


def test_it_is_a_cache_and_the_model_a_model() -> None:
    model, cache = guided_cache()
    assert isinstance(cache, Cache)
    assert isinstance(model, LanguageModel)
    assert list(cache.text) == [0, 0, 0, 1, 2, 3]
    assert list(cache.sources[1].text) == [0, 1, 2, 3]
    assert list(cache.pending) == [3]
    assert cache.horizon is None
    assert model.info.bytes_per_token == 0
    assert "guided-2" in model.info.fingerprint


def test_both_caches_keep_the_same_of_a_tree() -> None:
    model, cache = guided_cache()
    tree = Draft(tokens=as_ids((1, 2, 3, 4)), parents=as_ids((-1, -1, 0, 1)), sources=("x",) * 4)
    segment, want = attach(cache, as_ids((5, 6)), tree)
    [rows] = model.forward([segment], [want])
    assert rows.logits.shape[0] == 5
    assert cache.fed
    assert cache.num_speculative == cache.sources[1].num_speculative == 6
    assert cache.match_prefix(as_ids((5, 6, 2, 4, 1))) == [0, 1, 3, 5]
    cache.commit((5, 6, 2, 4, 1))
    assert list(cache.text[-5:]) == list(cache.sources[1].text[-5:]) == [5, 6, 2, 4, 1]
    assert list(cache.pending) == list(cache.sources[1].pending) == [1]


def test_truncating_cuts_as_much_of_both() -> None:
    _, cache = guided_cache()
    cache.commit((4, 5, 6))
    twin = cache.fork()
    cache.truncate(7)
    assert list(cache.text) == [0, 0, 0, 1, 2, 3, 4]
    assert list(cache.sources[1].text) == [0, 1, 2, 3, 4]
    assert len(twin.text) == 9
    for length in (0, 2, 8):  # the blind text has two tokens less
        with pytest.raises(ValueError, match="length must be"):
            cache.truncate(length)


def test_room_is_that_of_the_longer_text() -> None:
    small = ImageTable(VISION_MODEL.table, VISION_MODEL.null.table, context_length=10)
    [cache] = guided(small, 2.0).start(PROMPTS[:1])
    assert cache.remaining == 4
    [g] = run(stage(guided(small, 2.0), ModelDrafter(model=DRAFT)), PROMPTS[:1])
    assert len(g.output) == 4


# -- what goes wrong ------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf"), True, "2", None])
def test_scales_that_are_none(scale: Any) -> None:
    with pytest.raises(OptionError, match="guidance is"):
        check_scale(scale)


def test_a_scale_out_of_range_builds_nothing() -> None:
    for make in (guide, guided):
        with pytest.raises(OptionError, match="guidance is -1"):
            make(VISION_MODEL, -1.0)


def test_models_that_do_not_see_are_guided_by_the_other_prompt_or_the_last_token() -> None:
    assert guide(DRAFT, 1.0) is DRAFT
    text, other = Prompt(token_ids=(1, 2, 3)), Prompt(token_ids=(5, 6))
    model = guide(DRAFT, 2.0)
    for prompt, null in ((replace(text, contrast=other), (5, 6)), (text, (3,))):
        [rows] = model.forward([Segment(model.start([prompt])[0], NO_IDS)], [as_ids((-1,))])
        seen = DRAFT.logits_after((1, 2, 3))
        torch.testing.assert_close(rows.logits[0], 2 * seen - DRAFT.logits_after(null))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_rows_that_can_not_be_mixed_end_their_request_alone(bad: float) -> None:
    table = VISION_MODEL.null.table.clone()
    table[5, 5, 2] = bad
    vision_model = ImageTable(VISION_MODEL.table, table)
    gs = run(
        stage(guided(vision_model, 2.0), ModelDrafter(model=DRAFT)), PROMPTS, max_new_tokens=12
    )
    ended = [g.finish is FinishReason.ERROR for g in gs]
    assert ended[2]
    assert not ended[1] and not ended[4]
    expected = plain(PROMPTS, 2.0, max_new_tokens=12)
    for g, text, failed in zip(gs, expected, ended, strict=True):
        assert tuple(g.output) == text[: len(g.output)]
        assert failed or tuple(g.output) == text


def test_tokens_that_neither_allows_are_never_written() -> None:
    vision_model = image_table()
    for table in (vision_model.table, vision_model.null.table):
        table[..., 3:] = -torch.inf
    gs = run(stage(guided(vision_model, 3.0), Lookup(min_ngram=1)), PROMPTS, temperature=2.0)
    assert all(max(g.output) < 3 and g.finish is FinishReason.LENGTH for g in gs)
