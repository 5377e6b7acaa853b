"""The public conformance kits: every part of the package passes, and broken copies do not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outrider.acceptance import Fuzzy, Match, Rejection, TopBeta, Typical
from outrider.core.types import Draft, Exactness, Verdict
from outrider.drafters import Lookup
from outrider.models.tabular import TabularModel
from outrider.protocols import AcceptanceRule, Drafter
from outrider.protocols.method import Method, Paper
from outrider.strategy.catalogue import KINDS, names, record
from outrider.testing import (
    ConformanceError,
    Family,
    check_drafter,
    check_method,
    check_rule,
    check_runner,
)
from outrider.testing.rules import Lying
from tests.exactness.setups.rigs import tabular_family
from tests.exactness.setups.roster import named
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.runners import load, runner_cases

slow = pytest.mark.slow
METHODS = [(kind, name) for kind in KINDS for name in names(kind)]
SILENT = ("none", "rest")
"""They draft nothing without a datastore, or ever."""


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_every_record(kind: str, name: str) -> None:
    check_method(record(kind, name))


QUICK = ("lookup", "model")
SLOW = [name for name in named(tabular_family()) if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=slow) for name in SLOW)])
def test_every_drafter(name: str) -> None:
    report = check_drafter(lambda family: named(family)[name](), proposes=name not in SILENT)
    if name not in SILENT:
        assert report.drafted >= report.accepted > 0


RULES: dict[str, AcceptanceRule] = {
    "typical": Typical(epsilon=0.2, max_changed=0.2),
    "top-beta": TopBeta(beta=3, tau=1.0, max_changed=0.1),
    "fuzzy": Fuzzy("js", 0.3, max_changed=0.1),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("match", "typical") else slow)
        for name in names("rule")
    ],
)
def test_every_rule(name: str) -> None:
    rule = RULES.get(name) or record("rule", name).build({})
    assert isinstance(rule, AcceptanceRule)
    report = check_rule(rule)
    assert report.accepted > 0
    assert (report.changed > 0) == (rule.exactness is Exactness.LOSSY)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("kit") / "llama", std=0.3)


@pytest.mark.parametrize(
    "runner", runner_cases(("decoder", "native", "int8", "static", "transformers"))
)
def test_every_runner(runner: str, checkpoint: Path) -> None:
    report = check_runner(load(runner, checkpoint, torch.float32))
    assert "layered" in report.capabilities and "hidden_states" in report.capabilities


def test_a_table_is_a_runner() -> None:
    assert check_runner(TabularModel.random(vocab_size=9, order=2), tolerance=0.0).difference == 0


# -- broken copies -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited(Lookup):
    """A lookup whose drafts are edited."""

    edit: Callable[[Draft], Draft] = lambda draft: draft
    more: int = 0

    def propose(self, states: Sequence[Any], tails: Sequence[Any], budgets: Sequence[Any]) -> Any:
        drafts = Lookup.propose(self, states, tails, budgets)
        return [self.edit(d) if len(d) else d for d in drafts] + drafts[:1] * self.more


def longer(draft: Draft) -> Draft:
    tokens = np.concatenate((draft.tokens, draft.tokens, draft.tokens, draft.tokens))
    parents = np.arange(len(tokens)) - 1
    return replace(draft, tokens=tokens, parents=parents, sources=draft.sources * 4)


BROKEN: dict[str, tuple[Callable[[Family], Drafter], str]] = {
    "deep": (lambda f: Edited(edit=longer), "are allowed"),
    "order": (lambda f: Edited(edit=lambda d: replace(d, parents=d.parents + 1)), "before its par"),
    "origin": (lambda f: Edited(edit=lambda d: replace(d, origin="elsewhere")), "`origins` are"),
    "sources": (lambda f: Edited(edit=lambda d: replace(d, sources=d.sources[1:])), "sources"),
    "many": (lambda f: Edited(more=1), "drafts for"),
    "silent": (lambda f: Lookup(min_ngram=40, max_ngram=40), "nothing is drafted"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_drafter_is_told_in_one_line(case: str) -> None:
    make, message = BROKEN[case]
    with pytest.raises(ConformanceError, match=message) as failure:
        check_drafter(make)
    assert "\n" not in str(failure.value)


def test_misreported_probabilities_show() -> None:
    with pytest.raises(ConformanceError, match="probabilities"):
        check_drafter(lambda family: Lying(model=family.draft))


def test_drafts_that_depend_on_chance_show() -> None:
    lengths = iter(range(1, 99))
    with pytest.raises(ConformanceError, match="a new drafter"):
        check_drafter(lambda family: Lookup(min_ngram=1 + next(lengths) % 5))


@dataclass(frozen=True)
class Claiming(Typical):
    """Typical acceptance under another promise."""

    exactness = Exactness.IDENTICAL


class Hiding(Typical):
    """Typical acceptance that counts no change."""

    def __call__(self, draft: Draft, view: Any) -> Verdict:
        verdict = Typical.__call__(self, draft, view)
        return replace(verdict, changed=(False,) * len(verdict.changed))


class Matching(Match):
    """Keeps the choice of the target, and says that it keeps another sample."""

    needs = Rejection.needs
    exactness = Exactness.DISTRIBUTION


class Trusting(Rejection):
    """Takes all tokens for equally likely drafts."""

    def __call__(self, draft: Draft, view: Any) -> Verdict:
        uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
        return Rejection.__call__(self, replace(draft, probs=(uniform,) * len(draft)), view)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Claiming(), "promises identical"),
        (Hiding(), "counted as changed"),
        pytest.param(Matching(), "goes unnoticed", marks=slow),
        (Trusting(), "promises the target's distribution"),
    ],
)
def test_a_broken_rule_is_told_in_one_line(rule: AcceptanceRule, message: str) -> None:
    with pytest.raises(ConformanceError, match=message) as failure:
        check_rule(rule)
    assert "\n" not in str(failure.value)


class Forgetful(TabularModel):
    """Reads trees as chains."""

    def forward(self, segments: Sequence[Any], want: Sequence[Any]) -> Any:
        flat = [replace(segment, parents=None) for segment in segments]
        return TabularModel.forward(self, flat, want)


class Unable(TabularModel):
    """Lacks a declaration."""

    @property
    def embed(self) -> Any:
        raise AttributeError("embed")


@pytest.mark.parametrize(
    ("kind", "message"), [(Forgetful, "a tree: a logit differs"), (Unable, "`embed`")]
)
def test_a_broken_runner_is_told_in_one_line(kind: type[TabularModel], message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_runner(kind.random(vocab_size=9, order=2))


GOOD = Method(name="typical", cls=Typical, summary="a rule", promise=Exactness.LOSSY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Typical"}, "lower-case"),
        ({"summary": "Two.\nLines."}, "single line"),
        ({"paper": Paper("Medusa", "2401")}, "arXiv"),
        ({"defaults": {"epsilo": 0.1}}, "no option"),
        ({"defaults": {"epsilon": "much"}}, "refused"),
        ({"promise": Exactness.IDENTICAL}, "promises identical"),
    ],
)
def test_a_wrong_record_is_told_in_one_line(changes: dict[str, Any], message: str) -> None:
    check_method(GOOD)
    with pytest.raises(ConformanceError, match=message):
        check_method(replace(GOOD, **changes))
