"""`generate` with images: what may be given, what is refused, the captions of `transformers`."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from outrider.core.errors import ContextError, OptionError, VocabularyError
from outrider.engine.generator import Generator, ModelDefaults
from outrider.engine.load import load
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.memory import Demand
from outrider.models.transformers.model import TransformersModel
from outrider.models.vision.encoder import TransformersVisionEncoder
from outrider.models.vision.image_model import VisionLanguageModel
from outrider.models.vision.loading import BlindWarning
from outrider.strategy import Strategy
from tests.matrix import matrix
from tests.models.setups.make_checkpoints import EOS_ID, make_checkpoint
from tests.models.setups.vision_checkpoints import (
    FAMILIES,
    image_id,
    make_text_sibling,
    make_vision_checkpoint,
    picture,
)

pytestmark = pytest.mark.usefixtures("unchecked")

NEW = 12
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Folder:
    root, made = tmp_path_factory.mktemp("with_images"), {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = make_vision_checkpoint(root / family, family)
        return made[family]

    return make


@pytest.fixture(scope="module")
def generator(folder: Folder) -> Generator:
    return load(folder("smolvlm"), mode="none", dtype="float64")


def ours(path: Path, runner: str) -> Generator:
    if runner == "own":
        return load(path, mode="none", dtype="float64")
    model = TransformersModel.load(path, dtype=torch.float64)
    pictures = TransformersVisionEncoder.load(open_checkpoint(path)).image_processor
    vision_encoder = TransformersVisionEncoder(model.model, pictures, name="target")
    return Generator(
        Strategy(target=VisionLanguageModel(model, vision_encoder)),
        tokenizer=Tokenizer.load(path),
        defaults=ModelDefaults(end_ids=model.info.end_ids),
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("family", "runner"), matrix(FAMILIES, ["own", "transformers"]))
def test_captions_are_those_of_transformers(family: str, runner: str, folder: Folder) -> None:
    """Greedy, in batches, several sizes, two images in one prompt."""
    path = folder(family)
    images = [
        [picture(40, 20)],
        [picture(16, 16, seed=1)],
        [picture(40, 40), picture(10, 60, seed=2)],
    ]
    questions = ["What?", "Describe it.", "Compare"]
    whole: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float64).eval()
    mine = ours(path, runner)
    target: Any = mine.strategy.target
    results = mine.generate(questions, images=images, max_new_tokens=NEW)
    for question, shown, result in zip(questions, images, results, strict=True):
        image_prompt = mine.prompt(question, images=shown).image_prompt
        inputs = target.vision_encoder.image_processor.inputs(image_prompt)
        inputs["pixel_values"] = inputs["pixel_values"].double()
        start = inputs["input_ids"].shape[1]
        theirs = whole.generate(**inputs, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
        assert list(result.token_ids) == theirs[0, start:].tolist()
        assert result.prompt_tokens == start


def test_forms_of_a_prompt_with_images(generator: Generator, tmp_path: Path) -> None:
    """A string, parts, parts with images of their own, and files."""
    image = picture(40, 20)
    image.save(tmp_path / "a.png")
    own = {"type": "image", "image": image}
    ask = {"type": "text", "text": "What?"}
    forms = [
        ("What?", [image]),
        ("What?", image),
        ("What?", [tmp_path / "a.png"]),
        ("What?", str(tmp_path / "a.png")),
        ([{"role": "user", "content": [{"type": "image"}, ask]}], [image]),
        ([{"role": "user", "content": [own, ask]}], None),
    ]
    texts = [generator.generate(p, images=i, max_new_tokens=8).token_ids for p, i in forms]
    assert len(set(texts)) == 1
    batch = generator.generate(["What?", forms[4][0]], images=[[image], image], max_new_tokens=8)
    assert [r.token_ids for r in batch] == texts[:2]
    prompt = generator.prompt("What?", images=[image])
    assert generator.generate(prompt, max_new_tokens=8).token_ids == texts[0]
    assert "".join(generator.stream("What?", images=[image], max_new_tokens=8)) == (
        generator.generate("What?", images=[image], max_new_tokens=8).text
    )


def test_the_question_alone_holds_no_image(generator: Generator) -> None:
    prompt = generator.prompt("What?", images=[picture(40, 20)])
    assert prompt.token_ids == (257, *b"What?", 259, 258)
    assert prompt.image_prompt is not None
    assert len(prompt.image_prompt.images) == 1


def test_images_of_other_modes_are_read_as_rgb(generator: Generator) -> None:
    grey = picture(40, 20).convert("L")
    modes = [grey, grey.convert("RGB"), grey.convert("LA"), grey.convert("RGBA")]
    texts = {generator.generate("?", images=[m], max_new_tokens=6).token_ids for m in modes}
    assert len(texts) == 1


def test_text_and_images_share_a_batch(generator: Generator) -> None:
    prompts: list[Any] = ["Hello", "What?", [72, 105]]
    images = [None, [picture(40, 20)], None]
    together = generator.generate(prompts, images=images, max_new_tokens=8)
    for prompt, shown, result in zip(prompts, images, together, strict=True):
        alone = generator.generate(prompt, images=shown, max_new_tokens=8)
        assert alone.token_ids == result.token_ids
    assert together[1].seconds["vision"] > 0


def test_samples_of_one_prompt(generator: Generator) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_new_tokens": 8}
    samples = generator.generate("What?", images=[picture(40, 20)], n=3, **options)
    assert len({s.token_ids for s in samples}) > 1
    [first] = [generator.generate("What?", images=[picture(40, 20)], **options)]
    assert first.token_ids == samples[0].token_ids


@pytest.mark.parametrize(
    ("prompt", "images", "problem"),
    [
        ("What?", [3], "an image is 3"),
        ([72, 105], [picture(8, 8)], "images are given with the prompt"),
        ([{"role": "user", "content": "Hi"}], [picture(8, 8)], "1 images are given"),
        ([{"role": "user", "content": [{"type": "image"}]}], None, "0 images are given"),
        (["a", "b"], [[picture(8, 8)]], "2 prompts are given, but 1 lists"),
        (["a", "b"], picture(8, 8), "2 prompts are given"),
        ("What is <image>?", [picture(8, 8)], "2 placeholders"),
        ("What?", ["/nowhere.png"], "nowhere.png"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
            None,
            "the part",
        ),
        ([{"role": "user", "content": [{"type": "video"}, {"type": "image"}]}], None, "the part"),
        ([{"role": "user", "content": ["Hi", {"type": "image"}]}], [picture(8, 8)], "the part 'Hi"),
        ([{"role": "user", "content": [{"type": "text"}]}], None, "the part"),
    ],
)
@pytest.mark.filterwarnings("ignore:a message contains the text of the control token")
def test_what_is_refused(generator: Generator, prompt: Any, images: Any, problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        generator.generate(prompt, images=images)


def test_images_and_documents_are_not_mixed(generator: Generator) -> None:
    with pytest.raises(OptionError, match="given together"):
        generator.generate("What?", images=[picture(8, 8)], documents="A text.")


def test_a_text_model_sees_nothing(tmp_path: Path) -> None:
    plain = load(make_checkpoint(tmp_path, tokenizer=True), mode="none", dtype="float64")
    with pytest.raises(OptionError, match="does not read images"):
        plain.generate("What?", images=[picture(8, 8)])


def test_limits_count_the_images(folder: Folder) -> None:
    """The question has 8 tokens, its view 29."""
    limited = load(folder("smolvlm"), mode="none", dtype="float64", context_length=34)
    result = limited.generate("What?", images=[picture(40, 20)], ignore_eos=True)
    assert (result.prompt_tokens, len(result.token_ids)) == (29, 5)
    with pytest.raises(ContextError, match="limited to 34"):
        limited.generate("What?", images=[picture(16, 16)])


def test_banned_marks_are_never_written(tmp_path: Path) -> None:
    """As in `transformers`: single `bad_words_ids` and `suppress_tokens`."""
    path = make_vision_checkpoint(tmp_path, "llava")
    shown = [picture(40, 20)]
    free = load(path, mode="none", dtype="float64").generate(
        "What?", images=shown, max_new_tokens=NEW
    )
    banned = [[free.token_ids[0]], [1, 2]]
    more = {"bad_words_ids": banned, "suppress_tokens": [free.token_ids[1], image_id("llava")]}
    file = path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    mine = load(path, mode="none", dtype="float64")
    assert image_id("llava") in mine.params().banned_tokens
    result = mine.generate("What?", images=shown, max_new_tokens=NEW)
    assert not {free.token_ids[0], free.token_ids[1]} & set(result.token_ids)


def test_a_text_draft_knows_all_but_the_marks(folder: Folder, tmp_path: Path) -> None:
    """A vocabulary that goes on with marks is shared; one that goes on with words is not."""
    target = folder("qwen2_vl")
    draft = make_checkpoint(tmp_path / "draft", tokenizer=True, vocab_size=260)
    whole = load(target, draft=draft, dtype="float64", drafter="model")
    plain = load(target, mode="none", dtype="float64")
    shown: dict[str, Any] = {"images": [picture(40, 20)], "max_new_tokens": NEW}
    drafted = whole.generate("What?", **shown)
    assert drafted.token_ids == plain.generate("What?", **shown).token_ids
    assert drafted.speculation.target.drafted > 0
    with pytest.raises(VocabularyError, match="token 260"):
        load(draft, draft=target, dtype="float64", drafter="model")


def test_a_question_with_marks_is_still_drafted_for(tmp_path: Path) -> None:
    """Marks that the draft model does not have are left out of what it reads."""
    target = make_vision_checkpoint(tmp_path / "target", "smolvlm")
    template = target / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|end|>", "<end_of_utterance>"))
    draft = make_checkpoint(tmp_path / "draft", tokenizer=True, vocab_size=260)
    mine = load(target, draft=draft, dtype="float64", num_speculative_tokens=2)
    shown: dict[str, Any] = {"images": [picture(40, 20)], "max_new_tokens": 8, "ignore_eos": True}
    assert 262 in mine.prompt("What?", images=shown["images"]).token_ids
    assert mine.generate("What?", **shown).speculation.target.drafted > 0


def test_a_vision_draft_with_a_small_window_leaves_a_request_undrafted(
    folder: Folder, tmp_path: Path
) -> None:
    draft = make_vision_checkpoint(tmp_path, "smolvlm", text={"max_position_embeddings": 32})
    mine = load(folder("smolvlm"), draft=draft, dtype="float64", num_speculative_tokens=3)
    plain = load(folder("smolvlm"), mode="none", dtype="float64")
    prompts = ["What?", "What?"]
    images = [[picture(40, 20)], [picture(40, 40), picture(40, 40)]]
    both = mine.generate(prompts, images=images, max_new_tokens=6)
    alone = plain.generate(prompts, images=images, max_new_tokens=6)
    assert [r.token_ids for r in both] == [r.token_ids for r in alone]
    assert "does not fit" in str(both[1].speculation.stages["draft"].off)
    assert both[0].speculation.target.drafted > 0


def test_a_vision_draft_that_refuses_an_image_leaves_a_request_undrafted(
    folder: Folder, tmp_path: Path
) -> None:
    """As draft model and as qualifier: a lower tier costs speed at most."""
    other = Path(shutil.copytree(folder("smolvlm"), tmp_path / "other"))
    template = other / "chat_template.jinja"
    refusal = "{% if messages[0]['content'] | length > 2 %}{{ raise_exception('two!') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    small = make_checkpoint(tmp_path / "small", tokenizer=True, vocab_size=260)
    plain = load(folder("smolvlm"), mode="none", dtype="float64")
    prompts, shown = ["What?", "What?"], [[picture(40, 20)], [picture(16, 16), picture(16, 16)]]
    alone = plain.generate(prompts, images=shown, max_new_tokens=6)
    for tier, tiers in {"draft": {}, "qualifier": {"draft": small}}.items():
        mine = load(
            folder("smolvlm"), dtype="float64", num_speculative_tokens=3, **{tier: other}, **tiers
        )
        both = mine.generate(prompts, images=shown, max_new_tokens=6)
        assert [r.token_ids for r in both] == [r.token_ids for r in alone]
        assert "does not fit" in str(both[1].speculation.stages[tier].off)
        assert both[0].speculation.target.drafted > 0
        seconds = both[0].speculation.stages[tier].seconds
        assert min(seconds["vision"], seconds["prefill"]) > 0


def test_without_its_processor_a_model_is_blind(folder: Folder, tmp_path: Path) -> None:
    path = Path(shutil.copytree(folder("llava"), tmp_path / "blind"))
    (path / "preprocessor_config.json").unlink()
    with pytest.warns(BlindWarning, match="does not read images"):
        blind = load(path, mode="none", dtype="float64")
    assert not isinstance(blind.strategy.target, VisionLanguageModel)
    assert blind.generate("Hi", max_new_tokens=3).token_ids
    with pytest.raises(OptionError, match="does not read images"):
        blind.generate("Hi", images=[picture(8, 8)])


def test_the_compiled_runner_sees(folder: Folder) -> None:
    """float32 and int8; other rounding, so only that it runs and looks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dtype in ("float32", "int8"):
            mine = load(folder("qwen2_5_vl"), dtype=dtype, drafter="lookup")
            shown = [Image.new("RGB", (40, 20), "red")]
            result = mine.generate("What?", images=shown, max_new_tokens=6, ignore_eos=True)
            assert len(result.token_ids) == 6
            assert result.seconds["vision"] > 0


