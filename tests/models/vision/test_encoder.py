"""What an image-text model of `transformers` hands to its text stack, as a prompt."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoConfig

from outrider.core.errors import CheckpointError, OptionError
from outrider.core.types import ImagePrompt, as_ids
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.text_stack import text_checkpoint
from outrider.models.transformers.model import TransformersModel
from outrider.models.vision.encoder import TransformersVisionEncoder, refuse_blind
from outrider.models.vision.image_check import check_sight
from outrider.protocols import LanguageModel, Segment, VisionEncoder
from tests.models.setups.vision_checkpoints import (
    FAMILIES,
    SIZE,
    asked,
    image_id,
    make_vision_checkpoint,
    picture,
)

DOUBLE = torch.float64
ANSWER = [72, 105, 33]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Callable[[str], Path]:
    root, made = tmp_path_factory.mktemp("sighted"), {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = make_vision_checkpoint(root / family, family)
        return made[family]

    return make


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: Any) -> str:
    return request.param


@pytest.fixture(scope="module")
def vision_encoder(family: str, folder: Any) -> TransformersVisionEncoder:
    return TransformersVisionEncoder.load(open_checkpoint(folder(family)), dtype=DOUBLE)


@pytest.fixture(scope="module")
def whole(family: str, folder: Any) -> TransformersModel:
    return TransformersModel.load(folder(family), dtype=DOUBLE)


def questions() -> list[ImagePrompt]:
    """Several sizes, two images in one prompt, and an image between two turns of a talk."""
    talk = (
        {"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
        {"role": "user", "content": [{"type": "text", "text": "And?"}]},
    )
    return [
        asked(picture(40, 20)),
        asked(picture(SIZE, SIZE, seed=1), question="Hm"),
        asked(picture(40, 40), picture(10, 60, seed=2)),
        asked(picture(33, 12), question="Describe it."),
        ImagePrompt(messages=talk, images=(picture(24, 48),)),
    ]


def own_logits(
    whole: TransformersModel, vision_encoder: TransformersVisionEncoder, asked_: ImagePrompt
) -> torch.Tensor:
    """The model's own forward over the prompt and `ANSWER`: rows from the last prompt token on."""
    inputs = dict(vision_encoder.image_processor.inputs(asked_))
    more = torch.tensor([ANSWER])
    filling = {"input_ids": more, "mm_token_type_ids": 0 * more, "attention_mask": 0 * more + 1}
    for key in set(filling) & set(inputs):
        inputs[key] = torch.cat((inputs[key], filling[key]), 1)
    return whole.forward_plainly(inputs)[0, -1 - len(ANSWER) :]


def assembled(
    model: LanguageModel, vision_encoder: VisionEncoder, asked_: ImagePrompt
) -> torch.Tensor:
    """The same rows by a runner of the text stack that reads the view."""
    [cache] = model.start(vision_encoder.views([asked_]))
    [rows] = model.forward([Segment(cache, as_ids(ANSWER))], [as_ids(range(-1, len(ANSWER)))])
    return rows.logits


def close(rows: torch.Tensor, expected: torch.Tensor, runner: LanguageModel) -> None:
    """`transformers` turns by angles in float32, whatever the dtype; `Decoder` in float64."""
    atol = 1e-10 if isinstance(runner, TransformersModel) else 1e-4
    torch.testing.assert_close(rows, expected, rtol=0, atol=atol)


def test_a_view_gives_the_logits_of_the_whole_model(
    vision_encoder: TransformersVisionEncoder, whole: TransformersModel, family: str, folder: Any
) -> None:
    assert isinstance(vision_encoder, VisionEncoder)
    text = text_checkpoint(open_checkpoint(folder(family)))
    assert text is not None
    decoder = Decoder.load(text, dtype=DOUBLE)
    for question in questions():
        expected = own_logits(whole, vision_encoder, question)
        for runner in (whole, decoder):
            close(assembled(runner, vision_encoder, question), expected, runner)


