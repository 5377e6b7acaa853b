import numpy as np
import pytest
import torch

from outrider.core.errors import OptionError
from outrider.core.tree import ancestor_mask, depths
from outrider.core.types import NO_IDS, Budget, as_ids
from outrider.drafters import Lookahead, NoDrafter, Qualified
from outrider.memories.pool import NgramPool
from outrider.models.tabular import TabularModel
from outrider.policies import FixedTree
from tests.drafters.statistics.row_rigs import observe, paths, propose, request
from tests.exactness.setups.rigs import run, stage

pytestmark = pytest.mark.method("lookahead")

WIDE = {"nodes": 200, "depth": 20}
TREE = FixedTree(depth=12, nodes=80)


def model(order: int = 2, vocab: int = 40, seed: int = 1) -> TabularModel:
    return TabularModel.random(vocab_size=vocab, order=order, seed=seed)


def rows_after(target: TabularModel, text: list[int], draft) -> torch.Tensor:
    spelt = [(), *paths(draft)]
    return torch.stack([target.logits_after([*text, *path]) for path in spelt])


def advance(drafter: Lookahead, state, target: TabularModel, text: list[int], extra: int = 0):
    """One round by hand: the draft, its rows, and a commit of 1 + extra greedy tokens."""
    draft = propose(drafter, state, **WIDE)
    if len(draft):
        observe(drafter, state, draft, rows_after(target, text, draft))
    written: list[int] = []
    for _ in range(1 + extra):
        written.append(int(target.logits_after([*text, *written]).argmax()))
    drafter.commit([state], [as_ids(written)])
    text += written
    return draft


def filled(target: TabularModel, text: list[int], **options) -> tuple[Lookahead, object]:
    drafter = Lookahead(text=False, **options)
    [state] = drafter.begin([request(text)])
    while not state.window.full:
        advance(drafter, state, target, text)
    return drafter, state


def test_no_draft_sees_the_window_and_the_window_sees_no_draft() -> None:
    """The mask test."""
    target, text = model(), [1, 2, 3]
    drafter, state = filled(target, text)
    mixed = 0
    for _ in range(30):
        draft = advance(drafter, state, target, text)
        mask, probe = ancestor_mask(draft.parents), draft.probe
        assert probe is not None
        mixed += 0 < probe.sum() < len(probe)
        assert not mask[np.ix_(probe, ~probe)].any()
        assert not mask[np.ix_(~probe, probe)].any()
        assert (np.diff(probe.astype(int)) >= 0).all()  # drafts come first
    assert mixed > 3


def test_what_a_guess_sees() -> None:
    """Row r, column i sees row 0 up to column i, and its own column above r."""
    target, text = model(), [1, 2, 3]
    drafter, state = filled(target, text, ngram=4, window=5)
    drafter.memory._table.clear()
    rows = [list(row) for row in state.window.rows]
    draft = propose(drafter, state, **WIDE)
    expected = []
    for column in range(5):
        ahead = rows[0][1 : column + 1]
        if column:
            expected.append(tuple(ahead))
        for r in range(1, 3):
            expected.append((*ahead, *(rows[k][column] for k in range(1, r + 1))))
    assert paths(draft) == expected
    assert len(draft) == 3 * 5 - 1 and draft.num_probes == len(draft)
    assert depths(draft.parents).max() + 1 == 5 - 1 + 3 - 1


def test_the_last_row_writes_the_next_one_and_the_pool() -> None:
    target, text = model(), [1, 2, 3]
    drafter, state = filled(target, text, ngram=4, window=5)
    before, last = [list(row) for row in state.window.rows], text[-1]
    context = list(text)
    drafter.memory._table.clear()
    advance(drafter, state, target, text)
    fresh = []
    for column in range(5):
        seen = [*context, *before[0][1 : column + 1], before[1][column], before[2][column]]
        fresh.append(int(target.logits_after(seen).argmax()))
    assert state.window.rows == [before[1], before[2], fresh]
    for column in range(5):
        first = before[0][column] if column else last
        ngram = (before[1][column], before[2][column], fresh[column])
        assert ngram in drafter.memory.after(first)


@pytest.mark.parametrize("extra", [1, 2, 3])
def test_after_extra_accepts_all_rows_shift(extra: int) -> None:
    target, text = model(), [1, 2, 3]
    drafter, state = filled(target, text, ngram=4, window=6)
    before = [list(row) for row in state.window.rows]
    advance(drafter, state, target, text, extra)
    for r in range(2):
        assert state.window.rows[r][: 6 - extra] == before[r + 1][extra:]
    assert all(len(row) == 6 for row in state.window.rows)


def test_it_begins_with_one_row_and_warms_up() -> None:
    target, text = model(), [1, 2, 3]
    drafter = Lookahead()
    [state] = drafter.begin([request(text)])
    assert len(state.window.rows) == 1 and set(state.window.rows[0]) <= set(text)
    heights = []
    for _ in range(5):
        advance(drafter, state, target, text)
        heights.append(len(state.window.rows))
    assert heights == [2, 3, 4, 4, 4]