def test_memory_counts_the_vision_encoders(folder: Folder, tmp_path: Path) -> None:
    text = open_checkpoint(make_text_sibling(tmp_path, "llava"))
    whole = open_checkpoint(folder("llava"))
    for dtype in (torch.float32, torch.int8):
        vision_model = Demand.of_checkpoint("target", whole, dtype)
        reads = Demand.of_checkpoint("target", text, dtype)
        tower = whole.num_parameters - text.num_parameters
        table = 320 * 32
        assert vision_model.weights - reads.weights == 4 * (tower + table)
        assert vision_model.cache == reads.cache


def test_a_template_of_old_checkpoints_is_found(folder: Folder, tmp_path: Path) -> None:
    path = Path(shutil.copytree(folder("smolvlm"), tmp_path / "old"))
    template = path / "chat_template.jinja"
    (path / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()
    old, new = Tokenizer.load(path), Tokenizer.load(folder("smolvlm"))
    talk = [{"role": "user", "content": "Hi"}]
    assert old.chat(talk) == new.chat(talk) == (257, 72, 105, 259, 258)


def test_templates_that_read_parts_are_given_parts(folder: Folder) -> None:
    """A loop over parts spells nothing of a plain string."""
    tokenizer = Tokenizer.load(folder("smolvlm"))
    tokenizer.tokenizer.chat_template = (
        "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
    )
    assert tokenizer.chat([{"role": "user", "content": "Hi"}]) == (72, 105)
    tokenizer = Tokenizer.load(folder("smolvlm"))
    tokenizer.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    parts = [{"type": "image"}, {"type": "text", "text": "Hi"}]
    assert tokenizer.chat([{"role": "user", "content": parts}]) == (72, 105)


def test_an_end_token_ends_a_caption(folder: Folder) -> None:
    assert EOS_ID in load(folder("llava"), mode="none", dtype="float64").defaults.end_ids