def test_positions_are_right_after_a_rollback(
    vision_encoder: TransformersVisionEncoder, whole: TransformersModel, family: str, folder: Any
) -> None:
    """A draft is read and refused, as a chain and as a tree; what follows stands in its place."""
    text = text_checkpoint(open_checkpoint(folder(family)))
    assert text is not None
    question = questions()[2]
    expected = own_logits(whole, vision_encoder, question)
    for runner in (whole, Decoder.load(text, dtype=DOUBLE)):
        [cache] = runner.start(vision_encoder.views([question]))
        tree = Segment(cache, as_ids([1, 2, ANSWER[0], 3]), as_ids([-1, 0, -1, 2]))
        runner.forward([tree], [as_ids([3])])
        cache.commit(ANSWER[:1])
        runner.forward([Segment(cache, as_ids([7, 8, 9]))], [as_ids([2])])
        cache.commit(ANSWER[1:2])
        [rows] = runner.forward([Segment(cache, as_ids(ANSWER[2:]))], [as_ids([-1, 0])])
        close(rows.logits, expected[-2:], runner)


def test_views_of_many_are_those_of_each(vision_encoder: TransformersVisionEncoder) -> None:
    together = vision_encoder.views(questions())
    for view, question in zip(together, questions(), strict=True):
        [alone] = vision_encoder.views([question])
        assert (view.token_ids, view.axes) == (alone.token_ids, alone.axes)
        torch.testing.assert_close(view.embeddings, alone.embeddings, rtol=0, atol=1e-12)


def forwards(vision_encoder: TransformersVisionEncoder, asked_: list[ImagePrompt]) -> int:
    """How often the vision tower is asked."""
    count: list[int] = []
    hook = vision_encoder.model.register_forward_pre_hook(lambda *_: count.append(1))
    try:
        vision_encoder.views(asked_)
    finally:
        hook.remove()
    return len(count)


def test_equal_shapes_are_encoded_together(vision_encoder: TransformersVisionEncoder) -> None:
    many = [asked(picture(SIZE, SIZE, seed=i), question="?" * i) for i in range(8)]
    assert forwards(vision_encoder, many) == 1


def encoded(vision_encoder: TransformersVisionEncoder, asked_: list[ImagePrompt]) -> int:
    """How often the vision tower runs."""
    base: Any = vision_encoder.model.base_model
    parts = (getattr(base, name, None) for name in ("vision_model", "vision_tower", "visual"))
    tower = next(part for part in parts if part is not None)
    count: list[int] = []
    hook = tower.register_forward_pre_hook(lambda *_: count.append(1))
    try:
        vision_encoder.views(asked_)
    finally:
        hook.remove()
    return len(count)


def test_equal_images_are_encoded_once_whatever_is_asked(
    vision_encoder: TransformersVisionEncoder,
) -> None:
    """LQCD (arXiv 2408.11261) asks two questions about the same images."""

    def two() -> list[ImagePrompt]:
        return [asked(picture(SIZE, SIZE, seed=i), question=q) for q in ("a", "b") for i in (1, 2)]

    assert encoded(vision_encoder, two()[:2]) == 1
    assert encoded(vision_encoder, two()) == 1
    assert encoded(vision_encoder, [*two(), asked(picture(SIZE, SIZE, seed=3))]) == 2
    together = vision_encoder.views([*two(), asked(picture(SIZE, SIZE, seed=3))])
    for view, question in zip(together, two(), strict=False):
        [alone] = vision_encoder.views([question])
        assert (view.token_ids, view.axes) == (alone.token_ids, alone.axes)
        torch.testing.assert_close(view.embeddings, alone.embeddings, rtol=0, atol=1e-12)
    assert "get_image_features" not in vars(vision_encoder.model.base_model)


