import numpy as np
import pytest
import torch

from outrider.core.types import NO_IDS, Budget, as_ids
from outrider.drafters import Stand
from outrider.drafters.statistics.template import from_counts
from outrider.memories.distributions import Distributions
from outrider.models.tabular import TabularModel
from outrider.policies import FixedTree
from outrider.protocols import Needs
from outrider.sampling.noise import Purpose, gumbel, gumbel_arrays, stream_key
from tests.drafters.statistics.row_rigs import chain, observe, paths, propose, request
from tests.exactness.setups.rigs import run, stage

pytestmark = pytest.mark.method("stand")

TREE = FixedTree(depth=6, nodes=40)
PROBS = Needs(probs=True)
VOCAB = 12


def taught(rows: int = 1000, **options) -> tuple[Stand, TabularModel]:
    """A drafter that has seen the rows of an order-2 model after random texts."""
    model = TabularModel.random(vocab_size=VOCAB, order=2, seed=1)
    drafter = Stand(memory=Distributions(orders=(2,)), **options)
    rng = np.random.default_rng(0)
    for _ in range(rows // 20):
        text = rng.integers(0, VOCAB, 20).tolist()
        [state] = drafter.begin([request((0, *text[:1]))])
        seen = [0, *text]
        logits = torch.stack([model.logits_after(seen[: i + 2]) for i in range(20)])
        observe(drafter, state, chain(text[1:]), logits)
    return drafter, model


def test_noise_by_numpy_is_the_noise() -> None:
    ids = np.array([[0, 7, 4095], [1, 250_000, 3]], dtype=np.int32)
    keys = [stream_key(3, 1, 17, Purpose.CHOICE), stream_key(2**60, 0, 5, Purpose.BRANCH, 1, 77)]
    for row, key in enumerate(keys):
        expected = gumbel(key, torch.from_numpy(ids[row].astype(np.int64)))
        assert np.allclose(gumbel_arrays(keys, ids)[row], expected.numpy(), rtol=1e-13)


@pytest.mark.parametrize("needs", [Needs(), PROBS])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_children_are_distinct(temperature: float, needs: Needs) -> None:
    drafter, _ = taught()
    drafter = drafter.bind(needs, 1)
    for first in range(VOCAB):
        [state] = drafter.begin([request((3, first), temperature=temperature)])
        draft = propose(drafter, state)
        assert len(draft) > 8
        assert len(set(paths(draft))) == len(draft)


def test_row_sums_of_distributions_are_one_and_entries_at_most_ten() -> None:
    drafter, _ = taught()
    drafter = drafter.bind(PROBS, 1)
    [state] = drafter.begin([request((3, 4), temperature=0.7)])
    draft = propose(drafter, state)
    assert draft.probs is not None
    for node, probs in enumerate(draft.probs):
        assert probs is not None and probs.dtype is torch.float64
        assert float(probs.sum()) == pytest.approx(1.0) and int((probs > 0).sum()) <= 10
        assert probs[int(draft.tokens[node])] > 0
        for other in draft.children(int(draft.parents[node])):
            assert draft.probs[other] is probs


def surplus(counts: np.ndarray, expected: np.ndarray) -> float:
    """Chi-square of what is expected often enough, in standard deviations above its mean."""
    cells = expected > 5
    chi = ((counts[cells] - expected[cells]) ** 2 / expected[cells]).sum()
    return float((chi - cells.sum()) / np.sqrt(2 * cells.sum()))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("draws", [1000, pytest.param(4000, marks=pytest.mark.slow)])
def test_draws_follow_the_distribution_without_replacement(draws: int) -> None:
    """First and second child of the root over many seeds, against the stored distribution."""
    drafter, _ = taught()
    drafter = drafter.bind(PROBS, 1)
    counts = np.zeros((VOCAB, VOCAB))
    for seed in range(draws):
        [state] = drafter.begin([request((3, 4), temperature=1.0, seed=seed)])
        draft = propose(drafter, state, nodes=12, depth=1)
        counts[draft.tokens[0], draft.tokens[1]] += 1
    assert draft.probs is not None and draft.probs[0] is not None
    q = draft.probs[0].numpy()
    pairs = q[:, None] * q[None, :] / np.clip(1 - q[:, None], 1e-12, None)
    np.fill_diagonal(pairs, 0.0)
    expected = pairs * draws
    assert surplus(counts, expected) < 4.0
    with_replacement = q[:, None] * q[None, :] * draws
    assert surplus(counts, with_replacement) > 8.0, "the test tells one distribution from another"
    assert counts[q == 0].sum() == 0


def test_without_temperature_there_is_no_noise() -> None:
    drafter, model = taught()
    for needs in (Needs(), PROBS):
        bound = drafter.bind(needs, 1)
        [state] = bound.begin([request((3, 4), seed=1)])
        [other] = bound.begin([request((3, 4), seed=2)])
        draft = propose(bound, state)
        assert paths(draft) == paths(propose(bound, other))
        assert draft.tokens[0] == model.logits_after([3, 4]).argmax()
        assert draft.probs is None or all(probs is None for probs in draft.probs)


def test_the_shape_does_not_depend_on_the_noise() -> None:
    drafter, _ = taught(3000)
    shapes = set()
    for seed in range(50):
        [state] = drafter.begin([request((3, 4), temperature=1.0, seed=seed)])
        shapes.add(tuple(propose(drafter, state).parents.tolist()))
    assert len(shapes) == 1


@pytest.mark.usefixtures("unchecked")
def test_coupled_noise_makes_the_first_child_the_targets_choice() -> None:
    """Where the memory holds the target's own distribution, `Match` keeps first children only."""
    model = TabularModel.random(vocab_size=8, order=2, seed=1)
    deep = from_counts({(0,) * d: 1 for d in range(4)}, (1.0,))
    drafter = Stand(template=deep, memory=Distributions(orders=(2,)))
    whole = stage(model, drafter, policy=TREE)
    run(whole, [(a, b) for a in range(8) for b in range(8)], temperature=0.8, max_new_tokens=30)
    [g] = run(whole, [(1, 2)], temperature=0.8, seed=99, max_new_tokens=100)
    assert g.counters.accepted > 0.97 * g.counters.drafted
    [cold] = run(whole, [(1, 2)], temperature=0.4, seed=98, max_new_tokens=100)
    assert cold.counters.accepted > 0.97 * cold.counters.drafted


@pytest.mark.usefixtures("unchecked")
def test_distributions_are_drawn_with_noise_of_their_own() -> None:
    """A stream for each node: not that of the choices, nor the same at two nodes."""
    drafter, _ = taught()
    firsts = {"match": [], "probs": []}
    for seed in range(60):
        [state] = drafter.begin([request((3, 4), temperature=1.5, seed=seed)])
        for name, needs in (("match", Needs()), ("probs", PROBS)):
            firsts[name].append(int(propose(drafter.bind(needs, 1), state).tokens[0]))
    assert firsts["match"] != firsts["probs"]
    tokens = []
    for seed in range(60):
        [state] = drafter.begin([request((3, 4), temperature=1.5, seed=seed)])
        spelt = paths(propose(drafter.bind(PROBS, 1), state, nodes=80))
        level = {p[:1]: p[1] for p in reversed(spelt) if len(p) == 2}
        tokens.append(tuple(level.values()))
    assert sum(len(set(t)) > 1 for t in tokens) > 40


@pytest.mark.usefixtures("unchecked")
def test_nodes_with_the_same_distribution_are_drawn_apart() -> None:
    """One stream for all nodes of a level would give them the same children."""
    drafter = Stand(memory=Distributions(orders=(1,)))
    [state] = drafter.begin([request((0,))])
    flat = torch.zeros(VOCAB, VOCAB)
    observe(drafter, state, chain(list(range(1, VOCAB))), flat)
    differ = 0
    for seed in range(30):
        [state] = drafter.begin([request((3, 4), temperature=1.0, seed=seed)])
        spelt = paths(propose(drafter.bind(PROBS, 1), state, nodes=80))
        firsts = {p[:1]: p[1] for p in reversed(spelt) if len(p) == 2}
        assert len(firsts) == 8
        differ += len(set(firsts.values())) > 1
    assert differ == 30


@pytest.mark.parametrize("needs", [Needs(), PROBS])
def test_a_tail_is_drafted_for_with_the_noise_of_its_end(needs: Needs) -> None:
    drafter, _ = taught()
    drafter = drafter.bind(needs, 1)
    for seed in range(10):
        before, after = drafter.begin([request((3, 4), temperature=1.5, seed=seed)] * 2)
        drafter.commit([after], [as_ids([5, 6])])
        expected = propose(drafter, after)
        assert paths(propose(drafter, before, tail=as_ids([5, 6]))) == paths(expected)
        assert len(expected) > 8


def test_a_branch_stops_on_a_miss_and_at_an_end() -> None:
    drafter = Stand(memory=Distributions(orders=(2,)))
    [state] = drafter.begin([request((1, 2), end_ids=(5,))])
    assert len(propose(drafter, state)) == 0
    row = torch.full((1, 9), -20.0)
    row[0, [5, 6]] = torch.tensor([2.0, 1.0])
    observe(drafter, state, chain([]), row)
    found = paths(propose(drafter, state))
    assert found[:2] == [(5,), (6,)] and all(len(p) == 1 for p in found)
    [other] = drafter.begin([request((2, 5))])
    observe(drafter, other, chain([]), row)
    assert not any(p[0] == 5 and len(p) > 1 for p in paths(propose(drafter, state)))


def test_rows_of_the_target_alone_are_learnt_each_after_its_own_path() -> None:
    drafter = Stand(memory=Distributions(orders=(3, 2)))
    [state] = drafter.begin([request((1, 2))])
    logits = torch.randn(4, 30)
    draft = chain([7, 8, 9])
    observe(drafter, state, draft, logits, tier="qualifier")
    assert len(drafter.memory) == 0
    observe(drafter, state, draft, logits, tail=as_ids([4]))
    for row, context in enumerate([(1, 2, 4), (2, 4, 7), (4, 7, 8), (7, 8, 9)]):
        slot = drafter.memory.find(context)
        assert drafter.memory.ids([slot])[0, 0] == logits[row].argmax()


@pytest.mark.usefixtures("unchecked")
def test_the_memory_is_shared_by_samples_of_one_prompt() -> None:
    model = TabularModel.random(vocab_size=20, order=2, seed=3, scale=3.0)
    drafter = Stand()
    whole = stage(model, drafter, policy=TREE)
    lengths = []
    for sample in range(6):
        [g] = run(whole, [(1, 2)], temperature=0.6, seed=7, sample=sample, max_new_tokens=100)
        lengths.append(len(g.output) / g.counters.rounds)
    assert np.mean(lengths[3:]) > 1.3 * lengths[0]


@pytest.mark.parametrize("vocab", [152_064, 256_000])
def test_wide_vocabularies(vocab: int) -> None:
    drafter = Stand().bind(PROBS, 1)
    [state] = drafter.begin([request((vocab - 1, 3), temperature=1.0)])
    logits = torch.randn(2, vocab)
    observe(drafter, state, chain([vocab - 2]), logits)
    draft = propose(drafter, state, nodes=8)
    assert draft.probs is not None and draft.probs[0] is not None
    assert draft.probs[0].numel() == vocab
    assert set(draft.tokens.tolist()) <= set(logits.topk(10).indices.flatten().tolist())


def test_budgets() -> None:
    drafter, _ = taught()
    [state] = drafter.begin([request((3, 4), temperature=1.0)])
    whole = propose(drafter, state)
    for nodes in (1, 6, 20):
        assert paths(propose(drafter, state, nodes)) == paths(whole)[:nodes]
    [none] = drafter.propose([state], [NO_IDS], [Budget(depth=0, nodes=0)])
    assert len(none) == 0
