"""I1, I3, I5, I6 and I7 for draft heads, which read hidden states of the target."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark.structures import ParameterSet

from outrider.acceptance import RecursiveRejection, Rejection
from outrider.decoding import Session, generate
from outrider.drafters import ModelDrafter, TreeDrafter
from outrider.drafters.neural.growth import RsdS
from outrider.models.heads.config import LAYER
from outrider.models.heads.loading import HeadPair
from outrider.policies import FixedTree
from tests.exactness.setups.checkpoints import PROMPTS
from tests.exactness.setups.heads import HEADED, NAMES, drafters, make_pair, make_target
from tests.exactness.setups.rigs import (
    SAMPLINGS,
    check_counters,
    generation,
    next_turn,
    outputs,
    preempted,
    run,
    samples,
    stage,
    undrafted,
)
from tests.matrix import matrix
from tests.models.heads.setups import VOCAB
from tests.models.setups.invariants import assert_equals_fresh_prefill

pytestmark = [
    pytest.mark.method(name) for name in ("hinted", "eagle3", "eagle1", "fspad", "clover")
]

TREE = FixedTree(depth=4, nodes=12)


def cases(headed: Sequence[Any]) -> list[ParameterSet]:
    """Every runner and every kind of head in the fast tests."""
    return [
        pytest.param(case, marks=() if place in (1, 2, 5, 8) else pytest.mark.slow)
        for place, case in enumerate(headed)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def known(folder: Path) -> dict[Any, HeadPair]:
    return {case: make_pair(folder, *case) for case in HEADED}


def drafted(known: dict[Any, HeadPair], folder: Path, case: Any, name: str) -> Any:
    """A stage of the target with one of the drafters."""
    pair = known[case]
    return stage(pair.target, drafters(pair, folder)[name](), policy=TREE)


each_once = pytest.mark.parametrize(("case", "name"), matrix(HEADED, NAMES))
some = pytest.mark.parametrize("case", cases(HEADED))


@pytest.mark.parametrize(("case", "name", "sampling"), matrix(HEADED, NAMES, SAMPLINGS, crossed=1))
def test_drafted_equals_undrafted(
    known: Any, folder: Path, case: Any, name: str, sampling: str
) -> None:
    """In a ragged batch with a prompt of one token, and alone."""
    whole = drafted(known, folder, case, name)
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 12, "end_ids": (0,)}
    plain = run(undrafted(whole), PROMPTS, **options)
    found = run(whole, PROMPTS, **options)
    assert outputs(found) == outputs(plain)
    assert outputs(run(whole, PROMPTS[1:2], **options)) == outputs(plain[1:2])
    for g in found:
        check_counters(g.counters, len(g.output))


@pytest.mark.parametrize(("case", "name"), matrix(HEADED, NAMES[:-1]))
def test_drafts_are_accepted_and_refused(known: Any, folder: Path, case: Any, name: str) -> None:
    """The equality above proves nothing if every draft is wrong.

    The qualifier is a copy of the target: below it, every draft is right.
    """
    whole = drafted(known, folder, case, name)
    [g] = run(whole, PROMPTS[:1], max_new_tokens=45, temperature=3.0)
    assert 3 < g.counters.accepted < g.counters.drafted
    plain = run(undrafted(whole), PROMPTS[:1], max_new_tokens=45, temperature=3.0)
    assert outputs([g]) == outputs(plain)


@some
def test_caches_of_the_target_are_its_own_after_every_round(
    known: Any, folder: Path, case: Any
) -> None:
    tolerance = 1e-9 if case[0] == "eager" else 0.0
    made = [generation(p, temperature=2.0, max_new_tokens=8) for p in PROMPTS[:3]]
    whole = drafted(known, folder, case, "tree")
    for active in generate(whole, made):
        for g in active:
            assert_equals_fresh_prefill(whole.model, g.sequence.cache, tolerance=tolerance)


@some
def test_samples_that_share_a_prompt(known: Any, folder: Path, case: Any) -> None:
    whole = drafted(known, folder, case, "chain")
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 9}
    for prompt in PROMPTS[:2]:
        texts = outputs(samples(whole, prompt, 3, **options))
        assert texts == outputs(samples(undrafted(whole), prompt, 3, **options))
        assert len(set(texts)) == 3


@each_once
def test_next_turn(known: Any, folder: Path, case: Any, name: str) -> None:
    """The caches of an earlier turn are reused, as a whole and after a cut."""
    whole = drafted(known, folder, case, name)
    for kept in (None, 5):
        first, second = next_turn(whole, PROMPTS[0], kept, max_new_tokens=9, temperature=1.5)
        assert second.sequence.cache is first.sequence.cache


@some
def test_a_window_that_fills_up(known: Any, folder: Path, case: Any) -> None:
    """Texts end at the last place of the window, as they do without drafts."""
    prompts = [PROMPTS[2] * 8, (*PROMPTS[2] * 8, 1, 2), PROMPTS[2] * 9]
    for name in ("chain", "tree"):
        whole = drafted(known, folder, case, name)
        plain = run(undrafted(whole), prompts, max_new_tokens=90, temperature=1.0)
        found = run(whole, prompts, max_new_tokens=90, temperature=1.0)
        assert outputs(found) == outputs(plain)
        assert [len(g.output) for g in found] == [8, 6, 1]


@pytest.mark.parametrize(("case", "name"), matrix(HEADED, ("chain", "fallback", "tree")))
def test_a_session_with_preemption(known: Any, folder: Path, case: Any, name: str) -> None:
    """Requests that come in parts, leave, and come again; their drafts are read in parts too."""
    whole = drafted(known, folder, case, name)
    plain = outputs(run(undrafted(whole), PROMPTS, temperature=1.2, max_new_tokens=14))
    made = preempted(whole, PROMPTS, temperature=1.2, max_new_tokens=14)
    assert outputs(made) == plain
    assert sum(g.counters.drafted for g in made) > 0


@some
def test_a_request_that_is_cancelled(known: Any, folder: Path, case: Any) -> None:
    whole = drafted(known, folder, case, "chain")
    made = [generation(p, temperature=1.2, max_new_tokens=9) for p in PROMPTS[:3]]
    plain = outputs(run(undrafted(whole), PROMPTS[:3], temperature=1.2, max_new_tokens=9))
    for turn, _ in enumerate(generate(whole, made)):
        if turn == 1:
            made[1].cancel()
    texts = outputs(made)
    assert (texts[0], texts[2]) == (plain[0], plain[2])
    assert texts[1] == plain[1][: len(texts[1])]


@some
def test_a_request_that_is_forked(known: Any, folder: Path, case: Any) -> None:
    """The branch reads its own copy of the target's cache, and its text is its own."""

    def branches(whole: Any) -> list[tuple[int, ...]]:
        session, first = Session(whole), generation(PROMPTS[0], temperature=1.2, max_new_tokens=14)
        session.add([first])
        while len(first.output) < 5:
            session.step([0])
        branch = session.fork(first, sample=3)
        while session.pending:
            session.step()
        return outputs([first, branch])

    whole = drafted(known, folder, case, "chain")
    texts = branches(whole)
    assert texts == branches(undrafted(whole)) and len(set(texts)) == 2


