"""Policies of caches as options of `load`: what is given, what is refused, and what is planned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import outrider
from outrider.core.errors import MemoryPlanError, OptionError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.engine.options import Caching
from outrider.models.caches.eviction.cache import CompressedCache
from outrider.models.caches.eviction.h2o import H2O
from outrider.models.caches.eviction.snapkv import SnapKV
from outrider.models.compressing import kept_bytes, under_policy, with_kv_policy
from outrider.models.llama.base import cache_shape
from outrider.models.loading import load_model
from outrider.models.memory import Demand, plan_memory
from outrider.models.sources.families import family
from outrider.protocols import Segment
from outrider.strategy.calibration import ModelId
from outrider.strategy.catalogue import names
from outrider.strategy.making import make_kv_policy
from tests.engine.caching.policies import model, policy
from tests.models.setups.make_checkpoints import make_checkpoint


def test_words_objects_and_budgets() -> None:
    assert make_kv_policy(None) is None
    assert make_kv_policy("snapkv(window=16,budget=0.3)") == SnapKV(window=16, budget=0.3)
    assert make_kv_policy("snapkv(window=16)", 0.3) == SnapKV(window=16, budget=0.3)
    assert make_kv_policy(SnapKV(window=16, budget=0.2), 0.3) == SnapKV(window=16, budget=0.3)
    own = SnapKV(window=16)
    assert make_kv_policy(own) is own
    both = Caching.of("h2o", 0.5, "snapkv", 64)
    assert (both.of_tier(0), both.of_tier(1)) == (H2O(budget=0.5), SnapKV(budget=64))
    assert both.of_tier(2) is both.of_tier(1)


@pytest.mark.parametrize("name", names("kv-policy"))
def test_text_forms_can_be_read_again(name: str) -> None:
    given = policy(name)
    if "gates" not in str(given):
        assert make_kv_policy(str(given)) == given
    assert str(given).startswith(f"{name}(")
    assert str(SnapKV()) == "snapkv"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"kv_policy": "snapk"}, "unknown kv-policy 'snapk'. Did you mean 'snapkv'"),
    "unknown option": ({"kv_policy": "snapkv(windo=3)"}, "window"),
    "no policy": ({"kv_policy": 3}, "kv-policy is 3. Give a name"),
    "another method": ({"kv_policy": "snapkv(h2o)"}, "contains other methods"),
    "budget alone": ({"kv_budget": 0.3}, "kv_budget is 0.3, and there is no policy"),
    "budget of drafts alone": ({"draft_kv_budget": 9}, "Give draft_kv_policy as well"),
    "twice": ({"kv_policy": "h2o(budget=9)", "kv_budget": 8}, "the budget is given twice"),
    "zero": ({"kv_policy": "h2o", "kv_budget": 0}, "kv_budget is 0"),
    "half a row": ({"kv_policy": "h2o", "kv_budget": 1.5}, "the budget of the cache is 1.5"),
    "words": ({"kv_policy": "h2o", "kv_budget": "much"}, "kv_budget is 'much'"),
    "no draft model": ({"draft_kv_policy": "h2o", "drafter": "lookup"}, "no draft model runs"),
    "undrafted": ({"draft_kv_policy": "h2o", "mode": "none"}, "no draft model runs"),
    "window": ({"kv_policy": "streaming(budget=4096)"}, "exceed the window"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_clear_line(case: str) -> None:
    options, message = WRONG[case]
    with pytest.raises(OptionError) as refusal:
        outrider.load("tiny", **options)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_loaded_model_tells_its_policy_and_shares_weights() -> None:
    plain = model()
    own = load_model(plain, kv_policy=H2O(budget=0.5))
    assert own.info.kv_policy == "h2o(budget=0.5)" and not plain.info.kv_policy
    assert own.info.exactness == "lossy" and own.segmented is None
    assert own.info.fingerprint == plain.info.fingerprint
    assert load_model(plain, kv_policy=None) is plain


def test_a_model_that_reads_images_keeps_its_encoder(request: pytest.FixtureRequest) -> None:
    from outrider.models.vision.image_model import VisionLanguageModel

    whole = load_model(family("tiny-vision")["target"], dtype="float32", threads=1)
    assert isinstance(whole, VisionLanguageModel)
    own = with_kv_policy(whole, SnapKV(budget=32, window=4))
    assert isinstance(own, VisionLanguageModel)
    assert own.vision_encoder is whole.vision_encoder
    assert own.info.kv_policy == own.inner.info.kv_policy != ""
    assert own.info.image_token_ids == whole.info.image_token_ids


def test_other_runners_refuse_a_policy(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_checkpoint(tmp_path / "one")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with pytest.raises(OptionError, match="does not run in a runner of Outrider's own") as refusal:
        load_model(theirs, kv_policy=H2O())
    assert "\n" not in str(refusal.value)


def test_caches_of_static_shapes_refuse_a_policy(tmp_path: Path) -> None:
    from outrider.models.cuda.decoder import StaticDecoder

    static = StaticDecoder.load(make_checkpoint(tmp_path / "one"), dtype=torch.float32)
    with pytest.raises(OptionError, match="static shapes"):
        with_kv_policy(static, H2O())


def test_a_calibration_belongs_to_a_policy() -> None:
    own = with_kv_policy(model(), H2O(budget=0.5))
    assert ModelId.of(own) != ModelId.of(model())
    assert ModelId.of(own) != ModelId.of(with_kv_policy(model(), H2O(budget=0.4)))
    assert ModelId.of(own) == ModelId.of(with_kv_policy(model(), H2O(budget=0.5)))


@pytest.mark.parametrize("length", [7, 150])
@pytest.mark.parametrize("name", names("kv-policy"))
def test_bytes_are_those_that_the_storage_allocates(name: str, length: int) -> None:
    plain = model()
    own = with_kv_policy(plain, policy(name))
    [cache] = own.start([Prompt(token_ids=tuple(range(5, 5 + length)))])
    own.forward([Segment(cache, NO_IDS)], [as_ids([-1])])  # the last token of the prompt
    cache.commit([5])
    assert isinstance(cache, CompressedCache) and cache.length == length
    shape = cache_shape(plain.config, lambda: plain.info.fingerprint)
    found = kept_bytes(policy(name), shape, plain.info.bytes_per_token)(length)
    if cache.planes.end:
        assert found == cache.nbytes
    else:  # nothing is dropped yet: the cache has room for more rows
        assert length * plain.info.bytes_per_token <= found < cache.nbytes


def test_memory_is_planned_for_what_is_kept() -> None:
    plain = model()
    shape = cache_shape(plain.config, lambda: plain.info.fingerprint)
    demand = replace(Demand.of_model("target", plain), context_length=1024)
    few, all_rows = make_kv_policy("streaming(budget=64)"), make_kv_policy("infllm(budget=512)")
    assert few is not None and all_rows is not None

    def planned(given: Demand, tokens: int) -> int:
        return plan_memory([given], context=tokens, available=1 << 40).lines[0].nbytes

    kept = under_policy(demand, few, shape)
    assert planned(kept, 1024) < planned(demand, 1024) / 4
    assert planned(kept, 1024) == planned(kept, 65536) > 0  # constant, and beyond the window
    assert planned(under_policy(demand, all_rows, shape), 1024) > planned(demand, 1024)
    whole = under_policy(demand, SnapKV(budget=64), shape)  # a prompt is held while it is read
    assert planned(whole, 65536) == planned(whole, 1024) > planned(demand, 1024)
    assert planned(replace(kept, texts=2), 1024) == 2 * planned(kept, 1024)
    assert under_policy(demand, None, shape) is demand is under_policy(demand, few, None)
    with pytest.raises(MemoryPlanError):
        plan_memory([whole], context=1024, available=1024)