def test_only_whole_ngrams_are_pooled() -> None:
    """Columns of a window that is not full yet spell shorter ones."""
    drafter = Lookahead(ngram=4, window=5, text=False)
    run(stage(model(vocab=7), drafter, policy=TREE), [(1, 2), (3,)], max_new_tokens=30)
    ngrams = [ngram for token in range(7) for ngram in drafter.memory.after(token)]
    assert ngrams and {len(ngram) for ngram in ngrams} == {3}


def test_pool_size_is_at_most_g_for_each_key() -> None:
    drafter = Lookahead(memory=NgramPool(per_key=3))
    run(stage(model(vocab=7), drafter, policy=TREE), [(1, 2), (3, 3)], max_new_tokens=200)
    sizes = [len(drafter.memory.after(t)) for t in range(7)]
    assert max(sizes) == 3


def test_without_a_window_it_is_a_pure_pool_drafter() -> None:
    drafter = Lookahead(window=0)
    [g] = run(stage(model(vocab=7), drafter, policy=TREE), [(1, 2, 3)], max_new_tokens=100)
    assert g.counters.probed == 0 and g.counters.accepted > 10
    silent = Lookahead(window=0, text=False)
    [g] = run(stage(model(vocab=7), silent, policy=TREE), [(1, 2, 3)], max_new_tokens=100)
    assert g.counters.drafted == g.counters.probed == 0


def test_the_window_alone_finds_ngrams() -> None:
    """Text that never repeats inside the prompt: whatever is accepted came from the window."""
    target = model(order=1, vocab=200, seed=5)
    drafter = Lookahead(text=False)
    [plain] = run(stage(target, NoDrafter()), [(1,)], max_new_tokens=60)
    [g] = run(stage(target, drafter, policy=TREE), [(1,)], max_new_tokens=60)
    assert g.output == plain.output
    assert g.counters.probed > 100 and g.counters.accepted > 10


@pytest.mark.parametrize("nodes", [1, 3, 8, 16, 40, 100])
@pytest.mark.parametrize("depth", [1, 2, 4, 7, 12])
def test_window_and_drafts_keep_to_the_budget(nodes: int, depth: int) -> None:
    target, text = model(), [1, 2, 3]
    drafter, state = filled(target, text)
    for _ in range(8):
        draft = propose(drafter, state, nodes=nodes, depth=depth)
        assert len(draft) <= nodes
        if len(draft):
            assert depths(draft.parents).max() < depth
            observe(drafter, state, draft, rows_after(target, text, draft))
        advance(drafter, state, target, text)
    if depth < 3:
        assert draft.num_probes == 0  # no room for the rows: drafts alone
    [none] = drafter.propose([state], [NO_IDS], [Budget(depth=0, nodes=0)])
    assert len(none) == 0


def test_a_window_cut_by_others_is_read_as_far_as_it_goes() -> None:
    """Merged and shortened drafts: nodes are found by what they spell."""
    target, text = model(), [1, 2, 3]
    drafter, state = filled(target, text)
    draft = propose(drafter, state, **WIDE)
    logits = rows_after(target, text, draft)
    kept = np.arange(len(draft) - 5)
    observe(drafter, state, draft.only(kept), logits[: len(kept) + 1])
    short = len(state.window.next)
    assert 3 <= short < 7
    observe(drafter, state, draft, logits)
    assert len(state.window.next) == 7
    observe(drafter, state, draft.only(as_ids([])), logits[:1])
    drafter.commit([state], [as_ids([5])])
    assert all(len(row) == 7 for row in state.window.rows)


def test_rows_that_are_not_finite_end_the_new_row() -> None:
    target, text = model(), [1, 2, 3]
    drafter, state = filled(target, text)
    known = len(drafter.memory)
    draft = propose(drafter, state, **WIDE)
    logits = torch.full((len(draft) + 1, 40), torch.nan)
    observe(drafter, state, draft, logits)
    assert state.window.next == [] and len(drafter.memory) == known


def test_below_a_qualifier_there_is_no_window() -> None:
    target = model(vocab=7)
    nest = Qualified(drafter=Lookahead(), qualifier=target, policy=TREE)
    [g] = run(stage(target, nest, window=5), [(1, 2, 3)], max_new_tokens=80)
    [plain] = run(stage(target, NoDrafter()), [(1, 2, 3)], max_new_tokens=80)
    assert g.output == plain.output
    inner = nest.bind(nest.needs, 1).counters(g.sequence.state)["qualifier"]
    assert inner.probed == 0 and inner.accepted > 10


@pytest.mark.parametrize("vocab", [152_064, 256_000])
def test_wide_vocabularies(vocab: int) -> None:
    drafter = Lookahead()
    [state] = drafter.begin([request([vocab - 1, 3, vocab - 2] * 3)])
    draft = propose(drafter, state)
    logits = torch.randn(len(draft) + 1, vocab)
    observe(drafter, state, draft, logits)
    assert max(state.window.next) < vocab and state.window.next[0] == logits[0].argmax()


def test_nothing_is_drafted_after_an_end_token() -> None:
    drafter = Lookahead(window=0)
    [state] = drafter.begin([request([1, 2, 3, 4, 5, 1], end_ids=(3,))])
    assert paths(propose(drafter, state)) == [(2,), (2, 3)]


def test_settings_out_of_range() -> None:
    with pytest.raises(OptionError, match="ngram is 1"):
        Lookahead(ngram=1)
    with pytest.raises(OptionError, match="window -1"):
        Lookahead(window=-1)
