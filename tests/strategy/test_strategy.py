"""Strategies and pyramids: what fits, what is promised, and PyramidSD's own invariants."""

import re
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch

from outrider.acceptance import Fuzzy, Match, Rejection
from outrider.core.counters import Counters
from outrider.core.errors import OptionError, OutriderWarning, StrategyError
from outrider.core.tree import chain_parents
from outrider.core.types import Budget, Draft, Draw, Exactness, Rows, as_ids
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.drafters import ModelDrafter, NoDrafter, Qualified
from outrider.policies import FixedLength
from outrider.protocols import AcceptanceRule, LanguageModel, Needs
from outrider.protocols.view import View
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import MODES, PyramidConfig, Strategy, pyramid
from tests.exactness.setups.rigs import PROMPTS, generation, outputs, tabular_family
from tests.matrix import matrix

FAMILY: Any = tabular_family(seed=2)
EVERYTHING = float("inf")


def write(strategy: Strategy, prompts: Any = PROMPTS, **options: Any) -> list[Generation]:
    gs = [generation(p, **{"temperature": 0.9, "max_new_tokens": 24, **options}) for p in prompts]
    for _ in generate(strategy.stage, gs):
        pass
    return gs


def three(mode: str = "exact", **options: Any) -> Strategy:
    config = PyramidConfig(mode=mode, num_speculative_tokens=3, num_qualified_tokens=5, **options)
    return pyramid(FAMILY.target, FAMILY.draft, [FAMILY.qualifier], config)


# -- pairings ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mute(NoDrafter):
    """Carries neither distribution nor reference."""

    name: str = "mute"
    gives = Needs()
    learns = False


@dataclass(frozen=True)
class WithoutReplacement(NoDrafter):
    draw = Draw.WITHOUT_REPLACEMENT


@pytest.mark.parametrize(
    ("rule", "what"),
    [(Rejection(), "probabilities"), (Fuzzy("js", 0.1), "logits")],
    ids=["rejection", "fuzzy"],
)
def test_a_rule_that_reads_what_the_drafter_can_not_give(rule: AcceptanceRule, what: str) -> None:
    with pytest.raises(StrategyError, match=f"needs the {what} .*'mute' does not supply"):
        Strategy(target=FAMILY.target, drafter=Mute(), rule=rule)
    assert Strategy(target=FAMILY.target, drafter=Mute()).rule == Match()


def test_a_rule_that_can_not_judge_the_draw() -> None:
    drafter = WithoutReplacement()
    with pytest.raises(StrategyError, match=r"Rejection cannot judge .*without_repl.*Match"):
        Strategy(target=FAMILY.target, drafter=drafter, rule=Rejection())
    for rule in (Match(), Fuzzy("js", 0.1)):
        Strategy(target=FAMILY.target, drafter=drafter, rule=rule)
    inner = Qualified(drafter=drafter, qualifier=FAMILY.qualifier, rule=Rejection())
    with pytest.raises(StrategyError, match="without_replacement"):
        Strategy(target=FAMILY.target, drafter=inner)


@pytest.mark.parametrize(
    "inner",
    [Fuzzy("logp_abs", 0.5), Fuzzy("js", 0.3, max_changed=0.1)],
    ids=["reads the token", "reads a budget"],
)
def test_rejection_outside_a_rule_without_a_distribution(inner: Fuzzy) -> None:
    drafter = Qualified(
        drafter=ModelDrafter(model=FAMILY.draft), qualifier=FAMILY.qualifier, rule=inner
    )
    with pytest.raises(StrategyError, match="does not supply"):
        Strategy(target=FAMILY.target, drafter=drafter, rule=Rejection())
    deeper = Qualified(drafter=drafter, qualifier=FAMILY.qualifier, rule=Rejection())
    with pytest.raises(StrategyError, match="does not supply"):
        Strategy(target=FAMILY.target, drafter=deeper)
    Strategy(target=FAMILY.target, drafter=drafter, rule=Match())


