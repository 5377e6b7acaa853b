"""`guidance_scale` and `negative_prompt_ids`: texts and logits are those of `transformers`."""

from typing import Any

import pytest
import torch
from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor

import outrider
from outrider.core.errors import OptionError, OutriderWarning
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.protocols import Segment
from tests.engine.bridge.test_compat import (
    BATCH,
    MASK,
    ONE,
    PAD,
    assistant,
    built,
    ours,
    theirs,
    with_config,
)

pytestmark = pytest.mark.usefixtures("unchecked")

NEGATIVE = torch.tensor([[11, 12, 13, 14, 15, 9]])
TWO = torch.tensor([[5, 9, 40], [11, 12, 9]])
NEGATIVES = torch.tensor([[PAD, 7, 7], [1, 2, 3]])
NEGATIVE_MASK = torch.tensor([[0, 1, 1], [1, 1, 1]])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("scale", [0.0, 1.5, 3.0])
def test_greedy_texts(kind: str, negative: torch.Tensor | None, scale: float) -> None:
    given: dict[str, Any] = {"guidance_scale": scale, "max_new_tokens": 16}
    if negative is not None:
        given["negative_prompt_ids"] = negative
    expected = theirs(built(kind), ONE, **given)
    assert expected != theirs(built(kind), ONE, max_new_tokens=16)
    assert ours(built(kind), ONE, **given) == expected
    drafted = {"assistant_model": assistant(kind)} | given
    assert ours(built(kind), ONE, **drafted) == expected


@pytest.mark.parametrize("negative", [None, NEGATIVE])
def test_logits(negative: torch.Tensor | None) -> None:
    """The mixed rows differ by rounding, in float64, and by a constant that softmax ignores."""
    model = built("llama")
    assert model.dtype is torch.float64
    guided = outrider.load(model, mode="none", guidance=1.7)
    processor = UnbatchedClassifierFreeGuidanceLogitsProcessor(1.7, model, negative)
    contrast = None if negative is None else Prompt(token_ids=tuple(negative[0].tolist()))
    target = guided.strategy.target
    [cache] = target.start([Prompt(token_ids=tuple(ONE[0].tolist()), contrast=contrast)])
    text = ONE
    for token in (5, 40, 9, 3):
        [rows] = target.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
        with torch.no_grad():
            plain = model(text).logits[:, -1]
            expected = processor(text, plain)
        apart = torch.log_softmax(rows.logits, -1) - torch.log_softmax(expected, -1)
        assert float(apart.abs().max()) < 1e-10
        assert float((rows.logits - plain).abs().max()) > 1e-3
        cache.commit((token,))
        text = torch.cat((text, torch.tensor([[token]])), dim=1)


def test_a_batch_with_padding_on_both_sides() -> None:
    given: dict[str, Any] = {"guidance_scale": 2.0, "max_new_tokens": 10, "pad_token_id": PAD}
    expected = theirs(built("llama"), BATCH, attention_mask=MASK, **given)
    assert ours(built("llama"), BATCH, attention_mask=MASK, **given) == expected
    given |= {"negative_prompt_ids": NEGATIVES, "negative_prompt_attention_mask": NEGATIVE_MASK}
    expected = theirs(built("llama"), TWO, **given)
    assert ours(built("llama"), TWO, **given) == expected
    del given["negative_prompt_attention_mask"]
    assert theirs(built("llama"), TWO, **given) == ours(built("llama"), TWO, **given) != expected


def test_penalties_and_samples_see_the_same_scores() -> None:
    given: dict[str, Any] = {"guidance_scale": 2.0, "max_new_tokens": 12}
    for more in ({"repetition_penalty": 1.4}, {"do_sample": True, "num_return_sequences": 3}):
        torch.manual_seed(3)
        expected = theirs(built("llama"), ONE, **given, **more)
        torch.manual_seed(3)
        assert ours(built("llama"), ONE, **given, **more) == expected


def test_the_configuration_of_a_model_and_what_switches_it_off() -> None:
    model = with_config("llama", guidance_scale=2.0)
    expected = theirs(model, ONE, max_new_tokens=12)
    assert ours(model, ONE, max_new_tokens=12) == expected
    plain = theirs(built("llama"), ONE, max_new_tokens=12)
    for off in (None, 1, 1.0):
        with pytest.warns(OutriderWarning, match="sets guidance_scale=2.0"):
            found = ours(model, ONE, guidance_scale=off, max_new_tokens=12)
        assert found == plain != expected
    with pytest.warns(OutriderWarning, match="sets guidance_scale=2.0, which Outrider does not"):
        outrider.load(model, mode="none")
    outrider.load(model, mode="none", guidance=2.0)  # no warning: it is chosen


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
        ({"guidance_scale": "a"}, "guidance_scale is 'a'"),
        ({"guidance_scale": 2.0, "guidance": 2.0}, "guidance_scale and guidance are both given"),
        ({"negative_prompt_ids": NEGATIVE}, "Give guidance_scale=1.5 as well"),
        ({"guidance_scale": 2.0, "negative_prompt_ids": TWO}, "has rows: 2, and the prompts are 1"),
        ({"guidance_scale": 2.0, "negative_prompt_ids": "no"}, "the prompt is 'no'"),
        (
            {"guidance_scale": 2.0, "negative_prompt_attention_mask": NEGATIVE_MASK},
            "is given without negative_prompt_ids",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        ours(built("llama"), ONE, max_new_tokens=2, **given)
