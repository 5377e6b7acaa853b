"""I1 and I7 with images: whatever drafts for a model that sees, its text stays the same."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import outrider.decoding.round as rounds
from outrider.core.types import Draft, Prompt
from outrider.decoding import Stage
from outrider.decoding.generation import Generation
from outrider.drafters import (
    EvenSkip,
    Lookup,
    ModelDrafter,
    NoDrafter,
    Qualified,
    Suffix,
    TokenRecycling,
    TreeDrafter,
)
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.text_stack import text_checkpoint
from outrider.models.transformers.model import TransformersModel
from outrider.models.vision.encoder import TransformersVisionEncoder
from outrider.models.vision.image_model import VisionLanguageModel
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import Drafter, LanguageModel
from tests.exactness.setups.rigs import check_counters, finish, generation, outputs, run, stage
from tests.matrix import matrix
from tests.models.setups.vision_checkpoints import (
    FAMILIES,
    asking,
    image_id,
    make_text_sibling,
    make_vision_checkpoint,
    picture,
)

DOUBLE = torch.float64
NEW = 8
TREE = FixedTree(depth=4, nodes=10)

SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "few": {"temperature": 2.0, "max_new_tokens": 18},
    "top_p penalties": {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.2},
}
"""In `few` only a few tokens can be written, that of images among them: texts repeat, so that free
drafters find copies, and the target itself writes what is never drafted."""
SURE = ("layers", "suffix")
"""All layers of the target itself, and copies of the same text: hardly ever refused."""
REMEMBER = ("recycling", "suffix")
"""Drafters that go by earlier requests: asked for the same texts twice."""

DRAFTERS = (
    "text",
    "vision",
    "pyramid",
    "lookup",
    "layers",
    "recycling",
    "suffix",
    "tree",
    "vision tree",
)


@dataclass(frozen=True)
class Tiers:
    family: str
    target: VisionLanguageModel
    text: LanguageModel
    with_images: VisionLanguageModel
    """A vision draft."""
    qualifier: VisionLanguageModel
    made: dict[str, Stage] = field(default_factory=dict)
    runs: dict[tuple[str, str], list[Generation]] = field(default_factory=dict)

    def written(self, drafter: str, sampling: str) -> list[Generation]:
        """All prompts in one batch, written once."""
        key = drafter, sampling
        if key not in self.runs:
            self.made.update({} if self.made else stages(self))
            for _ in range(1 + (drafter in REMEMBER)):
                self.runs[key] = finished(self.made[drafter], prompts(), **self.options(sampling))
        return self.runs[key]

    def options(self, sampling: str) -> dict[str, Any]:
        if sampling != "few":
            return SAMPLINGS[sampling]
        bias = {65: 100.0, 66: 100.0, 67: 100.0, image_id(self.family): 97.0}
        return SAMPLINGS[sampling] | {"logit_bias": bias}


def own(path: Path) -> VisionLanguageModel:
    """By the readable runner."""
    checkpoint = open_checkpoint(path)
    text = text_checkpoint(checkpoint)
    assert text is not None
    vision_encoder = TransformersVisionEncoder.load(checkpoint, dtype=DOUBLE)
    return VisionLanguageModel(Decoder.load(text, dtype=DOUBLE), vision_encoder)


def theirs(path: Path) -> VisionLanguageModel:
    """By that of `transformers`, which lends its own vision tower."""
    model = TransformersModel.load(path, dtype=DOUBLE)
    pictures = TransformersVisionEncoder.load(open_checkpoint(path)).image_processor
    return VisionLanguageModel(
        model, TransformersVisionEncoder(model.model, pictures, name="target")
    )


RUNNERS: dict[str, Callable[[Path], VisionLanguageModel]] = {"own": own, "transformers": theirs}


def cases(names: str, *axes: Any, crossed: int | None = None) -> pytest.MarkDecorator:
    """With families of checkpoints for `folders` and runners for `tiers`."""
    named = names.split()
    table = matrix(*axes, crossed=crossed)
    indirect = ["folders", "tiers"]
    return pytest.mark.parametrize(named, table, indirect=indirect, scope="module")


@pytest.fixture(scope="module")
def folders(request: Any, tmp_path_factory: Any) -> tuple[str, dict[str, Path]]:
    root, family = tmp_path_factory.mktemp(request.param), request.param
    return family, {
        "target": make_vision_checkpoint(root / "target", family),
        "text": make_text_sibling(root / "text", family, shake=0.1),
        "with_images": make_vision_checkpoint(root / "with_images", family, shake=0.1),
        "qualifier": make_vision_checkpoint(root / "qualifier", family, shake=0.05),
    }


@pytest.fixture(scope="module")
def tiers(folders: Any, request: Any) -> Tiers:
    family, paths = folders
    return Tiers(
        family,
        RUNNERS[request.param](paths["target"]),
        Decoder.load(paths["text"], dtype=DOUBLE),
        own(paths["with_images"]),
        own(paths["qualifier"]),
    )


def prompts() -> list[Prompt]:
    return [
        asking(picture(40, 20)),
        asking(picture(16, 16, seed=1), picture(20, 48, seed=2), question="Two?"),
        Prompt(token_ids=tuple(b"No image")),
    ]


def stages(tiers: Tiers) -> dict[str, Stage]:
    text = ModelDrafter(model=tiers.text)
    middle = Qualified(drafter=text, qualifier=tiers.qualifier, policy=FixedLength(2))
    drafters: dict[str, Drafter] = {
        "none": NoDrafter(),
        "text": text,
        "vision": ModelDrafter(model=tiers.with_images),
        "pyramid": middle,
        "lookup": Lookup(max_ngram=2, min_ngram=1),
        "layers": EvenSkip(model=tiers.target, speedup=1),
    }
    trees: dict[str, Drafter] = {
        "recycling": TokenRecycling(),
        "suffix": Suffix(),
        "tree": TreeDrafter(model=tiers.text),
        "vision tree": TreeDrafter(model=tiers.with_images),
    }
    return {name: stage(tiers.target, d, window=4) for name, d in drafters.items()} | {
        name: stage(tiers.target, d, policy=TREE) for name, d in trees.items()
    }


@pytest.fixture
def drafted_ids(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Every id that any stage handed to its verifier."""
    seen: set[int] = set()
    fitting = rounds.fitting

    def spy(draft: Draft, budget: Any, stage: Stage) -> Draft:
        kept = fitting(draft, budget, stage)
        seen.update(kept.tokens.tolist())
        return kept

    monkeypatch.setattr(rounds, "fitting", spy)
    yield seen


