"""With a grammar, drafted text equals undrafted text, and follows the grammar."""

from typing import Any

import numpy as np
import pytest
import torch

from outrider.acceptance import Fuzzy, Rejection, TopBeta, Typical
from outrider.core.types import GRAMMAR, FinishReason
from outrider.decoding import Session
from outrider.drafters import Lookup, ModelDrafter, NoDrafter
from outrider.models.tabular import TabularModel
from outrider.policies import FixedLength, FixedTree
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.noise import Purpose
from outrider.sampling.walk import Walk
from tests.constraints.automaton import SPELLED, Automaton, AutomatonMatcher
from tests.exactness.setups.rigs import (
    PROMPTS,
    SAMPLINGS,
    check_counters,
    generation,
    outputs,
    run,
    stage,
    tabular_family,
    undrafted,
)
from tests.exactness.setups.roster import roster
from tests.matrix import matrix

FAMILY = tabular_family()
ROSTER = roster(FAMILY)
TREE = FixedTree(depth=6, nodes=24)
OFTEN = ("greedy", "t0.7", "top_p", "penalties")


def follows(output: list[int], finish: FinishReason | None) -> bool:
    """Whether a text is one of the grammar, or the beginning of one that a limit cut."""
    text = output[:-1] if finish is FinishReason.STOP else output
    matcher = SPELLED.begin()
    whole = matcher.advance(text) == len(text)
    return whole and (finish is not FinishReason.STOP or matcher.accepting)


@pytest.mark.parametrize(("name", "sampling"), matrix(ROSTER, OFTEN))
def test_drafted_equals_undrafted(name: str, sampling: str) -> None:
    """A ragged batch, then a single request; every drafter, chains and trees."""
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 24, "end_ids": (0,)}
    options["grammar"] = SPELLED
    whole = stage(FAMILY.target, ROSTER[name](), policy=TREE)
    for prompts in (PROMPTS, PROMPTS[2:3]):
        plain = run(undrafted(whole), prompts, **options)
        drafted = run(whole, prompts, **options)
        assert outputs(drafted) == outputs(plain)
        for g in drafted:
            check_counters(g.counters, len(g.output))
            assert follows(g.output, g.finish)


LOSSY = {
    "top-beta": TopBeta(beta=4, tau=10.0),
    "typical": Typical(epsilon=0.01),
    "fuzzy": Fuzzy("js", 10.0),
}


@pytest.mark.parametrize("rule", LOSSY)
@pytest.mark.parametrize("drafter", ["model", "lookup"])
def test_a_near_miss_follows_the_grammar(rule: str, drafter: str) -> None:
    made = ModelDrafter(model=FAMILY.draft) if drafter == "model" else Lookup(min_ngram=1)
    options: dict[str, Any] = {"max_new_tokens": 30, "end_ids": (0,), "grammar": SPELLED}
    changed = accepted = 0
    for temperature in (0.0, 1.0):
        whole = stage(FAMILY.target, made, LOSSY[rule], policy=FixedLength(4))
        for g in run(whole, PROMPTS, temperature=temperature, **options):
            assert follows(g.output, g.finish)
            changed += sum(g.changed)
            accepted += g.counters.accepted
    assert accepted and (changed or drafter == "lookup")


def test_what_the_grammar_leaves_open_is_chosen_and_the_rest_costs_no_forward() -> None:
    [g] = run(stage(FAMILY.target, NoDrafter()), PROMPTS[:1], end_ids=(0,), grammar=SPELLED)
    assert GRAMMAR in g.sources and "target" in g.sources
    assert g.counters.forced == g.sources.count(GRAMMAR)
    assert g.counters.rounds == len(g.output) - g.counters.forced
    assert len(g.ends) == len(g.changed) == len(g.token_times) == len(g.output)


