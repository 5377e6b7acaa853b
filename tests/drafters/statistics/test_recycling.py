from dataclasses import replace

import numpy as np
import pytest
import torch

from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, Budget, Draft, Rows, Verdict, Verified, as_ids
from outrider.drafters import Fallback, Lookup, NoDrafter, Qualified, Recorded, TokenRecycling
from outrider.drafters.statistics.tree_statistics import optimise_template
from outrider.memories.adjacency import Adjacency
from outrider.models.tabular import TabularModel
from outrider.policies import FixedTree
from tests.drafters.statistics.row_rigs import chain, observe, paths, propose, request
from tests.exactness.setups.rigs import generation, run, stage, tabular_family

pytestmark = pytest.mark.method("recycling")

TREE = FixedTree(depth=6, nodes=80)


def test_after_one_step_each_row_is_the_top_k_of_its_logits() -> None:
    """Refused rows too."""
    drafter = TokenRecycling(warm=False)
    [state] = drafter.begin([request([3, 7])])
    logits = torch.randn(4, 60)
    observe(drafter, state, chain([11, 12, 13]), logits, path=(0,))
    for row, token in enumerate([7, 11, 12, 13]):
        assert drafter.memory.successors(token) == logits[row].topk(8).indices.tolist()


def test_duplicates_are_deterministic_and_accepted_rows_win() -> None:
    """Spec A1 (d): one token on several nodes; of refused ones the last in the order wins."""
    for path, row in (((), 4), ((0,), 4), ((0, 1), 2), ((0, 1, 2), 2), ((0, 1, 2, 3), 4)):
        drafter = TokenRecycling(warm=False)
        [state] = drafter.begin([request([3, 7])])
        logits = torch.randn(5, 60)
        observe(drafter, state, chain([11, 12, 13, 12]), logits, path=path)
        assert drafter.memory.successors(12) == logits[row].topk(8).indices.tolist()


def test_a_draft_walks_the_matrix_along_the_template() -> None:
    drafter = TokenRecycling(warm=False)
    [state] = drafter.begin([request([3, 7])])
    memory, rng = drafter.memory, np.random.default_rng(0)
    rows = torch.from_numpy(rng.standard_normal((30, 30))).float()
    memory.learn(as_ids(range(30)), rows)
    for nodes, depth in ((1, 6), (5, 2), (16, 6), (80, 6), (80, 1)):
        draft = propose(drafter, state, nodes, depth)
        shape = [p for p in drafter.template.paths if len(p) <= depth][:nodes]
        for path, spelt in zip(shape, paths(draft), strict=True):
            token = 7
            for rank, drafted in zip(path, spelt, strict=True):
                token = memory.successors(token)[rank]
                assert token == drafted
        assert draft.origin == "recycling" and draft.sources == ("recycling",) * len(draft)


def test_a_budget_cuts_the_least_promising_nodes() -> None:
    drafter = TokenRecycling(warm=False)
    [state] = drafter.begin([request([3, 7])])
    drafter.memory.learn(as_ids(range(30)), torch.randn(30, 30))
    whole = propose(drafter, state, 80)
    for nodes in (1, 7, 33):
        part = propose(drafter, state, nodes)
        assert part.tokens.tolist() == whole.tokens[:nodes].tolist()
        assert part.parents.tolist() == whole.parents[:nodes].tolist()
    shares = {"recycling": 4, "other": 9}
    [draft] = drafter.propose([state], [NO_IDS], [Budget(depth=6, nodes=50, shares=shares)])
    assert len(draft) == 4
    assert len(propose(drafter, state, 10, 0)) == 0


def test_nothing_is_drafted_after_unknown_and_end_tokens() -> None:
    drafter = TokenRecycling(warm=False)
    [state] = drafter.begin([request([3, 7], end_ids=(2,))])
    assert len(propose(drafter, state)) == 0
    drafter.memory.learn_text(as_ids([7, 2, 7, 2, 7, 5, 6]))
    drafter.memory.learn_text(as_ids([2, 8]))
    draft = propose(drafter, state)
    assert sorted(paths(draft)) == [(2,), (5,), (5, 6)]


def test_the_prompts_pairs_are_learnt_and_kept() -> None:
    drafter = TokenRecycling()
    [state] = drafter.begin([request([1, 2, 3, 1, 2])])
    assert paths(propose(drafter, state, depth=3)) == [(3,), (3, 1), (3, 1, 2)]
    [again] = drafter.begin([request([1, 2, 3, 1, 2, 9, 2])], [state])
    assert drafter.memory.successors(2) == [9, 3]
    assert again.last == 2


def test_only_rows_of_the_target_are_learnt() -> None:
    drafter = TokenRecycling(warm=False)
    [state] = drafter.begin([request([3, 7])])
    observe(drafter, state, chain([4]), torch.randn(2, 30), tier="qualifier")
    assert drafter.memory.vocab_size == 0


def test_a_tail_is_drafted_for_and_learnt_after() -> None:
    drafter = TokenRecycling(warm=False)
    [state] = drafter.begin([request([3, 7])])
    logits = torch.randn(2, 30)
    observe(drafter, state, chain([4]), logits, tail=as_ids([8, 9]))
    assert drafter.memory.successors(9) == logits[0].topk(8).indices.tolist()
    assert drafter.memory.successors(7) == []
    assert len(propose(drafter, state)) == 0
    assert propose(drafter, state, 1, tail=as_ids([8, 9])).tokens[0] == logits[0].argmax()
    assert len(propose(drafter, state, tail=as_ids([10**9]))) == 0