@pytest.mark.parametrize("inner", [Match(), Rejection(), Fuzzy("js", 0.3)], ids=["m", "r", "f"])
def test_distributions_are_asked_for_down_the_whole_nest(inner: Any) -> None:
    low = Qualified(drafter=ModelDrafter(model=FAMILY.draft), qualifier=FAMILY.small, rule=inner)
    high = Qualified(drafter=low, qualifier=FAMILY.qualifier, rule=inner)

    def parts(rule: AcceptanceRule) -> tuple[Any, Any, Any]:
        drafter: Any = Strategy(target=FAMILY.target, drafter=high, rule=rule).drafter
        return drafter, drafter.drafter, drafter.drafter.drafter

    top, middle, _ = parts(Rejection())
    assert top.rule.with_probs and top.needs == Needs(probs=True)
    if not isinstance(inner, Match):
        assert middle.rule.with_probs and middle.needs.probs
    top, middle, bottom = parts(Match())
    assert not top.rule.with_probs and top.needs == Needs()
    assert bottom.needs == middle.rule.needs
    assert (top.tier, middle.tier) == (1, 2)
    assert high.tier == low.tier == 1, "the parts given stay as they were"


# -- promises ----------------------------------------------------------------------------------

PROMISES = {
    "exact": Exactness.IDENTICAL,
    "distribution": Exactness.DISTRIBUTION,
    "assisted": Exactness.LOSSY,
    "fuzzy": Exactness.LOSSY,
    "none": Exactness.IDENTICAL,
}


@pytest.mark.parametrize("mode", MODES)
def test_what_each_mode_promises(mode: str) -> None:
    strategy = three(mode)
    assert strategy.exactness is PROMISES[mode]
    assert strategy.undrafted.exactness is Exactness.IDENTICAL
    assert isinstance(strategy.undrafted.drafter, NoDrafter)


def test_only_the_outermost_rule_lowers_the_promise() -> None:
    fuzzy = three("fuzzy").drafter
    assert Strategy(target=FAMILY.target, drafter=fuzzy).exactness is Exactness.IDENTICAL
    rule = Fuzzy("js", 9.0)
    assert Strategy(target=FAMILY.target, rule=rule).exactness is Exactness.IDENTICAL, "no draft"


@pytest.mark.usefixtures("unchecked")
def test_exact_and_none_write_the_same_whatever_the_inner_rule() -> None:
    plain = outputs(write(three("none")))
    assert outputs(write(three("exact"))) == plain
    lenient = Strategy(
        target=FAMILY.target, drafter=three("fuzzy", threshold_qualifier=0.4).drafter
    )
    assert outputs(write(lenient)) == plain


# -- pyramids ----------------------------------------------------------------------------------


def rules(strategy: Strategy) -> list[str]:
    """Rules from the outermost inwards."""
    found, drafter = [type(strategy.rule).__name__], strategy.drafter
    while isinstance(drafter, Qualified):
        found.append(type(drafter.rule).__name__)
        drafter = drafter.drafter
    return found


def test_which_rule_stands_where() -> None:
    assert rules(three("exact")) == ["Match", "Match"]
    assert rules(three("distribution")) == ["Rejection", "Match"]
    assert rules(three("assisted")) == ["Fuzzy", "Match"]
    assert rules(three("fuzzy")) == ["Fuzzy", "Fuzzy"]
    assert rules(three("none")) == ["Match"]
    strategy = three("fuzzy", divergence="tv", threshold_qualifier=0.1, threshold_target=0.2)
    assert isinstance(strategy.rule, Fuzzy) and isinstance(strategy.drafter, Qualified)
    inner = strategy.drafter.rule
    assert isinstance(inner, Fuzzy)
    assert (strategy.rule.threshold, strategy.rule.measure.name) == (0.2, "tv")
    assert (inner.threshold, inner.measure.name) == (0.1, "tv")


def cascade(models: int) -> Strategy:
    """Of one to four models, always with the same windows asked for."""
    qualifiers: list[LanguageModel] = [FAMILY.qualifier, FAMILY.small][: models - 2]
    draft = FAMILY.draft if models > 1 else None
    config = PyramidConfig(num_speculative_tokens=4, num_qualified_tokens=10)
    return pyramid(FAMILY.target, draft, qualifiers if models > 2 else [], config)


def test_windows() -> None:
    assert [cascade(n).windows for n in (1, 2, 3, 4)] == [(), (4,), (10, 4), (10, 7, 4)]


def test_windows_that_are_not_fixed_are_not_named() -> None:
    @dataclass(frozen=True)
    class Greedy:
        adaptive = True

        def budget(self, counters: Counters, batch: int = 1) -> Budget:
            return Budget.chain(2 + counters.accepted % 3)

    drafter = ModelDrafter(model=FAMILY.draft)
    strategy = Strategy(target=FAMILY.target, drafter=drafter, policy=Greedy())
    assert strategy.windows == ()
    nested = Qualified(drafter=drafter, qualifier=FAMILY.qualifier, policy=Greedy())
    assert Strategy(target=FAMILY.target, drafter=nested).windows == ()


