"""Policies of caches beside everything else: turns, samples, selections, guidance, skipped layers,
grammars and searches."""

from typing import Any

import pytest

from outrider.context.config import ContextConfig
from outrider.core.errors import ContextError, OptionError
from tests.engine.caching.policies import PROMPT, generator, model, policy

WRITE: dict[str, Any] = {"max_new_tokens": 24, "seed": 3, "temperature": 0.5}
DRAFTING: dict[str, Any] = {"drafter": "recycling", "num_draft_nodes": 12, "guard": "off"}
SOME = ("streaming", "h2o", "snapkv", "infllm")

STORY = " ".join(
    f"The {animal} lived in a {place}. It was {mood} and liked to eat {food} every day."
    for animal, place, mood, food in (
        ("dog", "house", "happy", "bones"),
        ("cat", "tree", "sad", "fish"),
        ("bird", "nest", "big", "seeds"),
        ("frog", "pond", "green", "flies"),
    )
)


@pytest.mark.parametrize("name", ["streaming", "h2o", "snapkv", "duo"])
def test_a_second_turn_is_written_as_if_read_alone(name: str) -> None:
    kept = generator(model(), kv_policy=policy(name), **DRAFTING)
    first = kept.generate(PROMPT, **WRITE)
    turn = PROMPT + first.text + " Then the dog said"
    second = kept.generate(turn, **WRITE)
    kept.reset()
    assert second.token_ids == kept.generate(turn, **WRITE).token_ids
    shorter = PROMPT[: len(PROMPT) // 2]  # rows after it are gone, and some before it may be
    cut = kept.generate(shorter, **WRITE)
    kept.reset()
    assert cut.token_ids == kept.generate(shorter, **WRITE).token_ids


@pytest.mark.parametrize("name", ["streaming", "h2o", "infllm"])
def test_samples_and_texts_of_a_batch_are_those_written_alone(name: str) -> None:
    own = generator(model(), kv_policy=policy(name), **DRAFTING)
    several = own.generate([PROMPT, STORY], n=2, **WRITE)
    for prompt, results in zip((PROMPT, STORY), several, strict=True):
        own.reset()
        alone = own.generate(prompt, **WRITE)
        assert results[0].token_ids == alone.token_ids
    assert several[0][0].token_ids != several[0][1].token_ids


@pytest.mark.parametrize(
    ("name", "refresh"), [("streaming", 6), ("h2o", 6), ("snapkv", 6), ("infllm", 0)]
)
def test_a_selection_is_refreshed_and_drafts_change_nothing(name: str, refresh: int) -> None:
    config = ContextConfig(chunk_size=16, keep_ratio=0.5, refresh=refresh)
    texts = []
    for how in ({"mode": "none"}, DRAFTING):
        own = generator(model(), kv_policy=policy(name), selection=config, **how)
        result = own.generate("Who ate fish? The", documents=STORY, min_new_tokens=20, **WRITE)
        refreshes = refresh > 0 and policy(name).reads_texts  # else chunks are chosen once
        assert result.reading is not None and (result.reading.refreshes > 0) == refreshes
        assert result.cache is not None and result.cache["policy"] == str(policy(name))
        texts.append(result.token_ids)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["h2o", "infllm"])
def test_guidance_mixes_compressed_readings(name: str) -> None:
    texts = []
    for how in ({"mode": "none"}, DRAFTING):
        own = generator(model(), kv_policy=policy(name), guidance=1.7, **how)
        result = own.generate(PROMPT, contrast="Once upon a time there was", **WRITE)
        assert result.guidance == 1.7 and result.cache is not None
        assert int(str(result.cache["bytes"])) > 0
        texts.append(result.token_ids)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["h2o", "snapkv"])
def test_skipped_layers(name: str) -> None:
    texts = [
        generator(model(), kv_policy=policy(name), layer_skipping=1.5, **how)
        .generate(PROMPT, **WRITE)
        .token_ids
        for how in ({"mode": "none"}, DRAFTING)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["streaming", "snapkv"])
def test_a_grammar(name: str) -> None:
    texts = [
        generator(model(), kv_policy=policy(name), **how)
        .generate(PROMPT, regex="( [a-z]{1,6}){12}", **WRITE)
        .token_ids
        for how in ({"mode": "none"}, DRAFTING)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", SOME)
def test_searches_read_what_a_single_text_would_read(name: str) -> None:
    own = generator(model(), kv_policy=policy(name), mode="none")
    found = own.search("beam(num_beams=3)", PROMPT, max_new_tokens=20)
    assert found.best.logprob is not None and len(found.best.token_ids) > 8
    with pytest.raises(OptionError, match="superposed reads mixtures"):
        own.search("superposed(drafts=2)", PROMPT, max_new_tokens=20)
    one = own.search("beam(num_beams=1)", PROMPT, max_new_tokens=20)
    greedy = own.generate(PROMPT, max_new_tokens=20, temperature=0.0)
    assert one.best.text == greedy.text


@pytest.mark.parametrize(
    "words", ["streaming(budget=64)", "infllm(budget=256,chunk=128,every=32,sinks=8,block=16)"]
)
def test_texts_may_exceed_the_window(words: str) -> None:
    window, prompt = model().info.context_length, " ".join([STORY] * 29)
    texts = []
    for how in ({"mode": "none"}, DRAFTING):
        result = generator(model(), kv_policy=words, **how).generate(prompt, **WRITE)
        assert result.prompt_tokens > window and result.cache is not None
        kept, full = result.cache["bytes"], result.cache["full_bytes"]
        assert isinstance(kept, int) and isinstance(full, int)
        assert (kept < full / 8) == words.startswith("streaming")
        texts.append(result.token_ids)
    assert texts[0] == texts[1] and len(texts[0]) > 4
    with pytest.raises(ContextError):
        generator(model(), kv_policy=policy("h2o"), mode="none").generate(prompt, **WRITE)


def test_results_tell_policies_and_bytes() -> None:
    own = generator(
        model(),
        kv_policy="snapkv(window=4)",
        kv_budget=0.1,
        draft=model("draft"),
        drafter="model",
        num_speculative_tokens=3,
        draft_kv_policy="streaming(chunk=8,every=8)",
        draft_kv_budget=16,
    )
    result = own.generate(" ".join([PROMPT] * 6), **WRITE)
    figures = result.to_dict()["cache"]
    assert figures["policy"] == "snapkv(budget=0.1,window=4)"
    assert figures["draft_policy"] == "streaming(budget=16,chunk=8,every=8)"
    rows = result.prompt_tokens + result.completion_tokens - 1
    assert figures["full_bytes"] == rows * model().info.bytes_per_token
    assert figures["bytes"] < figures["full_bytes"]
    # Whole blocks of 64 slots of each plane, with room for further rows.
    draft = model("draft").info.bytes_per_token
    assert figures["draft_bytes"] % (64 * draft) == 0
    assert (
        0 < figures["draft_bytes"] < figures["full_bytes"] // model().info.bytes_per_token * draft
    )
    plain = generator(model(), mode="none").generate(PROMPT, **WRITE)
    assert plain.cache is None and "cache" not in plain.to_dict()