def test_the_same_question_is_seen_once_blank_or_not(
    vision_encoder: TransformersVisionEncoder, family: str
) -> None:
    question = asked(picture(40, 20))
    seen, blank, again = vision_encoder.views([question, question.blanked(), question])
    assert forwards(vision_encoder, [question, question.blanked()]) == 1
    assert seen.token_ids == blank.token_ids
    assert seen.axes == blank.axes
    assert seen.embeddings is not None and blank.embeddings is not None
    assert torch.equal(seen.embeddings, again.embeddings)
    image = torch.tensor(seen.token_ids) == image_id(family)
    assert image.any()
    assert not blank.embeddings[image].any()
    assert seen.embeddings[image].any(dim=-1).all()
    assert torch.equal(seen.embeddings[~image], blank.embeddings[~image])


def test_only_axes_of_mrope_models(vision_encoder: TransformersVisionEncoder, family: str) -> None:
    [view] = vision_encoder.views([asked(picture(40, 40), picture(16, 32))])
    assert (view.axes is not None) == family.startswith("qwen")
    assert vision_encoder.image_token_ids >= {image_id(family)}
    if view.axes is not None:
        last = {axis[-1] for axis in view.axes}
        assert len(last) == 1
        assert last.pop() < len(view) - 1  # an image takes fewer places than it has tokens


def test_without_images_a_view_is_the_text(vision_encoder: TransformersVisionEncoder) -> None:
    words = ({"role": "user", "content": [{"type": "text", "text": "Hi"}]},)
    [view] = vision_encoder.views([ImagePrompt(messages=words, images=())])
    assert view.token_ids == (257, *b"Hi", 259, 258)
    assert view.axes is None or view.axes[0] == tuple(range(len(view)))


def test_without_a_template_images_come_first(tmp_path: Path) -> None:
    plain = TransformersVisionEncoder.load(
        open_checkpoint(make_vision_checkpoint(tmp_path, "llava", template=False)), dtype=DOUBLE
    )
    [view] = plain.views([asked(picture(40, 20), question="So?")])
    assert view.token_ids == (image_id("llava"),) * SIZE + tuple(b"So?")
    with pytest.raises(OptionError, match="ends with an image"):
        plain.views([asked(picture(40, 20), question="")])


def test_a_mark_in_the_question_is_refused(vision_encoder: TransformersVisionEncoder) -> None:
    mark = vision_encoder.image_processor.processor.image_token
    with pytest.raises(OptionError, match="2 placeholders"):
        vision_encoder.views([asked(picture(40, 20), question=f"What is {mark}?")])


def test_no_layer_of_text_is_loaded(
    vision_encoder: TransformersVisionEncoder, whole: TransformersModel
) -> None:
    names = [name for name, _ in vision_encoder.model.named_parameters()]
    assert not any("text_model.layers" in n or "language_model.layers" in n for n in names)
    assert not any("lm_head" in n for n in names)
    assert vision_encoder.num_parameters < whole.info.num_parameters


def test_vision_encoders_of_another_model_are_caught(folder: Any, tmp_path: Path) -> None:
    other = make_vision_checkpoint(tmp_path / "other", "llava", seed=5)
    strange = TransformersVisionEncoder.load(open_checkpoint(other), dtype=DOUBLE)
    model = TransformersModel.load(folder("llava"), dtype=DOUBLE)
    with pytest.raises(CheckpointError, match="differ by"):
        check_sight(model, strange)


def test_a_processor_is_needed(tmp_path: Path) -> None:
    path = make_vision_checkpoint(tmp_path, "qwen2_vl")
    (path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"processor of .* cannot be built"):
        TransformersVisionEncoder.load(open_checkpoint(path))


