"""Predicates of bytes: the choice is the first legal token, drafted or not."""

import codecs
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from outrider.acceptance import Rejection
from outrider.core.errors import LogitsError, OptionError, StrategyError
from outrider.core.types import FinishReason
from outrider.decoding import Session
from outrider.drafters import ModelDrafter, NoDrafter
from outrider.policies import FixedTree
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.checker import Checker, Checks, descending
from outrider.sampling.constraint import Constraint
from outrider.sampling.noise import Purpose
from outrider.testing.rigs import letter
from tests.constraints.automaton import BRANCHING
from tests.constraints.checking import branching
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
WARPS = [{}, {"top_p": 0.7}, {"top_k": 2}, {"min_p": 0.3}, {"top_k": 1}]
TEXTS = [[], [1], [2, 3], [1, 5, 6]]


def anything(name: str = "checker", max_checks: int = 64) -> Checker:
    return Checker(lambda text: True, lambda text: True, name, max_checks)


@pytest.mark.parametrize(
    ("name", "sampling"), matrix(ROSTER, ("greedy", "t0.7", "top_p", "penalties"))
)
def test_drafted_equals_undrafted(name: str, sampling: str) -> None:
    """Every drafter, chains and trees. A drafted token costs no call that an undrafted one does
    not, and no question is asked twice."""
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 24, "end_ids": (0,)}
    whole = stage(FAMILY.target, ROSTER[name](), policy=TREE)
    for prompts in (PROMPTS, PROMPTS[2:3]):
        plain = run(undrafted(whole), prompts, checker=branching(), **options)
        drafted = run(whole, prompts, checker=branching(), **options)
        assert outputs(drafted) == outputs(plain)
        for g, other in zip(drafted, plain, strict=True):
            check_counters(g.counters, len(g.output))
            assert g.finish in (FinishReason.STOP, FinishReason.LENGTH)
            assert calls(g) == calls(other) <= 8 * len(g.output)


def calls(generation: Any) -> int:
    checks = generation.request.sampler.checks
    assert isinstance(checks, Checks)
    return checks.calls


@pytest.mark.parametrize("sampling", ["greedy", "t0.7", "t1.3", "penalties"])
def test_without_truncation_the_text_is_that_of_the_same_grammar(sampling: str) -> None:
    options: dict[str, Any] = {**SAMPLINGS[sampling], "end_ids": (0,), "max_new_tokens": 30}
    for seed in range(4):
        one = run(
            stage(FAMILY.target, NoDrafter()), PROMPTS, seed=seed, **options, grammar=BRANCHING
        )
        other = run(
            stage(FAMILY.target, NoDrafter()), PROMPTS, seed=seed, **options, checker=branching()
        )
        assert outputs(one) == outputs(other)


@pytest.mark.parametrize("warps", WARPS)
def test_the_rule_of_the_choice(warps: dict[str, Any]) -> None:
    """By hand: the first legal token of the support by score plus noise; if there is none, the
    first legal one below it by score. In both dtypes: compiled code finds the first candidate."""
    generator = torch.Generator().manual_seed(5)
    below = 0
    for seed in range(200):
        logits = torch.randn(7, generator=generator)
        text = TEXTS[seed % 4]
        params = SamplingParams.of(temperature=0.9, seed=seed, **warps)
        free = Sampler(params, end_ids=(0,))
        support = free.support(logits.double(), text)
        keys = free.perturbed(support, len(text), Purpose.CHOICE)
        inside = {int(i): float(key) for i, key in zip(support.ids, keys, strict=True)}
        legal = legal_after(text)
        expected = max(legal & inside.keys(), key=lambda t: inside[t], default=None)
        if expected is None:
            below += 1
            expected = max(legal, key=lambda t: float(logits[t]))
        for row in (logits, logits.double()):
            checked = Sampler(params, end_ids=(0,), checks=Checks(branching(), letter))
            assert checked.choose(row, text) == expected
    assert (below > 0) == bool(warps)


def legal_after(text: list[int]) -> set[int]:
    matcher = BRANCHING.begin()
    assert matcher.advance(text) == len(text)
    found = set(np.flatnonzero(matcher.allowed()).tolist())
    return found | {0} if matcher.accepting else found