def test_logprobs_need_every_row() -> None:
    """They are those of the model, without the grammar, and equal with and without drafts."""
    options: dict[str, Any] = {"end_ids": (0,), "grammar": SPELLED, "logprobs": 2}
    plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, **options)
    drafted = run(stage(FAMILY.target, ModelDrafter(model=FAMILY.draft)), PROMPTS, **options)
    for one, other in zip(plain, drafted, strict=True):
        assert one.output == other.output and one.logprobs == other.logprobs
        assert len(one.logprobs) == len(one.output) and one.counters.forced == 0


def test_forced_chains_are_drafted_and_kept() -> None:
    """The grammar drafts where tokens can be spelled in one way only, unless drafting is off."""
    chain = Automaton({i: {i % 6 + 1: i + 1} for i in range(12)}, frozenset((12,)))
    options: dict[str, Any] = {"end_ids": (0,), "grammar": chain, "logprobs": 0}
    [drafted] = run(stage(FAMILY.target, Lookup(), policy=FixedLength(4)), [(1, 2)], **options)
    [plain] = run(stage(FAMILY.target, NoDrafter()), [(1, 2)], **options)
    assert drafted.output == plain.output == [i % 6 + 1 for i in range(12)] + [0]
    assert drafted.counters.tallies[GRAMMAR].accepted > 0
    assert plain.counters.rounds == 13 > drafted.counters.rounds


@pytest.mark.parametrize("least", [0, 20])
def test_the_end_is_chosen_where_nothing_else_is_left(least: int) -> None:
    """`min_new_tokens` bans end tokens, but a grammar may leave no other."""
    short = Automaton({0: {1: 1, 2: 1}, 1: {3: 2}}, frozenset((2,)))
    options: dict[str, Any] = {"min_new_tokens": least, "end_ids": (0,), "grammar": short}
    for temperature in (0.0, 1.0):
        [g] = run(stage(FAMILY.target, NoDrafter()), [(1, 2)], temperature=temperature, **options)
        assert g.finish is FinishReason.STOP and len(g.output) == 3 and g.output[-1] == 0


def test_a_dead_end_is_an_error_of_this_request_only() -> None:
    dead = Automaton({0: {1: 1}, 1: {}}, frozenset())
    both = [
        generation(PROMPTS[0], end_ids=(0,), grammar=dead),
        generation(PROMPTS[1], end_ids=(0,), max_new_tokens=8),
    ]
    session = Session(stage(FAMILY.target, ModelDrafter(model=FAMILY.draft)))
    session.add(both)
    while session.pending:
        session.step()
    assert both[0].finish is FinishReason.ERROR and "no token is allowed" in str(both[0].error)
    assert both[1].finish is not FinishReason.ERROR


def test_a_preempted_request_continues_from_its_text() -> None:
    for seed in range(4):
        options: dict[str, Any] = {"end_ids": (0,), "grammar": SPELLED, "temperature": 1.0}
        [whole] = run(stage(FAMILY.target, NoDrafter()), [(1, 2)], seed=seed, **options)
        session = Session(stage(FAMILY.target, ModelDrafter(model=FAMILY.draft)))
        g = generation((1, 2), seed=seed, **options)
        session.add([g])
        session.step()
        if g.running:
            session.preempt(g)
            session.add([g], chunk=2)
        while session.pending:
            session.step()
        assert g.output == whole.output


def test_a_cancelled_request_leaves_the_others_as_they_are() -> None:
    options: dict[str, Any] = {"end_ids": (0,), "grammar": SPELLED, "temperature": 1.0}
    options["max_new_tokens"], cancelled = 24, 0
    for seed in range(4):
        plain = run(stage(FAMILY.target, NoDrafter()), PROMPTS, seed=seed, **options)
        session = Session(stage(FAMILY.target, ModelDrafter(model=FAMILY.draft), policy=TREE))
        all_of_them = [generation(prompt, seed=seed, **options) for prompt in PROMPTS]
        session.add(all_of_them)
        session.step()
        all_of_them[1].cancel()
        while session.pending:
            session.step()
        for i, (one, other) in enumerate(zip(all_of_them, plain, strict=True)):
            size = len(one.output)
            assert one.output == other.output[:size] and (i == 1 or size == len(other.output))
        cancelled += all_of_them[1].finish is FinishReason.CANCELLED
    assert cancelled


