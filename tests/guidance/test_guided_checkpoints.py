"""Guidance over runners with real weights: images are embeddings, and blank ones are zeros."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from outrider.core.types import ImagePrompt, Prompt, as_ids
from outrider.decoding.generation import Generation
from outrider.drafters import Lookup, ModelDrafter, NoDrafter, Qualified
from outrider.drafters.layers.skip import EvenSkip
from outrider.drafters.layers.swift import Swift
from outrider.drafters.neural.growth import Eagle2
from outrider.drafters.neural.tree import TreeDrafter
from outrider.guidance.classifier_free import guide, guided
from outrider.guidance.mixed import Mixed
from outrider.models.llama.decoder import Decoder
from outrider.models.vision.image_model import VisionLanguageModel
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import Drafter, Segment
from tests.exactness.setups import checkpoints
from tests.exactness.setups.checkpoints import make_tiers
from tests.exactness.setups.rigs import outputs, run, stage
from tests.guidance.toys import image_prompt
from tests.matrix import matrix
from tests.models.setups.invariants import assert_equals_fresh_prefill

pytestmark = pytest.mark.usefixtures("unchecked")

IMAGE = 47
"""The id that stands for an image."""

PROMPTS = [
    image_prompt(5, 9, 40, 3, image=1),
    Prompt(token_ids=(7, 7, 2)),
    image_prompt(11, 12, 13, 14, 15, image=2),
    image_prompt(5, 9, 40, 3, image=3),
]


class NumberVisionEncoder:
    """Sees an image, which is a number, as three random rows; blank ones as zeros."""

    image_token_ids = frozenset({IMAGE})

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def views(self, image_prompt: Sequence[ImagePrompt]) -> list[Prompt]:
        return [self._view(one) for one in image_prompt]

    def _view(self, one: ImagePrompt) -> Prompt:
        words = [len(part["text"]) for m in one.messages for part in m["content"] if "text" in part]
        ids = (4, *[IMAGE] * 3, *words, 6)
        embeddings = self.table[list(ids)].clone()
        generator = torch.Generator().manual_seed(one.images[0])
        features = torch.randn(3, self.table.shape[1], generator=generator, dtype=self.table.dtype)
        embeddings[1:4] = 0.0 if one.blank else features
        return Prompt(token_ids=ids, embeddings=embeddings)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> list[Path]:
    """A target of four layers, so that some can be left out, and a copy with noise."""
    root = tmp_path_factory.mktemp("guided")
    return make_tiers(root, "llama", (0.0, 0.3), num_hidden_layers=4)


RUNNERS = ("eager", "transformers")


@pytest.fixture(scope="module", params=RUNNERS)
def models(folders: list[Path], request: Any) -> list[Any]:
    """Both see."""
    loaded = [checkpoints.RUNNERS[request.param](path) for path in folders]
    table = Decoder.load(folders[0], dtype=torch.float64).embed(as_ids(range(48)))
    return [VisionLanguageModel(model, NumberVisionEncoder(table)) for model in loaded]


def drafters(models: Sequence[Any]) -> dict[str, Drafter]:
    target, draft = models
    two = ModelDrafter(model=draft)
    return {
        "two": two,
        "guided draft": ModelDrafter(model=guide(draft, 2.0)),
        "tree": TreeDrafter(model=draft, growth=Eagle2(width=3)),
        "lookup": Lookup(max_ngram=3, min_ngram=1),
        "nest": Qualified(drafter=two, qualifier=guide(draft, 1.5), policy=FixedLength(3)),
        "skip": EvenSkip(model=guide(target, 2.0)),
        "swift": Swift(model=guide(target, 2.0)),
    }


NAMES = ("two", "guided draft", "tree", "lookup", "nest", "skip", "swift")


TEMPERATURES = (0.0, 0.9)


@pytest.fixture(scope="module", params=TEMPERATURES)
def plain(models: list[Any], request: Any) -> tuple[dict[str, Any], list[tuple[int, ...]]]:
    """Settings, and what is written with them: each prompt alone and undrafted."""
    options = {"temperature": request.param, "max_new_tokens": 8, "end_ids": (0,)}
    target = stage(guide(models[0], 2.0), NoDrafter())
    return options, [outputs(run(target, [prompt], **options))[0] for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("name", "models", "plain"),
    matrix(NAMES, RUNNERS, TEMPERATURES, crossed=1),
    indirect=["models", "plain"],
    scope="module",
)
def test_no_draft_changes_a_guided_text(models: list[Any], plain: Any, name: str) -> None:
    options, texts = plain
    policy = FixedTree(depth=4, nodes=9) if name == "tree" else None
    whole = stage(guide(models[0], 2.0), drafters(models)[name], policy=policy)
    drafted = run(whole, PROMPTS, **options)
    assert outputs(drafted) == texts
    assert sum(g.counters.drafted for g in drafted) > 0
    if name == "tree":
        assert_fresh(models[0], drafted[0])


def assert_fresh(model: Any, generation: Generation) -> None:
    """Both caches are those of a fresh reading."""
    picture = generation.request.prompt.image_prompt
    assert picture is not None
    both = generation.sequence.cache
    assert both.report.vision_seconds > 0.0
    for cache, view in ((both.sources[0], picture), (both.sources[1], picture.blanked())):
        [read] = model.vision_encoder.views([view])
        assert_equals_fresh_prefill(model, cache, embeddings=read.embeddings)


def test_guidance_changes_texts_and_only_those_with_images(models: list[Any]) -> None:
    texts = {
        scale: outputs(run(stage(guide(models[0], scale), NoDrafter()), PROMPTS, max_new_tokens=14))
        for scale in (0.0, 1.0, 2.0)
    }
    for with_image in (0, 2, 3):
        assert len({texts[scale][with_image] for scale in texts}) > 1
    assert len({texts[scale][1] for scale in texts}) == 1
    assert texts[1.0][0] != texts[1.0][3]  # the same question about another image
    assert texts[0.0][0] == texts[0.0][3]


def test_rows_are_mixed_by_the_formula_of_the_paper(models: list[Any]) -> None:
    prompt = PROMPTS[0]
    assert prompt.image_prompt is not None
    blank = Prompt(token_ids=prompt.token_ids, image_prompt=prompt.image_prompt.blanked())
    want = as_ids((-1, 0, 1))
    seen, null = (
        model_rows.logits
        for p in (prompt, blank)
        for model_rows in models[0].forward(
            [Segment(models[0].start([p])[0], as_ids((8, 9)))], [want]
        )
    )
    for scale in (0.0, 1.0, 2.5):
        model = guided(models[0], scale)
        [rows] = model.forward([Segment(model.start([prompt])[0], as_ids((8, 9)))], [want])
        torch.testing.assert_close(rows.logits, null + scale * (seen - null))


def test_layers_of_a_guided_model_are_drafted_with_unguided(models: list[Any]) -> None:
    model = guide(models[0], 2.0)
    assert isinstance(model, Mixed)
    assert model.layered is not None and model.layered.num_layers == 4
    assert model.info.image_token_ids == {IMAGE}


def test_the_next_turn_builds_on_both_caches(models: list[Any]) -> None:
    whole = stage(guide(models[0], 2.0), ModelDrafter(model=models[1]))
    options = {"max_new_tokens": 8, "temperature": 0.7}
    [first] = run(whole, PROMPTS[:1], **options)
    for prompt in (PROMPTS[0], PROMPTS[3], PROMPTS[1]):
        [again] = run(whole, [prompt], previous=[first.sequence], **options)
        [fresh] = run(whole, [prompt], **options)
        assert again.output == fresh.output
        first = again