def finished(stage: Stage, prompts: Sequence[Any], **options: Any) -> list[Generation]:
    return run(stage, prompts, **{"max_new_tokens": NEW, "end_ids": (256,), **options})


@cases("drafter tiers folders sampling", DRAFTERS, RUNNERS, FAMILIES, SAMPLINGS, crossed=1)
def test_drafted_equals_undrafted(
    tiers: Tiers, drafter: str, sampling: str, drafted_ids: set[int]
) -> None:
    """In one batch of prompts with and without images; no image is ever drafted."""
    plain, drafted = tiers.written("none", sampling), tiers.written(drafter, sampling)
    assert outputs(drafted) == outputs(plain)
    assert [g.finish for g in drafted] == [g.finish for g in plain]
    for g in drafted:
        check_counters(g.counters, len(g.output))
    assert image_id(tiers.family) not in drafted_ids


@cases("folders tiers sampling", FAMILIES, RUNNERS, ["greedy", "few"], crossed=1)
def test_a_prompt_alone_is_itself_in_a_batch(tiers: Tiers, sampling: str) -> None:
    alone = [
        finished(stages(tiers)[name], prompts()[1:2], **tiers.options(sampling))
        for name in ("text", "vision tree")
    ]
    assert [outputs(g) for g in alone] == 2 * [outputs(tiers.written("none", sampling)[1:2])]


@cases("drafter folders tiers", DRAFTERS, FAMILIES, RUNNERS, crossed=1)
def test_drafts_are_accepted_and_refused(tiers: Tiers, drafter: str) -> None:
    """Else the equality above shows nothing. Of prompts with images alone."""
    runs = [g for s in ("greedy", "few") for g in tiers.written(drafter, s)[:2]]
    accepted, drafted = (sum(getattr(g.counters, n) for g in runs) for n in ("accepted", "drafted"))
    assert accepted >= 3
    assert drafted - accepted >= 3 or drafter in SURE


@cases("folders tiers", FAMILIES, RUNNERS)
def test_the_target_may_write_what_is_never_drafted(tiers: Tiers) -> None:
    """Else no drafter was tempted to draft it."""
    assert image_id(tiers.family) in {t for g in tiers.written("none", "few") for t in g.output}


@cases("folders tiers", FAMILIES, RUNNERS)
def test_samples_of_one_prompt(tiers: Tiers) -> None:
    """One view is read once and forked; requests that end in one round do not disturb others."""
    prompt, other = prompts()[1], prompts()[0]
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 9}

    def wanted() -> list[Generation]:
        shorter = {**options, "max_new_tokens": 5}
        return [
            *(generation(prompt, sample=i, **options) for i in range(3)),
            generation(other, **shorter),
            generation(prompt, **shorter),
        ]

    texts = []
    for drafter in (NoDrafter(), ModelDrafter(model=tiers.with_images)):
        found = wanted()
        texts.append(outputs(finish(stage(tiers.target, drafter, window=3), found)))
    assert texts[0] == texts[1]
    assert len(set(texts[0][:3])) == 3
    assert [len(t) for t in texts[0]] == [9, 9, 9, 5, 5]