def test_forks_walk_by_themselves() -> None:
    session = Session(stage(FAMILY.target, NoDrafter()))
    g = generation((1, 2), end_ids=(0,), grammar=SPELLED, temperature=1.2, max_new_tokens=20)
    session.add([g])
    session.step()
    branches = [g, *(session.fork(g, i) for i in (1, 2) if g.running)]
    while session.pending:
        session.step()
    assert all(follows(b.output, b.finish) for b in branches)
    assert len({id(b.request.sampler.walk) for b in branches}) == len(branches)


@pytest.mark.parametrize("warps", [{}, {"top_p": 0.7}, {"top_k": 2}, {"min_p": 0.3}])
def test_the_distribution_is_that_of_the_allowed_tokens(warps: dict[str, Any]) -> None:
    """Brute force: mask, then warp, at every step; not warp, then mask."""
    table = torch.randn(7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    params = SamplingParams.of(temperature=0.8, seed=1, **warps)
    sampler = Sampler(params, end_ids=(0,), walk=Walk(SPELLED.begin()))
    for text in ([], [1], [2, 3], [1, 5, 6], [1, 3]):
        allowed = set(np.flatnonzero(matcher_at(text).allowed()).tolist())
        if matcher_at(text).accepting:
            allowed.add(0)
        masked = table.clone()
        masked[[i for i in range(7) if i not in allowed]] = -torch.inf
        free = Sampler(params, end_ids=(0,))
        assert torch.equal(sampler.probs(table, text), free.probs(masked, text))


def matcher_at(text: list[int]) -> AutomatonMatcher:
    matcher = SPELLED.begin()
    assert matcher.advance(text) == len(text)
    return matcher


@pytest.mark.parametrize("warps", [{}, {"top_p": 0.7}, {"top_k": 2}, {"min_p": 0.3}])
def test_the_quick_choice_is_the_choice(warps: dict[str, Any]) -> None:
    """Asking first whether the free choice is allowed changes nothing; with truncation it would,
    so that it is not asked then. Nor does it where another spelling of forced bytes is admitted.
    Both paths of the sampler agree."""
    generator = torch.Generator().manual_seed(5)
    for seed in range(200):
        logits = torch.randn(7, generator=generator)
        params = SamplingParams.of(temperature=0.9, seed=seed, **warps)
        sampler = Sampler(params, end_ids=(0,), walk=Walk(SPELLED.begin()))
        text = [[], [1], [2, 3], [1, 5, 6], [1, 3]][seed % 5]
        slow = sampler.draw(sampler.support(logits.double(), text), len(text), Purpose.CHOICE)
        assert sampler.choose(logits, text) == slow


def test_a_distribution_that_is_judged_is_that_of_the_grammar() -> None:
    """`Rejection` keeps the distribution: draft models draw by the same grammar."""
    plain: dict[tuple[int, ...], int] = {}
    drafted: dict[tuple[int, ...], int] = {}
    whole = stage(
        TabularModel.random(vocab_size=7, order=2, seed=3),
        ModelDrafter(model=FAMILY.draft),
        rule=Rejection(),
        policy=FixedLength(3),
    )
    for found, own in ((plain, undrafted(whole)), (drafted, whole)):
        gs = [
            generation(
                (1, 2), seed=s, temperature=1.0, max_new_tokens=3, end_ids=(0,), grammar=SPELLED
            )
            for s in range(600)
        ]
        from outrider.decoding import generate

        for _ in generate(own, gs):
            pass
        for g in gs:
            found[tuple(g.output)] = found.get(tuple(g.output), 0) + 1
    keys = plain.keys() | drafted.keys()
    surplus = sum(
        (plain.get(k, 0) - drafted.get(k, 0)) ** 2 / (plain.get(k, 0) + drafted.get(k, 0))
        for k in keys
    )
    assert surplus < len(keys) - 1 + 4.0 * (2 * max(len(keys) - 1, 1)) ** 0.5
