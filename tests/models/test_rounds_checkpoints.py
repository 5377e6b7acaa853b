"""What holds of the runners of checkpoints, beside `test_rounds.py`, which holds of all."""

from pathlib import Path

import pytest
import torch

from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.cuda import StaticDecoder
from outrider.models.llama.decoder import Decoder
from outrider.protocols import Segment
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.pairs import Pair, Pairs
from tests.models.setups.reference import all_logits, begin, close, next_logits, random_ids
from tests.models.setups.runners import LIKE_LLAMA, OTHERS, pair_cases

CASES = (
    pair_cases(LIKE_LLAMA, ("decoder", "native", "static"))
    + pair_cases(OTHERS, ("decoder", "native"))
    + pair_cases(OTHERS, ("static",), slow=True)
)


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, pairs: Pairs) -> Pair:
    return pairs.of(*request.param)


@pytest.fixture(scope="module")
def another_model(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    path: Path = tmp_path_factory.mktemp("another")
    return Decoder.load(make_checkpoint(path, "llama", seed=7))


def test_cache_of_another_model_is_not_reused(pair: Pair, another_model: Decoder) -> None:
    model, reference = pair
    text = random_ids(10)
    foreign = begin(another_model, text)
    [cache] = model.start([Prompt(token_ids=text)], [foreign])
    assert cache is not foreign
    close(next_logits(model, cache), reference.logits(text)[-1])


def test_growth(pair: Pair) -> None:
    """Static storages are large from the start, and full at the end of the window."""
    model, reference = pair
    text = random_ids(240)
    cache = begin(model, text[:100])
    sizes = {cache.capacity}
    for start in range(100, 240, 10):
        segment = Segment(cache, as_ids(text[start : start + 10]))
        model.forward([segment], [NO_IDS])
        cache.commit(as_ids(text[start : start + 10]))
        sizes.add(cache.capacity)
    assert sizes == ({256} if isinstance(model, StaticDecoder) else {128, 256})
    close(next_logits(model, cache), reference.logits(text)[-1])


def test_prefill_equals_transformers_with_its_own_cache(pair: Pair) -> None:
    """A cached step of `transformers` agrees too, windows included."""
    model, reference = pair
    text = random_ids(30)
    with torch.no_grad():
        past = reference.model(torch.tensor([text[:29]]), use_cache=True).past_key_values
        step = reference.model(torch.tensor([text[29:]]), past_key_values=past).logits[0, -1]
    close(all_logits(model, text)[-1], step)