@pytest.mark.parametrize("warps", [{}, {"top_k": 4}, {"top_p": 0.9}])
def test_the_distribution_of_the_choice(warps: dict[str, Any]) -> None:
    """Brute force: the probabilities of the legal tokens of the support, scaled to one. Truncation
    comes first, so that this is not the distribution of a grammar, which masks first."""
    table = torch.randn(7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    text, count = [1, 5, 6], 1000
    options: dict[str, Any] = {"temperature": 0.8, **warps}
    free = Sampler(SamplingParams.of(seed=0, **options), end_ids=(0,))
    probs = free.probs(table, text).numpy()
    legal = sorted(legal_after(text))
    expected = np.zeros(7)
    expected[legal] = probs[legal] / probs[legal].sum()
    checks = Checks(branching(), letter)
    found = Counter(
        Sampler(SamplingParams.of(seed=seed, **options), end_ids=(0,), checks=checks).choose(
            table, text
        )
        for seed in range(count)
    )
    assert set(found) <= set(np.flatnonzero(expected).tolist())
    for token in legal:
        number, share = found[token], expected[token]
        assert abs(number - count * share) < 4.5 * (count * share * (1 - share)) ** 0.5 + 1


def test_greedy_takes_the_best_legal_token_and_the_lowest_of_equal_ones() -> None:
    sampler = Sampler(SamplingParams.of(), end_ids=(0,), checks=Checks(branching(), letter))
    assert sampler.choose(torch.tensor([9.0, 1.0, 1.0, 5.0, 5.0, 2.0, 0.0]), []) == 1
    assert sampler.choose(torch.tensor([9.0, 1.0, 1.0, 5.0, 5.0, 2.0, 0.0]), [1]) == 3


def test_descending_is_a_stable_sort() -> None:
    values = np.random.default_rng(0).integers(0, 50, 1000).astype(np.float64)
    assert list(descending(values)) == np.argsort(-values, kind="stable").tolist()
    assert list(descending(values[:5])) == np.argsort(-values[:5], kind="stable").tolist()
    assert list(descending(values[:0])) == []


def test_after_max_checks_the_error_names_the_checker_and_the_others_go_on() -> None:
    def short(text: bytes) -> bool:
        return len(text) < 3

    checker = Checker(short, lambda text: False, "shorty", 5)
    both = [
        generation(PROMPTS[0], end_ids=(0,), checker=checker),
        generation(PROMPTS[1], end_ids=(0,), max_new_tokens=8, checker=anything()),
    ]
    session = Session(stage(FAMILY.target, ModelDrafter(model=FAMILY.draft)))
    session.add(both)
    while session.pending:
        session.step()
    assert both[0].finish is FinishReason.ERROR and len(both[0].output) <= 2
    assert "checker 'shorty' refuses 5 tokens after b'" in str(both[0].error)
    assert "Raise its max_checks" in str(both[0].error)
    alone = stage(FAMILY.target, NoDrafter())
    [other] = run(alone, PROMPTS[1:2], end_ids=(0,), max_new_tokens=8, checker=anything())
    assert (both[1].finish, both[1].output) == (other.finish, other.output)


def test_max_checks_counts_refused_tokens_at_one_place_whatever_was_asked_before() -> None:
    table = torch.arange(7.0)
    only = Checker(lambda text: text == b"c", lambda text: False, "only", 5)
    for checks in (Checks(only, letter), Checks(only, letter)):
        for _ in range(2):
            assert Sampler(SamplingParams.of(), checks=checks).choose(table, []) == 2
        assert checks.calls == 5
    fewer = Checker(only.ok, only.complete, "only", 4)
    with pytest.raises(LogitsError, match="refuses 4 tokens"):
        Sampler(SamplingParams.of(), checks=Checks(fewer, letter)).choose(table, [])
    never = Checker(lambda text: False, lambda text: False, "never")
    with pytest.raises(LogitsError, match="'never' refuses every token after b''"):
        Sampler(SamplingParams.of(), checks=Checks(never, letter)).choose(table, [])


def test_bytes_of_a_character_may_come_in_several_tokens() -> None:
    """Tokens 1 and 2 are the halves of one character, and 3 is a letter."""
    pieces = {1: b"\xc3", 2: b"\xa9", 3: b"x", 4: b"\xff"}
    asked: list[bytes] = []

    def ok(text: bytes) -> bool:
        asked.append(text)
        try:
            found = codecs.getincrementaldecoder("utf-8")().decode(text)
        except UnicodeDecodeError:
            return False
        return set(found) <= {"é"}

    checks = Checks(Checker(ok, lambda text: True), lambda token: pieces.get(token, b""))
    sampler = Sampler(SamplingParams.of(banned_tokens=(0,)), checks=checks)
    table = torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0, 8.0, 8.0])
    text: list[int] = []
    for _ in range(4):
        text.append(sampler.choose(table, text))
    assert text == [1, 2, 1, 2]
    assert b"\xc3" in asked and "éé".encode()[:3] in asked
    assert checks.calls == len(asked) == len(set(asked))


