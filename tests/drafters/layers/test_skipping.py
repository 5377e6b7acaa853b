"""A model whose layers are left out for good."""

from collections.abc import Sequence
from typing import Any

import pytest

from outrider.core.layers import LayerSet
from outrider.core.types import NO_IDS, Exactness, Prompt, as_ids
from outrider.drafters import NoDrafter
from outrider.drafters.layers.skip import EvenSkip
from outrider.models.llama.decoder import Decoder
from outrider.models.wrappers.skipping import SkippingModel
from outrider.protocols import LanguageModel, Segment
from outrider.strategy import Strategy
from tests.drafters.layers.layer_rigs import PROMPTS
from tests.exactness.setups.rigs import outputs, run, stage

pytestmark = [
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.method("skip"),
    pytest.mark.method("skipping"),
]


def test_a_speedup_of_one_is_the_model_itself(model: Decoder) -> None:
    whole = SkippingModel(model, speedup=1)
    assert isinstance(whole, LanguageModel) and whole.layers.is_everything
    plain = run(stage(model, NoDrafter()), PROMPTS, max_new_tokens=20)
    assert outputs(run(stage(whole, NoDrafter()), PROMPTS, max_new_tokens=20)) == outputs(plain)


def by_hand(model: Decoder, layers: LayerSet, prompt: Sequence[int], count: int) -> list[int]:
    """The first token by all layers, the others by `layers` over the prompt as all have read it."""
    [cache] = model.start([Prompt(token_ids=tuple(prompt))])
    part, written = model.subset(layers), []
    for _ in range(count):
        runner = part if written else model
        [rows] = runner.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
        written.append(int(rows.logits[0].argmax()))
        cache.commit(written[-1:])
    return written


def test_prompts_by_all_layers_answers_by_some(model: Decoder) -> None:
    lossy = SkippingModel(model, speedup=2)
    assert lossy.layers.layers == (0, 3, 5)
    [g] = run(stage(lossy, NoDrafter()), PROMPTS[:1], max_new_tokens=20)
    assert g.output == by_hand(model, lossy.layers, PROMPTS[0], 20)
    [whole] = run(stage(model, NoDrafter()), PROMPTS[:1], max_new_tokens=20)
    assert g.output != whole.output and g.output[0] == whole.output[0]


def test_each_generated_token_passes_the_kept_layers(model: Decoder) -> None:
    lossy = SkippingModel(model, speedup=3)
    assert isinstance(lossy.part, Decoder)
    passed: list[int] = []

    def counted(layer: Any) -> Any:
        def call(hidden: Any, batch: Any) -> Any:
            passed.append(len(hidden))
            return layer(hidden, batch)

        return call

    lossy.part._layers = [counted(layer) for layer in lossy.part._layers]
    run(stage(lossy, NoDrafter()), PROMPTS[:1], max_new_tokens=20)
    assert passed == [1] * 2 * 19, "two layers a token; the first is the whole model's"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_model_with_layers_left_out_can_be_a_target(model: Decoder, temperature: float) -> None:
    """Batches, drafts and trees of drafts: the same text; and its promise is that it is lossy."""
    lossy = SkippingModel(model, speedup=2)
    options: dict[str, Any] = {"temperature": temperature, "max_new_tokens": 16}
    plain = outputs(run(stage(lossy, NoDrafter()), PROMPTS, **options))
    for prompt, text in zip(PROMPTS, plain, strict=True):
        assert outputs(run(stage(lossy, NoDrafter()), [prompt], **options)) == [text]
    for drafter in (EvenSkip(model=model), EvenSkip(model=model, speedup=1)):
        drafted = run(stage(lossy, drafter, window=4), PROMPTS, **options)
        assert outputs(drafted) == plain
        assert sum(g.counters.accepted for g in drafted) > 0
    assert Strategy(target=lossy).exactness is Exactness.LOSSY
    assert Strategy(target=model).exactness is Exactness.IDENTICAL


def test_the_next_turn_is_read_by_all_layers(model: Decoder) -> None:
    lossy = SkippingModel(model, speedup=2)
    whole = stage(lossy, NoDrafter())
    [first] = run(whole, PROMPTS[:1], max_new_tokens=10)
    turn = (*PROMPTS[0], *first.output, 4, 4)
    [second] = run(whole, [turn], previous=[first.sequence], max_new_tokens=10)
    assert second.sequence.cache is first.sequence.cache
    assert second.output == by_hand(model, lossy.layers, turn, 10)