@pytest.mark.usefixtures("unchecked")
def test_tiers_by_name() -> None:
    for models, names in ((2, ["draft"]), (3, ["qualifier", "draft"])):
        [g] = write(cascade(models), PROMPTS[:1])
        assert list(cascade(models).drafter.counters(g.sequence.state)) == names
    [g] = write(cascade(4), PROMPTS[:1])
    stages = cascade(4).drafter.counters(g.sequence.state)
    assert list(stages) == ["qualifier", "qualifier2", "draft"]
    assert set(g.sources) <= {"target", *stages}


def test_the_lowest_qualifier_drafts_when_there_is_no_draft_model() -> None:
    strategy = pyramid(FAMILY.target, None, [FAMILY.qualifier, FAMILY.small])
    assert isinstance(strategy.drafter, Qualified)
    inner = strategy.drafter.drafter
    assert isinstance(inner, ModelDrafter) and inner.model is FAMILY.small
    assert isinstance(pyramid(FAMILY.target).drafter, NoDrafter)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "exakt"}, "unknown mode 'exakt'. Did you mean 'exact'?"),
        ({"mode": "lossless"}, "Known: assisted, distribution, exact, fuzzy, none"),
        ({"mode": "exact", "max_changed": 0.1}, "max_changed is given, but mode 'exact' changes"),
        ({"mode": "none", "max_changed": 0.1}, "mode 'none' changes no token"),
        ({"mode": "distribution", "max_changed": 0.1}, "Use mode assisted or fuzzy"),
        ({"num_speculative_tokens": 0}, "num_speculative_tokens is 0. Give at least 1"),
        ({"num_qualified_tokens": -1}, "num_qualified_tokens is -1"),
        ({"divergence": "jss"}, "unknown divergence 'jss'. Did you mean 'js'?"),
        ({"mode": "fuzzy", "divergence": "kl"}, "unknown divergence 'kl'"),
        ({"mode": "fuzzy", "max_changed": 1.5}, "max_changed is 1.5"),
        ({"mode": "assisted", "threshold_target": float("nan")}, "threshold"),
    ],
)
def test_options_are_refused_when_the_pyramid_is_built(options: Any, said: str) -> None:
    with pytest.raises(OptionError, match=re.escape(said)) as refusal:
        pyramid(FAMILY.target, FAMILY.draft, [FAMILY.qualifier], PyramidConfig(**options))
    assert "\n" not in str(refusal.value)


def test_a_qualifier_more_tolerant_than_the_target_is_warned_of() -> None:
    with pytest.warns(OutriderWarning, match=r"0\.5 is above the target's 0\.2") as caught:
        three("fuzzy", threshold_qualifier=0.5, threshold_target=0.2)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