def test_answers_do_not_depend_on_the_order_of_questions() -> None:
    checks = Checks(branching(), letter)
    texts = [[1], [2, 3], [1, 5], [1], [], [1, 5, 6]]
    for text in texts:
        for token in range(1, 7):
            assert checks.allows(text, token) == (token in legal_after(text))
        assert checks.complete(text) == (0 in legal_after(text))
        assert checks.complete(np.array(text)) == (0 in legal_after(text))


def test_forks_share_answers_and_a_preempted_request_continues() -> None:
    options: dict[str, Any] = {"end_ids": (0,), "temperature": 1.2, "max_new_tokens": 20}
    [whole] = run(stage(FAMILY.target, NoDrafter()), [(1, 2)], checker=branching(), **options)
    session = Session(stage(FAMILY.target, ModelDrafter(model=FAMILY.draft)))
    g = generation((1, 2), checker=branching(), **options)
    session.add([g])
    session.step()
    fork = session.fork(g, 1)
    session.preempt(g)
    session.add([g], chunk=2)
    while session.pending:
        session.step()
    assert g.output == whole.output
    assert fork.request.sampler.checks is g.request.sampler.checks and fork.error is None
    ended = fork.finish is FinishReason.STOP
    text = fork.output[:-1] if ended else fork.output
    assert BRANCHING.begin().admits(text) == len(text)
    assert not ended or 0 in legal_after(text)


def test_a_checker_that_fails_ends_its_request() -> None:
    def broken(text: bytes) -> bool:
        raise ValueError("no grammar")

    [g] = run(stage(FAMILY.target, NoDrafter()), [(1,)], checker=Checker(broken, broken, "mine"))
    assert g.finish is FinishReason.ERROR
    assert "checker 'mine' failed: ValueError: no grammar" in str(g.error)


def test_rules_that_read_distributions_are_refused() -> None:
    with pytest.raises(StrategyError, match="a checker cannot be combined with Rejection"):
        run(
            stage(FAMILY.target, ModelDrafter(model=FAMILY.draft), rule=Rejection()),
            [(1,)],
            checker=anything(),
            temperature=1.0,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checker": "x"}, "checker is 'x'. Give a Checker"),
        ({"checker": anything(), "regex": "a"}, "constraint and checker are given together"),
        ({"checker": anything(), "constraint": anything()}, "constraint and checker are given"),
        ({"checker": anything(), "ignore_eos": True}, "ignore_eos is set, but the checker says"),
        (
            {"checker": anything(), "constraint": Constraint.regex("a")},
            "constraint and checker are given together. Give one of them",
        ),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as raised:
        SamplingParams.of(**options)
    assert message in str(raised.value)


def test_wrong_checkers_are_named() -> None:
    with pytest.raises(OptionError, match="ok of the checker is 'x'"):
        Checker("x", lambda text: True)  # pyright: ignore[reportArgumentType]
    with pytest.raises(OptionError, match="max_checks of the checker is 0"):
        anything(max_checks=0)


def test_a_checker_may_be_given_as_constraint() -> None:
    checker = anything()
    assert SamplingParams.of(constraint=checker) == SamplingParams.of(checker=checker)
