"""I1 and I7 with images: whatever drafts for a model that sees, its text stays the same."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import outrider.decoding as decoding
from outrider.decoding import Stage, generate
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
from outrider.generation import Generation
from outrider.models.checkpoint import open_checkpoint
from outrider.models.decoder import Decoder
from outrider.models.eyes import TransformersEyes
from outrider.models.sighted import Sighted, sighted
from outrider.models.text_stack import text_checkpoint
from outrider.models.transformers import TransformersModel
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import Drafter, LanguageModel
from outrider.types import Draft, Prompt
from tests.exactness.rigs import check_counters, generation, outputs, run, stage
from tests.models.sighted_checkpoints import (
    FAMILIES,
    asking,
    image_id,
    make_sighted,
    make_text_sibling,
    picture,
)

DOUBLE = torch.float64
NEW = 14
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "t0.7": {"temperature": 0.7},
    "top_p penalties": {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.2},
}
TREE = FixedTree(depth=4, nodes=10)
FEW = ("text", "pyramid", "tree")
"""Drafters of the combinations that not all need to try."""


@dataclass(frozen=True)
class Tiers:
    family: str
    target: Sighted
    text: LanguageModel
    seeing: Sighted
    """A vision draft."""
    qualifier: Sighted


def own(path: Path) -> Sighted:
    """By the readable runner."""
    checkpoint = open_checkpoint(path)
    text = text_checkpoint(checkpoint)
    assert text is not None
    eyes = TransformersEyes.load(checkpoint, dtype=DOUBLE)
    return sighted(Decoder.load(text, dtype=DOUBLE), eyes)


def theirs(path: Path) -> Sighted:
    """By that of `transformers`, which lends its own vision tower."""
    model = TransformersModel.load(path, dtype=DOUBLE)
    pictures = TransformersEyes.load(open_checkpoint(path)).pictures
    return sighted(model, TransformersEyes(model.model, pictures, name="target"))


RUNNERS: dict[str, Callable[[Path], Sighted]] = {"own": own, "transformers": theirs}


@pytest.fixture(scope="module", params=FAMILIES)
def folders(request: Any, tmp_path_factory: Any) -> tuple[str, dict[str, Path]]:
    root, family = tmp_path_factory.mktemp(request.param), request.param
    return family, {
        "target": make_sighted(root / "target", family),
        "text": make_text_sibling(root / "text", family, shake=0.1),
        "seeing": make_sighted(root / "seeing", family, shake=0.1),
        "qualifier": make_sighted(root / "qualifier", family, shake=0.05),
    }


@pytest.fixture(scope="module", params=RUNNERS)
def tiers(folders: Any, request: Any) -> Tiers:
    family, paths = folders
    return Tiers(
        family,
        RUNNERS[request.param](paths["target"]),
        Decoder.load(paths["text"], dtype=DOUBLE),
        own(paths["seeing"]),
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
        "text": text,
        "vision": ModelDrafter(model=tiers.seeing),
        "pyramid": middle,
        "lookup": Lookup(max_ngram=2, min_ngram=1),
        "layers": EvenSkip(model=tiers.target, speedup=1),
    }
    trees: dict[str, Drafter] = {
        "recycling": TokenRecycling(),
        "suffix": Suffix(),
        "tree": TreeDrafter(model=tiers.text),
        "vision tree": TreeDrafter(model=tiers.seeing),
    }
    return {name: stage(tiers.target, d, window=4) for name, d in drafters.items()} | {
        name: stage(tiers.target, d, policy=TREE) for name, d in trees.items()
    }


@pytest.fixture
def drafted_ids(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Every id that any stage handed to its verifier."""
    seen: set[int] = set()
    fitting = decoding._fitting

    def spy(draft: Draft, budget: Any, stage: Stage) -> Draft:
        kept = fitting(draft, budget, stage)
        seen.update(kept.tokens.tolist())
        return kept

    monkeypatch.setattr(decoding, "_fitting", spy)
    yield seen


def finished(stage: Stage, prompts: Sequence[Any], **options: Any) -> list[Generation]:
    return run(stage, prompts, **{"max_new_tokens": NEW, "end_ids": (256,), **options})


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_drafted_equals_undrafted(tiers: Tiers, sampling: str, drafted_ids: set[int]) -> None:
    """In one batch of prompts with and without images, and each prompt alone."""
    options = SAMPLINGS[sampling]
    plain = finished(stage(tiers.target, NoDrafter()), prompts(), **options)
    everything = sampling == "greedy" and isinstance(tiers.target.inner, Decoder)
    for name, whole in stages(tiers).items():
        if name not in FEW and not everything:
            continue
        drafted = finished(whole, prompts(), **options)
        assert outputs(drafted) == outputs(plain), name
        assert [g.finish for g in drafted] == [g.finish for g in plain], name
        for g in drafted:
            check_counters(g.counters, len(g.output))
    assert outputs(finished(stages(tiers)["text"], prompts()[1:2], **options)) == (
        outputs(plain[1:2])
    )
    assert drafted_ids
    assert image_id(tiers.family) not in drafted_ids


def test_drafts_are_accepted_and_refused(tiers: Tiers) -> None:
    """Else the equality above shows nothing."""
    if not isinstance(tiers.target.inner, Decoder):
        pytest.skip("the same texts as of the other runner")
    for name in ("text", "vision", "pyramid"):
        runs = finished(stages(tiers)[name], prompts(), max_new_tokens=30)
        accepted = sum(g.counters.accepted for g in runs)
        assert 0 < accepted < sum(g.counters.drafted for g in runs), name


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
    for drafter in (NoDrafter(), ModelDrafter(model=tiers.seeing)):
        found = wanted()
        for _ in generate(stage(tiers.target, drafter, window=3), found):
            pass
        texts.append(outputs(found))
    assert texts[0] == texts[1]
    assert len(set(texts[0][:3])) == 3
    assert [len(t) for t in texts[0]] == [9, 9, 9, 5, 5]