def test_nothing_is_warned_of_where_it_does_not_matter() -> None:
    taus: dict[str, Any] = {"threshold_qualifier": 0.5, "threshold_target": 0.2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        three("fuzzy", threshold_qualifier=0.2, threshold_target=0.2)
        three("assisted", **taus)
        config = PyramidConfig(mode="fuzzy", **taus)
        pyramid(FAMILY.target, FAMILY.draft, config=config)


@pytest.mark.parametrize("window", [0, -3])
def test_windows_of_nothing(window: int) -> None:
    with pytest.raises(OptionError, match="at least 1"):
        FixedLength(window)


# -- what must hold of PyramidSD ---------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("mode", ["assisted", "fuzzy"])
def test_a_negative_target_threshold_leaves_only_the_targets_text(mode: str) -> None:
    taus = {"threshold_target": -1.0, "threshold_qualifier": -1.0}
    got = write(three(mode, **taus))
    assert outputs(got) == outputs(write(three("none")))
    assert not any(any(g.changed) for g in got)


@pytest.mark.usefixtures("unchecked")
def test_no_tolerance_and_no_match_is_one_target_token_a_call() -> None:
    """A draft that never proposes the target's choice."""
    wrong = type(FAMILY.target)(-5 * FAMILY.target.table)
    config = PyramidConfig(mode="fuzzy", threshold_qualifier=-1.0, threshold_target=-1.0)
    strategy = pyramid(FAMILY.target, wrong, [wrong], config)
    for g in write(strategy, temperature=0.0):
        assert set(g.sources) == {"target"} and g.counters.forwards == len(g.output)


@pytest.mark.usefixtures("unchecked")
def test_all_tolerance_at_the_target_and_none_at_the_qualifier() -> None:
    """Only the qualifier's text, and one bonus token of the target for each window of it."""
    taus = {"threshold_target": EVERYTHING, "threshold_qualifier": -1.0}
    strategy = three("fuzzy", **taus)
    for g in write(strategy, max_new_tokens=24):
        assert g.counters.rounds == 4 and g.sources[5::6] == ["target"] * 4
        text, sampler = list(g.request.prompt.token_ids), g.request.sampler
        for i, token in enumerate(g.output):
            model = FAMILY.target if i % 6 == 5 else FAMILY.qualifier
            assert token == sampler.choose(model.logits_after(text), g.output[:i])
            text.append(token)


@pytest.mark.usefixtures("unchecked")
def test_all_tolerance_everywhere_leaves_the_draft_and_bonus_tokens() -> None:
    taus = {"threshold_target": EVERYTHING, "threshold_qualifier": EVERYTHING}
    for g in write(three("fuzzy", **taus), max_new_tokens=24):
        pattern = ["draft"] * 3 + ["qualifier"] * 2 + ["target"]
        assert g.sources == pattern * 4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("mode", "models"), matrix(["exact", "distribution", "assisted", "fuzzy"], [2, 3, 4])
)
def test_target_calls_bound_the_tokens(mode: str, models: int) -> None:
    config = PyramidConfig(mode=mode, num_speculative_tokens=3, num_qualified_tokens=5)
    qualifiers: list[LanguageModel] = [[], [FAMILY.qualifier], [FAMILY.qualifier, FAMILY.small]][
        models - 2
    ]
    strategy = pyramid(FAMILY.target, FAMILY.draft, qualifiers, config)
    for g in write(strategy, end_ids=(0,)):
        assert g.counters.forwards * (strategy.windows[0] + 1) >= len(g.output)
        assert sum(g.counters.sources.values()) == len(g.output) == len(g.sources)
        assert not {0} & {*g.output[:-1]}, "nothing after an end token"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("divergence", ["js", "tv", "kl_vd", "logp_abs"])
def test_acceptance_of_a_position_grows_with_the_threshold(divergence: str) -> None:
    """On a fixed trace: one drafted token behind each context."""
    thresholds = [-1.0, 0.1, 0.2, 0.4, 0.8, EVERYTHING]
    kept = [kept_behind(divergence, threshold) for threshold in thresholds]
    for lower, higher in pairwise(kept):
        assert lower <= higher, "what a lower threshold keeps, a higher one keeps too"
    assert kept[0] == {c for c in CONTEXTS if best(FAMILY.draft, c) == best(FAMILY.target, c)}
    assert kept[-1] == {*CONTEXTS} and len({len(k) for k in kept}) >= 3


CONTEXTS = [(a, b) for a in range(7) for b in range(7)]


def best(model: Any, context: tuple[int, int]) -> int:
    return int(model.logits_after(context).argmax())


def kept_behind(divergence: str, threshold: float) -> set[tuple[int, int]]:
    """Contexts behind which the draft model's best token is accepted."""
    kept = set()
    for context in CONTEXTS:
        ours, theirs = (m.logits_after(context) for m in (FAMILY.target, FAMILY.draft))
        draft = Draft(
            tokens=as_ids([best(FAMILY.draft, context)]),
            parents=chain_parents(1),
            sources=("draft",),
            reference=(theirs,),
        )
        view = View(
            sampler=Sampler(SamplingParams()),
            generated=[],
            draft=draft,
            rows=Rows(torch.stack([ours, ours])),
            tier=0,
            name="target",
            model="target",
            ledger=Counters(),
        )
        if Fuzzy(divergence, threshold)(draft, view).tokens:
            kept.add(context)
    return kept


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("share", "mode"), matrix([0.0, 0.05, 0.3, 1.0], ["assisted", "fuzzy"]))
def test_changes_keep_within_their_budget_at_every_prefix(mode: str, share: float) -> None:
    """I8, and each note of a change is true."""
    taus = {"threshold_target": EVERYTHING, "threshold_qualifier": 0.2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutriderWarning)
        got = write(three(mode, max_changed=share, **taus), PROMPTS[:3], max_new_tokens=50)
    for g in got:
        changed, text = 0, list(g.request.prompt.token_ids)
        for i, (token, noted) in enumerate(zip(g.output, g.changed, strict=True)):
            choice = g.request.sampler.choose(FAMILY.target.logits_after(text), g.output[:i])
            assert noted == (token != choice)
            changed += noted
            assert changed <= int(share * (i + 1))
            text.append(token)
        assert changed == g.counters.changed
    assert (sum(g.counters.changed for g in got) > 0) == (share > 0)
