"""What `Qualified` hands up: the qualifier's text, its logits, and the distributions it was drawn
from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from outrider.acceptance import Fuzzy, Match, Rejection
from outrider.core.tree import is_chain
from outrider.core.types import (
    NO_IDS,
    Budget,
    Draft,
    IntArray,
    Prompt,
    Rows,
    Verdict,
    Verified,
    as_ids,
)
from outrider.drafters import ModelDrafter, NoDrafter, Qualified
from outrider.models.tabular import TabularModel
from outrider.policies import FixedLength
from outrider.protocols import Needs, Request
from outrider.sampling import Sampler, SamplingParams
from tests.exactness.setups.rigs import outputs, run, stage, tabular_family

pytestmark = pytest.mark.method("pyramid")

FAMILY: Any = tabular_family(seed=9)
PROMPT = (1, 2, 3)
ALL = Needs(probs=True, reference=True)
EVERYTHING = float("inf")


def request(end_ids: Sequence[int] = (), **options: Any) -> Request:
    params = SamplingParams(**{"temperature": 0.9, "seed": 3, **options})
    sampler = Sampler(params, prompt_ids=PROMPT, end_ids=end_ids)
    return Request(Prompt(token_ids=PROMPT), sampler)


def nest(rule: Any = None, *, needs: Needs = ALL, **parts: Any) -> Qualified:
    parts = {"drafter": ModelDrafter(model=FAMILY.draft), "policy": FixedLength(3)} | parts
    return Qualified(qualifier=FAMILY.qualifier, rule=rule or Match(), **parts).bind(needs, 1)


def propose(drafter: Qualified, asked: Request, depth: int, tail: Sequence[int] = ()) -> Draft:
    [draft] = drafter.propose(drafter.begin([asked]), [as_ids(tail)], [Budget.chain(depth)])
    return draft


def own_text(length: int, **options: Any) -> list[int]:
    """What the qualifier writes alone."""
    options = {"temperature": 0.9, "seed": 3, "max_new_tokens": length, **options}
    return list(outputs(run(stage(FAMILY.qualifier, NoDrafter()), [PROMPT], **options))[0])


# -- tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", range(10))
def test_it_proposes_the_qualifiers_own_text_as_deep_as_asked(depth: int) -> None:
    draft = propose(nest(), request(), depth)
    assert len(draft) == depth and is_chain(draft.parents)
    assert draft.tokens.tolist() == (own_text(depth) if depth else [])


def test_the_writer_of_each_token() -> None:
    drafter = nest(Fuzzy("js", EVERYTHING))
    draft = propose(drafter, request(), 10)
    assert draft.sources == (*["draft"] * 3, "qualifier") * 2 + ("draft", "qualifier")
    assert "draft" in propose(nest(), request(), 20).sources


def test_nothing_is_proposed_after_an_end_token() -> None:
    text = own_text(12)
    for end in set(text):
        draft = propose(nest(), request(end_ids=(end,)), 12)
        assert draft.tokens.tolist() == text[: text.index(end) + 1]


def test_a_tail_stands_for_text_that_nobody_committed() -> None:
    text, drafter = own_text(12), nest()
    for cut in (1, 4, 7):
        assert propose(drafter, request(), 5, text[:cut]).tokens.tolist() == text[cut : cut + 5]


def test_a_growing_tail_and_then_none() -> None:
    """As under a qualifier of its own: several proposals before anything is committed."""
    text, drafter, asked = own_text(14), nest(), request()
    states = drafter.begin([asked])
    for tail in ([], text[:3], text[:7], text[:2], []):
        [draft] = drafter.propose(states, [as_ids(tail)], [Budget.chain(4)])
        assert draft.tokens.tolist() == text[len(tail) : len(tail) + 4]


def test_committed_text_is_gone_on_from() -> None:
    """Whatever the verifier made of the proposal: all of it, a part, or something else."""
    drafter, asked = nest(), request()
    states = drafter.begin([asked])
    for kept, other in ((4, None), (2, 6), (0, 5), (1, None)):
        [draft] = drafter.propose(states, [NO_IDS], [Budget.chain(4)])
        emitted = [*draft.tokens[:kept].tolist(), *([] if other is None else [other])]
        asked.output.extend(emitted)
        drafter.commit(states, [as_ids(emitted)])
        fresh = request()
        fresh.output.extend(asked.output)
        text = [*PROMPT, *asked.output]
        [again] = drafter.propose(states, [NO_IDS], [Budget.chain(3)])
        for i, token in enumerate(again.tokens.tolist()):
            logits = FAMILY.qualifier.logits_after(text)
            generated = [*asked.output, *again.tokens[:i].tolist()]
            assert token == fresh.sampler.choose(logits, generated)
            text.append(token)


def test_each_request_has_a_budget_of_its_own() -> None:
    drafter = nest()
    states = drafter.begin([request() for _ in range(4)])
    budgets = [Budget.chain(n) for n in (5, 0, 9, 1)]
    drafts = drafter.propose(states, [NO_IDS] * 4, budgets)
    assert [d.tokens.tolist() for d in drafts] == [own_text(9)[: b.depth] for b in budgets]


# -- what each token carries -------------------------------------------------------------------


def probs_of(model: Any, asked: Request, draft: Draft, node: int) -> torch.Tensor:
    seen = draft.tokens[:node].tolist()
    return asked.sampler.probs(model.logits_after([*PROMPT, *seen]), seen)


@pytest.mark.parametrize(
    "rule", [Match(), Rejection(), Fuzzy("js", 0.1), Fuzzy("js", -1.0)], ids=["m", "r", "f", "n"]
)
def test_references_are_the_qualifiers_raw_logits(rule: Any) -> None:
    asked = request(top_k=3, repetition_penalty=1.5)
    draft = propose(nest(rule), asked, 9)
    assert draft.reference is not None and len(draft.reference) == 9
    for node, reference in enumerate(draft.reference):
        text = [*PROMPT, *draft.tokens[:node].tolist()]
        assert reference is not None and torch.equal(reference, FAMILY.qualifier.logits_after(text))


@pytest.mark.parametrize("rule", [Match(), Rejection(), Fuzzy("js", -1.0)], ids=["m", "r", "f"])
def test_the_distribution_is_the_qualifiers_after_an_exact_rule(rule: Any) -> None:
    asked = request()
    draft = propose(nest(rule), asked, 9)
    assert draft.probs is not None
    for node, probs in enumerate(draft.probs):
        assert probs is not None and torch.equal(
            probs, probs_of(FAMILY.qualifier, asked, draft, node)
        )


def test_the_distribution_is_the_drafters_where_divergence_let_it_pass() -> None:
    asked, threshold = request(), 0.08
    rule = Fuzzy("js", threshold)
    draft = propose(nest(rule), asked, 12)
    assert draft.probs is not None
    models = set()
    for node, probs in enumerate(draft.probs):
        text = [*PROMPT, *draft.tokens[:node].tolist()]
        ours, theirs = (m.logits_after(text) for m in (FAMILY.draft, FAMILY.qualifier))
        close = rule.measure(ours, theirs) <= threshold
        bonus = draft.sources[node] == "qualifier"
        model = FAMILY.draft if close and not bonus else FAMILY.qualifier
        assert probs is not None and torch.equal(probs, probs_of(model, asked, draft, node))
        models.add(id(model))
    assert len(models) == 2, "both distributions occur"


@pytest.mark.parametrize("needs", [Needs(), Needs(probs=True), Needs(reference=True)], ids=str)
def test_only_what_is_needed_is_carried(needs: Needs) -> None:
    draft = propose(nest(needs=needs), request(), 5)
    assert (draft.probs is not None, draft.reference is not None) == (needs.probs, needs.reference)


# -- books -------------------------------------------------------------------------------------


def test_counts_are_of_what_was_handed_up() -> None:
    drafter = nest(Fuzzy("js", EVERYTHING))
    states = drafter.begin([request()])
    [draft] = drafter.propose(states, [NO_IDS], [Budget.chain(6)])
    counted = drafter.counters(states[0])
    assert list(counted) == ["qualifier", "draft"]
    c = counted["qualifier"]
    assert c.tokens == len(draft) == 6 and c.sources == {"draft": 4, "qualifier": 2}
    assert (c.rounds, c.forwards, c.cut) == (2, 2, 0)
    assert (counted["draft"].drafted, c.drafted) == (4, 4)
    drafter.propose(states, [NO_IDS], [Budget.chain(1)])
    assert drafter.counters(states[0])["qualifier"].tokens == 7


def test_a_window_of_the_qualifier_that_fills_up() -> None:
    narrow = TabularModel(FAMILY.qualifier.table, context_length=8, name="narrow")
    drafter = Qualified(
        drafter=ModelDrafter(model=FAMILY.draft), qualifier=narrow, policy=FixedLength(3)
    ).bind(ALL, 1)
    states = drafter.begin([request()])
    [draft] = drafter.propose(states, [NO_IDS], [Budget.chain(20)])
    assert draft.tokens.tolist() == own_text(6), "five fit, and one more is chosen behind them"
    assert states[0].off is None
    drafter.commit(states, [as_ids(own_text(6))])
    [draft] = drafter.propose(states, [NO_IDS], [Budget.chain(20)])
    assert len(draft) == 0 and "the text exceeds the window of narrow" in (states[0].off or "")


def test_a_prompt_that_does_not_fit_is_not_read() -> None:
    narrow = TabularModel(FAMILY.qualifier.table, context_length=3, name="narrow")
    drafter = Qualified(drafter=ModelDrafter(model=FAMILY.draft), qualifier=narrow)
    [state] = drafter.begin([request()])
    assert state.sequence is None and "narrow" in (state.off or "")
    [draft] = drafter.propose([state], [NO_IDS], [Budget.chain(4)])
    assert len(draft) == 0
    drafter.commit([state], [as_ids([1])])
    assert list(drafter.counters(state)) == ["qualifier"]


@dataclass(frozen=True)
class Listener(NoDrafter):
    """Notes all that it is told."""

    name: str = "listener"
    learns = True
    heard: list[Any] = field(default_factory=list)

    def observe(self, states: Sequence[Any], verified: Sequence[Verified]) -> None:
        self.heard.append([v.tier for v in verified])

    def commit(self, states: Sequence[Any], tokens: Sequence[IntArray]) -> None:
        self.heard.append([t.tolist() for t in tokens])


def test_the_drafter_inside_hears_of_every_tier_and_of_the_last_word_only() -> None:
    listener = Listener()
    drafter = nest(drafter=listener)
    states = drafter.begin([request(), request()])
    drafts = drafter.propose(states, [NO_IDS] * 2, [Budget.chain(2), Budget.chain(1)])
    assert listener.heard == [["qualifier"] * 2, ["qualifier"]]
    rows = Rows(torch.zeros(3, 7, dtype=torch.float64))
    seen = [Verified("target", NO_IDS, d, rows, Verdict(next_token=1)) for d in drafts]
    drafter.observe(states, seen)
    drafter.commit(states, [as_ids([4]), as_ids([5, 6])])
    assert listener.heard[2:] == [["target"] * 2, [[4], [5, 6]]]


def test_a_state_is_taken_over_by_the_next_turn() -> None:
    drafter = nest()
    [state] = drafter.begin([request()])
    drafter.propose([state], [NO_IDS], [Budget.chain(4)])
    drafter.commit([state], [as_ids([4, 5])])
    turn = Request(Prompt(token_ids=(*PROMPT, 4, 5, 6)), request().sampler)
    [again] = drafter.begin([turn], [state])
    assert again.sequence is not None and state.sequence is not None
    assert again.sequence.cache is state.sequence.cache
    assert again.sequence.state.cache is state.sequence.state.cache
    assert again.counters.rounds == 0 and again.off is None
    [draft] = drafter.propose([again], [NO_IDS], [Budget.chain(4)])
    [alone] = drafter.propose(drafter.begin([turn]), [NO_IDS], [Budget.chain(4)])
    assert draft.tokens.tolist() == alone.tokens.tolist()
