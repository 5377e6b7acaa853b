"""What must hold of every guidance method (`outrider.testing.check_guidance`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from outrider.core.types import Prompt
from outrider.guidance.recipe import Parts, Recipe
from outrider.protocols import LanguageModel
from outrider.strategy.catalogue import names, record
from outrider.testing import check_guidance
from tests.exactness.setups.checkpoints import PROMPTS, load_family, make_tiers
from tests.exactness.setups.rigs import Family

pytestmark = pytest.mark.usefixtures("unchecked")

TEXTS = [
    replace(Prompt(token_ids=ids), contrast=Prompt(token_ids=(*ids[::-1], 8)))
    for ids in PROMPTS[:3]
]
"""Prompts that each have another one."""


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
    "proxy-tuning": Case(
        options=lambda family: {"untuned": family.draft, "tuned": family.small},
        neutral={"alpha": 0.0},
    ),
    "foreal": Case(
        options=lambda family: {"weak": family.draft, "lead": 2}, neutral={"lead": 10**6}
    ),
    "fs-gen": Case(
        options=lambda family: {"small": family.draft, "slow": "contrast", "beta": 1.5},
        neutral={"router": "always", "slow": "oracle"},
    ),
    "two-prompt": Case(options=lambda family: {}, neutral={"strength": 0.0}),
    "lm-guidance": Case(
        options=lambda family: {"model": family.draft}, neutral={"beta": 0.0, "weight": 0.0}
    ),
}
"""How each method is built here; a new method needs an entry."""


class Words:
    """A tokenizer in which a third of the tokens end a sentence."""

    has_chat = False

    def encode(self, text: str) -> tuple[int, ...]:
        return (1,)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(" one." if i % 3 == 0 else " two" for i in ids)

    def chat(self, messages: object) -> tuple[int, ...]:
        raise NotImplementedError


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