def test_nan_rows_are_not_learnt() -> None:
    drafter = TokenRecycling(warm=False)
    [state] = drafter.begin([request([3, 7])])
    logits = torch.full((3, 30), torch.nan)
    logits[1] = torch.randn(30)
    observe(drafter, state, chain([4, 5]), logits)
    known = [drafter.memory.successors(t) for t in (7, 4, 5)]
    assert known == [[], logits[1].topk(8).indices.tolist(), []]


@pytest.mark.parametrize("vocab", [152_064, 256_000])
def test_wide_vocabularies(vocab: int) -> None:
    drafter = TokenRecycling()
    [state] = drafter.begin([request([vocab - 1, 3, vocab - 1])])
    logits = torch.randn(3, vocab)
    observe(drafter, state, chain([3, vocab - 2]), logits)
    draft = propose(drafter, state)
    assert draft.tokens[0] == logits[0].argmax()
    assert draft.tokens.max() < vocab and drafter.memory.nbytes == (vocab + 1) * 32


def test_a_memory_is_shared_by_requests_and_kept() -> None:
    model = TabularModel.random(vocab_size=30, order=1, seed=3)
    drafter = TokenRecycling()
    whole = stage(model, drafter, policy=TREE)
    [cold] = run(whole, [(1, 2)], temperature=0.7, max_new_tokens=60)
    [hot] = run(whole, [(1, 2)], temperature=0.7, max_new_tokens=60)
    assert hot.output == cold.output
    assert hot.counters.rounds < cold.counters.rounds


@pytest.mark.usefixtures("unchecked")
def test_a_template_fitted_to_what_was_accepted_keeps_more() -> None:
    """STAND's optimiser over Token Recycling: 8 nodes chosen from experience against 8 chosen
    badly, on texts that the statistics have not seen."""
    model = TabularModel.random(vocab_size=40, order=1, seed=4, scale=2.0)
    recorded = Recorded(drafter=TokenRecycling())
    options = {"temperature": 0.8, "max_new_tokens": 60}
    run(stage(model, recorded, policy=TREE), [(t,) for t in range(8)], **options)
    fitted = optimise_template(recorded.statistics, 8)

    def kept(drafter: TokenRecycling) -> float:
        whole = stage(model, drafter, policy=FixedTree(depth=6, nodes=8))
        gs = run(whole, [(t,) for t in range(20, 30)], seed=77, **options)
        return sum(g.counters.accepted for g in gs) / sum(g.counters.rounds for g in gs)

    memory = recorded.drafter.memory  # pyright: ignore[reportAttributeAccessIssue]
    deep = replace(fitted, paths=(*((0,) * d for d in range(1, 7)), (1,), (2,)))
    assert kept(TokenRecycling(template=fitted, memory=memory)) > 1.05 * kept(
        TokenRecycling(template=deep, memory=memory)
    )


def test_drafts_of_others_are_learnt_from_and_not_recorded() -> None:
    inner = TokenRecycling(warm=False)
    drafter = Recorded(drafter=inner)
    [state] = drafter.begin([request([3, 7])])
    observe(drafter, state, chain([11, 12]), torch.randn(3, 60), path=(0,))
    assert inner.memory.successors(11) and not drafter.statistics.trials
    observe(drafter, state, chain([11, 12], origin="recycling"), torch.randn(3, 60), path=(0,))
    assert drafter.statistics.trials == {(0,): 1, (0, 0): 1}
    assert drafter.statistics.hits == {(0,): 1}


def test_under_a_qualifier_the_targets_rows_are_learnt() -> None:
    model = TabularModel.random(vocab_size=20, order=1, seed=5)
    drafter = TokenRecycling(warm=False)
    nest = Qualified(drafter=drafter, qualifier=model, policy=TREE)
    [g] = run(stage(model, nest, window=6), [(1,)], temperature=0.9, max_new_tokens=80)
    known = [t for t in range(20) if drafter.memory.successors(t)]
    assert len(known) > 10
    inner = nest.bind(nest.needs, 1).counters(g.sequence.state)["qualifier"]
    assert inner.accepted > 10
    for token in known:
        expected = model.logits_after([token]).topk(8).indices.tolist()
        assert drafter.memory.successors(token) == expected


def test_a_memory_narrower_than_the_template_is_refused() -> None:
    with pytest.raises(OptionError, match="8 children per node, but the memory stores 2"):
        TokenRecycling(memory=Adjacency(k=2))


def test_most_rows_bounds_what_is_learned_at_once() -> None:
    """The first rows of a long copy; its far end tells little."""
    target = tabular_family().target
    few, all_rows = TokenRecycling(most_rows=3), TokenRecycling()
    for drafter in (few, all_rows):
        whole = stage(target, Fallback(first=Lookup(min_ngram=1), second=drafter), window=9)
        [g] = run(whole, [(1, 2)], temperature=0.8, max_new_tokens=80)
        [plain] = run(stage(target, NoDrafter()), [(1, 2)], temperature=0.8, max_new_tokens=80)
        assert g.output == plain.output
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    draft = Draft(
        tokens=as_ids([1, 2, 3, 4, 5]), parents=as_ids([-1, 0, 1, 2, 3]), sources=("x",) * 5
    )
    verdict = Verdict(path=(0, 1, 2, 3, 4), tokens=(1, 2, 3, 4, 5), next_token=6)
    seen = Verified("target", as_ids([]), draft, Rows(logits), verdict)
    for drafter, known in (
        (TokenRecycling(most_rows=3, warm=False), 3),
        (TokenRecycling(warm=False), 6),
    ):
        [state] = drafter.begin([generation((9, 0)).request])
        drafter.observe([state], [seen])
        assert [bool(drafter.memory.successors(t)) for t in range(6)] == [
            t < known for t in range(6)
        ]
