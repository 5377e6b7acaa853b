"""Which rule judges what: every rule, every way of drafting and every combinator, in one table."""

from dataclasses import replace
from typing import Any

import pytest

from outrider.acceptance import (
    Fuzzy,
    KSeq,
    Match,
    RecursiveRejection,
    Rejection,
    TopBeta,
    Typical,
)
from outrider.core.errors import StrategyError
from outrider.drafters import Fallback, Lookup, ModelDrafter, Qualified, TreeDrafter
from outrider.drafters.combine.merge import Merge
from outrider.drafters.combine.switch import Switch
from outrider.drafters.neural.growth import (
    DySpec,
    DySpecLevels,
    Eagle2,
    Growth,
    IidTree,
    RsdC,
    RsdS,
    TopK,
)
from outrider.models.tabular import TabularModel
from outrider.protocols import AcceptanceRule, Drafter
from outrider.strategy import Strategy

MODEL = TabularModel.random()
FUZZY = Fuzzy(divergence="js", threshold=0.3)


def grown(growth: Growth, name: str = "tree") -> TreeDrafter:
    return TreeDrafter(model=MODEL, growth=growth, name=name, origin=name)


CHAIN = ModelDrafter(model=MODEL, name="chain")
LOOKUP, FIXED, IID, RSD = Lookup(), grown(TopK()), grown(IidTree(2), "iid"), grown(RsdC())

DRAFTERS: dict[str, Drafter] = {
    "lookup": LOOKUP,
    "chain": CHAIN,
    "nest": Qualified(drafter=CHAIN, qualifier=MODEL),
    "iid": IID,
    "top-k": FIXED,
    "eagle2": grown(Eagle2()),
    "rsd-c": RSD,
    "rsd-s": grown(RsdS()),
    "dyspec": grown(DySpec()),
    "dyspec-levels": grown(DySpecLevels()),
    "copies, then chain": Fallback(first=LOOKUP, second=CHAIN),
    "chain or iid": Switch(first=CHAIN, second=IID),
    "fixed or iid": Switch(first=FIXED, second=IID),
    "copies, then iid": Fallback(first=LOOKUP, second=Fallback(first=CHAIN, second=IID)),
    "fixed or drawn": Fallback(first=FIXED, second=replace(RSD, name="rsd")),
    "copies by score": Switch(first=LOOKUP, second=CHAIN, by="score"),
    "drawn by score": Switch(first=IID, second=CHAIN, by="score"),
    "drawn by score, below": Fallback(
        first=LOOKUP, second=Switch(first=replace(RSD, name="rsd"), second=CHAIN, by="score")
    ),
    "union of picks": Merge(first=LOOKUP, second=FIXED),
    "union of draws": Merge(first=LOOKUP, second=RSD),
}

INDEPENDENT = {"chain", "nest", "iid", "chain or iid"}
ONE_CHILD = INDEPENDENT | {
    *("lookup", "top-k", "eagle2", "copies, then chain", "fixed or iid", "copies, then iid"),
    *("copies by score", "union of picks"),
}
JUDGED: dict[str, tuple[AcceptanceRule, set[str]]] = {
    "match": (Match(), set(DRAFTERS)),
    "typical": (Typical(), set(DRAFTERS)),
    "top-beta": (TopBeta(beta=2, tau=1.0), set(DRAFTERS)),
    "rejection": (Rejection(), ONE_CHILD),
    "kseq": (KSeq(), INDEPENDENT),
    "recursive": (
        RecursiveRejection(),
        ONE_CHILD | {"rsd-c", "rsd-s", "dyspec", "dyspec-levels", "fixed or drawn"},
    ),
}


@pytest.mark.parametrize("rule", JUDGED)
def test_a_rule_that_does_not_fit_how_a_draft_was_drawn_is_refused(rule: str) -> None:
    own, judged = JUDGED[rule]
    for name, drafter in DRAFTERS.items():
        if name in judged:
            Strategy(target=MODEL, drafter=drafter, rule=own)
            continue
        with pytest.raises(StrategyError) as caught:
            Strategy(target=MODEL, drafter=drafter, rule=own)
        assert type(own).__name__ in str(caught.value) and "Match" in str(caught.value), name


@pytest.mark.parametrize("rule", JUDGED)
def test_the_same_below_a_qualifier(rule: str) -> None:
    own, judged = JUDGED[rule]
    for name, drafter in DRAFTERS.items():
        nest: Any = Qualified(drafter=drafter, qualifier=MODEL, rule=own, name="above")
        if name in judged:
            Strategy(target=MODEL, drafter=nest)
        else:
            with pytest.raises(StrategyError):
                Strategy(target=MODEL, drafter=nest)


def test_fuzzy_needs_somebody_to_vouch() -> None:
    for name in ("lookup", "copies, then chain", "union of picks", "union of draws"):
        with pytest.raises(StrategyError, match="logits"):
            Strategy(target=MODEL, drafter=DRAFTERS[name], rule=FUZZY)
    for name in ("chain", "nest", "rsd-s", "fixed or iid"):
        Strategy(target=MODEL, drafter=DRAFTERS[name], rule=FUZZY)
