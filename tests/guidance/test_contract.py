"""What must hold of every guidance method (`outrider.testing.check_guidance`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.core.types import Prompt
from outrider.guidance.recipe import Parts, Recipe
from outrider.guidance.retrieval.building import read_after, stored
from outrider.guidance.retrieval.store import LogitStore, Origin
from outrider.protocols import LanguageModel
from outrider.strategy.catalogue import names, record
from outrider.testing import check_guidance
from outrider.testing.searches import LetterCodec
from tests.exactness.setups.checkpoints import PROMPTS, load_family, make_tiers
from tests.exactness.setups.rigs import Family

pytestmark = pytest.mark.usefixtures("unchecked")

TEXTS = [
    replace(Prompt(token_ids=ids), contrast=Prompt(token_ids=(*ids[::-1], 8)))
    for ids in PROMPTS[:3]
]
"""Prompts that each have another one."""


def contexts(model: LanguageModel) -> LogitStore:
    """A store of what the model says after the prompts and after some tokens that follow them."""
    read = [read_after(model, text, (6, 1, 3), 1) for text in TEXTS]
    states = torch.cat([rows.states[0].float() for rows in read if rows.states is not None])
    logits = torch.cat([rows.logits.float() for rows in read])
    info = model.info
    origin = Origin(model=info.fingerprint, tokenizer="words", vocab_size=info.vocab_size, layer=1)
    # Each context says what another one does, so that texts change.
    return stored(states, logits.roll(1, dims=0), origin)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Options of a method, given the models of a family.

    `neutral` are options with which the method guides nothing.
    """

    options: Callable[[Family], dict[str, Any]]
    neutral: dict[str, Any] | None = None


CASES = {
    "classifier-free": Case(options=lambda family: {"scale": 1.7}, neutral={"scale": 1.0}),
    "contrastive": Case(options=lambda family: {"amateur": family.draft}),
    "dola": Case(options=lambda family: {"layers": (1,)}, neutral={"layers": (2,)}),
    "proxy-tuning": Case(
        options=lambda family: {"untuned": family.draft, "tuned": family.small},
        neutral={"alpha": 0.0},
    ),
    "foreal": Case(
        options=lambda family: {"weak": family.draft, "lead": 2}, neutral={"lead": 10**6}
    ),
    "caad": Case(
        options=lambda family: {"store": contexts(family.target), "alpha": 2.0, "floor": 0.0},
        neutral={"alpha": 0.0},
    ),
    "fs-gen": Case(
        options=lambda family: {"small": family.draft, "slow": "contrast", "beta": 1.5},
        neutral={"router": "always", "slow": "oracle", "beta": 0.5},
    ),
    "two-prompt": Case(options=lambda family: {}, neutral={"strength": 0.0}),
    "lm-guidance": Case(
        options=lambda family: {"model": family.draft}, neutral={"beta": 0.0, "weight": 0.0}
    ),
    "lqcd": Case(options=lambda family: {}, neutral={"strength": 0.0, "alpha": 0.0}),
    "uscd": Case(options=lambda family: {"confident": 0.07}, neutral={"strength": 0.0}),
}
"""How each method is built here; a new method needs an entry."""


class Words(LetterCodec):
    """A tokenizer in which a third of the tokens end a sentence."""

    def encode(self, text: str) -> tuple[int, ...]:
        return (1,)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(" one." if i % 3 == 0 else " two" for i in ids)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder: Path = tmp_path_factory.mktemp("guided")
    return load_family(make_tiers(folder, "llama", num_hidden_layers=2), "eager")


def build(name: str, family: Family, options: dict[str, Any]) -> LanguageModel:
    recipe = record("guidance", name).cls(**options)
    assert isinstance(recipe, Recipe)
    models = dict(recipe.models())
    return recipe.build(Parts(target=family.target, models=models, codec=Words()))


@pytest.mark.parametrize("name", names("guidance"))
def test_the_contract(name: str, family: Family) -> None:
    case = CASES[name]
    options = case.options(family)
    neutral = None
    if case.neutral is not None:
        neutral = build(name, family, options | case.neutral)
    report = check_guidance(build(name, family, options), family.target, TEXTS, neutral=neutral)
    assert 0 < report.accepted < report.drafted