@some
def test_unusable_numbers_change_no_text(folder: Path, case: Any) -> None:
    """I5: drafting is off for the request, and the reason is known."""
    config = make_pair(folder, *case).head.config
    last = f"{LAYER}mlp.down_proj.weight" if config.predicts_states else "norm.weight"
    pair = make_pair(folder, *case, **{last: torch.full(config.shapes()[last], torch.nan)})
    for name in ("chain", "tree"):
        whole = stage(pair.target, drafters(pair, folder)[name](), policy=TREE)
        options: dict[str, Any] = {"temperature": 0.8, "max_new_tokens": 8}
        found = run(whole, PROMPTS, **options)
        assert outputs(found) == outputs(run(undrafted(whole), PROMPTS, **options))
        for g in found:
            assert g.counters.accepted == 0
            off = g.sequence.state.off
            assert off is not None and case[1] in off


@some
def test_under_rules_that_read_probabilities(known: Any, folder: Path, case: Any) -> None:
    """Distributions of a head have the target's vocabulary; drafts are accepted and refused."""
    head = known[case].head
    chain = ModelDrafter(model=head)
    tree = TreeDrafter(model=head, growth=RsdS(width=3))
    for drafter, rule in ((chain, Rejection()), (tree, RecursiveRejection())):
        whole = stage(known[case].target, drafter, rule, policy=TREE)
        found = run(whole, PROMPTS, max_new_tokens=12, temperature=1.5)
        assert all(len(g.output) == 12 for g in found)
        accepted, proposed = (
            sum(getattr(g.counters, name) for g in found) for name in ("accepted", "drafted")
        )
        assert 0 < accepted < proposed


@some
def test_a_token_that_is_lost_lowers_acceptance_only(
    folder: Path, case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never drafted, unless it is the hint."""
    seen: list[int] = []
    propose = ModelDrafter.propose

    def spy(self: Any, *given: Any) -> Any:
        made = propose(self, *given)
        seen.extend(int(token) for draft in made for token in draft.tokens)
        return made

    monkeypatch.setattr(ModelDrafter, "propose", spy)
    options: dict[str, Any] = {"temperature": 3.0, "max_new_tokens": 30}
    whole = make_pair(folder, *case, draft=VOCAB)
    [full] = run(stage(whole.target, ModelDrafter(model=whole.head)), PROMPTS[:1], **options)
    full_seen = set(seen)
    seen.clear()
    few = make_pair(folder, *case, draft=VOCAB // 2)
    ids = set(few.head._ids.tolist())
    [part] = run(stage(few.target, ModelDrafter(model=few.head)), PROMPTS[:1], **options)
    assert outputs([part]) == outputs([full])
    assert seen and full_seen - ids  # tokens that were drafted before are lost
    if case[1] != "hinted":
        assert set(seen) <= ids
    else:  # a hint can be any token of the text, or of the table
        table = set(few.head._table.tolist())
        assert set(seen) <= ids | set(PROMPTS[0]) | set(part.output) | table
