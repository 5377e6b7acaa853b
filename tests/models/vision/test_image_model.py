"""A model that sees: views when it starts, everything else as the runner inside."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.core.errors import ContextError
from outrider.core.types import NO_IDS, ImagePrompt, Prompt, as_ids
from outrider.guidance.prompts.lqcd import Lqcd
from outrider.guidance.recipe import Parts
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.text_stack import text_checkpoint
from outrider.models.tabular import TabularModel
from outrider.models.vision.encoder import TransformersVisionEncoder
from outrider.models.vision.image_model import VisionLanguageModel
from outrider.protocols import (
    LanguageModel,
    Segment,
)
from tests.models.setups.vision_checkpoints import (
    asking,
    make_text_sibling,
    make_vision_checkpoint,
    picture,
)

LAST = as_ids([-1])
TALK = Prompt(token_ids=(72, 105, 33))


class Counting:
    """Vision encoder that count."""

    def __init__(self, vision_encoder: TransformersVisionEncoder) -> None:
        self.vision_encoder, self.image_token_ids = vision_encoder, vision_encoder.image_token_ids
        self.seen: list[int] = []

    def views(self, image_prompt: Sequence[ImagePrompt]) -> list[Prompt]:
        self.seen.append(len(image_prompt))
        return self.vision_encoder.views(image_prompt)


@pytest.fixture(scope="module", params=["smolvlm", "qwen2_vl"])
def parts(request: Any, tmp_path_factory: Any) -> tuple[Decoder, TransformersVisionEncoder]:
    path = make_vision_checkpoint(tmp_path_factory.mktemp("sighted"), request.param)
    checkpoint = open_checkpoint(path)
    text = text_checkpoint(checkpoint)
    assert text is not None
    return (
        Decoder.load(text, dtype=torch.float64),
        TransformersVisionEncoder.load(checkpoint, dtype=torch.float64),
    )


@pytest.fixture
def vision_encoder(parts: Any) -> Counting:
    return Counting(parts[1])


@pytest.fixture
def model(parts: Any, vision_encoder: Counting) -> VisionLanguageModel:
    return VisionLanguageModel(parts[0], vision_encoder)


def logits(model: LanguageModel, caches: Sequence[Any]) -> list[torch.Tensor]:
    segments = [Segment(cache, NO_IDS) for cache in caches]
    return [rows.logits[0] for rows in model.forward(segments, [LAST] * len(caches))]


def test_it_is_what_the_runner_inside_is(model: VisionLanguageModel) -> None:
    assert isinstance(model, LanguageModel)
    assert model.selector is None and model.layered is model.inner.layered is not None
    assert model.info.dtype == torch.float64
    assert model.info.fingerprint == model.inner.info.fingerprint
    assert model.info.end_ids == (256,)
    table = VisionLanguageModel(
        TabularModel.random(vocab_size=7, order=1, seed=0), model.vision_encoder
    )
    assert table.layered is None and table.segmented is table.inner


def test_equal_prompts_are_looked_at_once(
    model: VisionLanguageModel, vision_encoder: Counting
) -> None:
    prompt, other = asking(picture(40, 20)), asking(picture(16, 16))
    caches = model.start([prompt, TALK, other, prompt])
    assert vision_encoder.seen == [2]
    assert caches[0] is not caches[3]
    first, _, second, again = logits(model, caches)
    assert torch.equal(first, again)
    assert not torch.allclose(first, second)
    caches[0].commit([5])
    assert list(caches[3].text) != list(caches[0].text)


def test_lqcd_encodes_an_image_once_for_its_two_questions(parts: Any) -> None:
    """arXiv 2408.11261: both rows share the encoding of the image."""
    decoder, vision_encoder = parts
    base = vision_encoder.model.base_model
    tower = getattr(base, "vision_model", None) or base.visual
    count: list[int] = []
    hook = tower.register_forward_pre_hook(lambda *_: count.append(1))
    model = VisionLanguageModel(decoder, vision_encoder)
    neutral, leading = (asking(picture(16, 16), question=one) for one in ("Red?", "Red, is it?"))
    guided = Lqcd(alpha=0.0).build(Parts(target=model, models={}))
    [found] = logits(guided, guided.start([replace(neutral, contrast=leading)]))
    hook.remove()
    assert len(count) == 1
    one, two = logits(model, model.start([neutral, leading]))
    torch.testing.assert_close(found, 2 * one - two, rtol=0, atol=1e-9)
    assert not torch.allclose(one, two)


def test_looking_is_timed_apart(model: VisionLanguageModel) -> None:
    caches = model.start([asking(picture(40, 20)), TALK])
    assert caches[0].report.vision_seconds > 0 == caches[1].report.vision_seconds
    [talk] = model.start([TALK], [caches[0]])
    assert talk.report.vision_seconds == 0


def test_text_alone_passes_through(model: VisionLanguageModel, vision_encoder: Counting) -> None:
    [mine], [plain] = model.start([TALK]), model.inner.start([TALK])
    assert vision_encoder.seen in ([], [0])
    assert torch.equal(*logits(model, [mine, plain]))


def test_a_mixed_batch_is_each_alone(model: VisionLanguageModel) -> None:
    prompts = [asking(picture(40, 20)), TALK, asking(picture(16, 16), picture(30, 60))]
    together = logits(model, model.start(prompts))
    for prompt, row in zip(prompts, together, strict=True):
        [alone] = logits(model, model.start([prompt]))
        torch.testing.assert_close(row, alone, rtol=0, atol=1e-9)


def test_nothing_of_an_image_is_taken_for_text(model: VisionLanguageModel) -> None:
    """The next turn has the same ids and another image, or none."""
    prompt, other = asking(picture(40, 20)), asking(picture(40, 20, seed=9))
    for turn in (other, TALK, prompt):
        [fresh] = logits(model, model.start([turn]))
        [old] = model.start([prompt])
        [renewed] = logits(model, model.start([turn], [old]))
        torch.testing.assert_close(renewed, fresh, rtol=0, atol=1e-9)
    [old] = model.start([prompt])
    view = Prompt(token_ids=tuple(old.text))
    [blind] = logits(model, model.start([view]))
    [old] = model.start([prompt])
    [reused] = logits(model, model.start([view], [old]))
    torch.testing.assert_close(reused, blind, rtol=0, atol=1e-9)


def test_a_view_must_fit_the_window(tmp_path: Path) -> None:
    path = make_vision_checkpoint(tmp_path, "smolvlm", text={"max_position_embeddings": 48})
    checkpoint = open_checkpoint(path)
    text = text_checkpoint(checkpoint)
    assert text is not None
    model = VisionLanguageModel(Decoder.load(text), TransformersVisionEncoder.load(checkpoint))
    assert model.start([asking(picture(16, 16), question="?")])[0].remaining > 0
    with pytest.raises(ContextError, match="reads at most 48"):
        model.start([asking(picture(40, 40), picture(40, 40))])


def test_a_text_sibling_is_the_text_stack(tmp_path: Path) -> None:
    whole = open_checkpoint(make_vision_checkpoint(tmp_path / "whole", "qwen2_5_vl"))
    text = text_checkpoint(whole)
    assert text is not None
    inner = Decoder.load(text, dtype=torch.float64)
    alone = Decoder.load(make_text_sibling(tmp_path / "text", "qwen2_5_vl"), dtype=torch.float64)
    mine, plain = (logits(m, m.start([TALK]))[0] for m in (inner, alone))
    torch.testing.assert_close(mine, plain, rtol=0, atol=1e-9)