def deepstack(vision_encoder: TransformersVisionEncoder) -> Any:
    """A Qwen3-VL that reads what a processor of Qwen2-VL makes."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text = vision_encoder.model.config.text_config.to_dict() | {"model_type": "qwen3_vl_text"}
    text |= {"num_hidden_layers": 2, "head_dim": 8, "layer_types": ["full_attention"] * 2}
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    ids = {
        name: getattr(vision_encoder.model.config, name)
        for name in ("image_token_id", "video_token_id")
    }
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
    return Qwen3VLForConditionalGeneration(config)


def test_deepstack_is_refused_by_name_and_by_behaviour(folder: Any) -> None:
    vision_encoder = TransformersVisionEncoder.load(open_checkpoint(folder("qwen2_vl")))
    model = deepstack(vision_encoder)
    with pytest.raises(CheckpointError, match="features of images to several"):
        refuse_blind(model.config, "deep")
    with pytest.raises(CheckpointError, match=r"needs .* in addition to embeddings"):
        TransformersVisionEncoder(model, vision_encoder.image_processor, name="deep")


def test_cross_attention_is_refused() -> None:
    config = AutoConfig.for_model("mllama")
    with pytest.raises(CheckpointError, match="cross-attention"):
        refuse_blind(config, "cross")


def test_a_mask_of_its_own_is_refused(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bidirectional images (PaliGemma, Gemma 3) come as a ready mask."""
    vision_encoder = TransformersVisionEncoder.load(open_checkpoint(folder("llava")))
    stack = vision_encoder.model.language_model

    def widen(_module: Any, _args: Any, kwargs: dict[str, Any]) -> Any:
        length = kwargs["inputs_embeds"].shape[1]
        return (), {**kwargs, "attention_mask": torch.zeros(1, 1, length, length)}

    hook = stack.register_forward_pre_hook(widen, with_kwargs=True)
    try:
        with pytest.raises(CheckpointError, match="a mask of its own"):
            TransformersVisionEncoder(
                vision_encoder.model, vision_encoder.image_processor, name="wide"
            )
    finally:
        hook.remove()


def test_windows_over_several_places_are_refused(tmp_path: Path) -> None:
    """Also where they are so wide that a small image stays inside."""
    sliding = {"use_sliding_window": True, "sliding_window": 100, "max_window_layers": 0}
    path = make_vision_checkpoint(tmp_path / "qwen", "qwen2_vl", text=sliding)
    model = TransformersModel.load(path, dtype=DOUBLE)
    image_processor = TransformersVisionEncoder.load(open_checkpoint(path)).image_processor
    vision_encoder = TransformersVisionEncoder(model.model, image_processor, name="wide")
    with pytest.raises(CheckpointError, match="sliding windows do not use the positions"):
        check_sight(model, vision_encoder)


def test_threads_see_their_own(vision_encoder: TransformersVisionEncoder) -> None:
    """Where forwards of two threads overlap, neither catches what the other's is given."""
    looks = [questions()[0], questions()[3]]
    alone = [vision_encoder.views([look])[0] for look in looks]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: vision_encoder.views([looks[i % 2]])[0], range(24)))
    for i, view in enumerate(found):
        assert view.token_ids == alone[i % 2].token_ids
        assert view.embeddings is not None
        assert torch.equal(view.embeddings, cast(torch.Tensor, alone[i % 2].embeddings))


def test_views_leave_the_model_as_it_was(
    whole: TransformersModel, vision_encoder: TransformersVisionEncoder
) -> None:
    """Vision encoder may share their model with the runner: nothing of a prompt stays behind in
    it."""
    own = TransformersVisionEncoder(whole.model, vision_encoder.image_processor, name="own")
    before = assembled(whole, vision_encoder, questions()[0])
    [view] = own.views([questions()[2]])
    [same] = vision_encoder.views([questions()[2]])
    assert view.embeddings is not None and same.embeddings is not None
    assert torch.equal(view.embeddings, same.embeddings)
    assert torch.equal(assembled(whole, vision_encoder, questions()[0]), before)
    assert replace(view, embeddings=None) == replace(same, embeddings=None)
