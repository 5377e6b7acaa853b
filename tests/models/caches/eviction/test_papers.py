"""What the papers of the policies promise, one test after another."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider import kernels
from outrider.core.errors import OptionError
from outrider.models.caches.eviction.blocks.actqkv import activated, by_entropy
from outrider.models.caches.eviction.blocks.infllm import InfLLM
from outrider.models.caches.eviction.blocks.retrieval import Blocks
from outrider.models.caches.eviction.h2o import H2O
from outrider.models.caches.eviction.heads.duo import Duo
from outrider.models.caches.eviction.heads.rlkv import RLKV
from outrider.models.caches.eviction.snapkv import SnapKV
from outrider.models.caches.eviction.streaming import Streaming
from outrider.models.cpu.native import NativeDecoder
from tests.models.caches.eviction.setups import (
    Spy,
    begin,
    gates_for,
    ids,
    kept,
    model,
    policy,
    read,
    spy,  # noqa: F401
    under,
    write,
)

TEXT, MORE = ids(14, 3), ids(23, 4)


def full(text: tuple[int, ...], more: tuple[int, ...]) -> torch.Tensor:
    """Logits of the model that keeps all rows."""
    one = model()
    return write(one, begin(one, text), more)


# -- StreamingLLM ------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_streamingllm_memory_is_constant_beyond_the_window() -> None:
    one = under("streaming", chunk=32, every=32, budget=40)
    own, sizes = begin(one, ids(40)), []
    for _ in range(9):
        own.commit(ids(32, 5))
        read(one, own)
        own.commit([1])
        sizes.append(own.nbytes)
    assert len(own.text) > model().info.context_length
    assert len(set(sizes[1:])) == 1
    assert max(map(len, kept(own))) <= 40 + 32


def test_streamingllm_distances_stay_within_the_window(spy: Spy) -> None:  # noqa: F811
    """Sinks stand right before the recent rows, so no distance exceeds budget and interval."""
    one = under("streaming")
    write(one, begin(one, TEXT), MORE)
    for point, after in pairwise(spy.points):
        for rows, turns in zip(point.kept, point.turns, strict=True):
            stand = rows.copy()
            stand[: len(turns)] += turns
            assert stand.tolist() == list(range(point.rows - 8, point.rows))
            assert after.rows - 1 - stand[0] < 8 + 4


def test_streamingllm_first_rows_that_are_the_whole_text_stay_where_they_are() -> None:
    one = under("streaming", budget=0.5, sinks=6)
    found = write(one, begin(one, ids(5)), MORE[:3])
    assert torch.allclose(found, full(ids(5), MORE[:3]), rtol=0, atol=1e-9)


def test_streamingllm_refuses_a_budget_that_exceeds_the_window() -> None:
    with pytest.raises(OptionError, match="window of 256"):
        model().under(Streaming(budget=250))
    model().under(Streaming(budget=250, positions="original"))
    with pytest.raises(OptionError, match="no other row"):
        Streaming(budget=4)


@pytest.mark.slow
@pytest.mark.skipif(not kernels.available(), reason="needs the compiled kernels")
def test_streamingllm_without_sinks_the_loss_explodes(smollm2: Path) -> None:
    """As soon as the first rows go, well before the window ends."""
    target = NativeDecoder.load(smollm2, threads=1)
    text = _book()
    tokens = [int(t) % target.config.vocab_size for t in text]
    options = {"budget": 96, "chunk": 32, "every": 32}
    losses = [
        _loss(target.under(Streaming(sinks=sinks, **options)), tokens[:448]) for sinks in (4, 0)
    ]
    assert losses[1] > 3 * losses[0], losses  # found: 0.08 and 0.42


def _book() -> list[int]:
    """Tokens of counted sentences, of which the model predicts the next one with little loss."""
    from outrider import load

    tokenizer = load("smollm2", threads=1).tokenizer
    lines = [f"Then sheep number {n} jumped over the old fence of the farm." for n in range(1, 60)]
    return list(tokenizer.encode(" ".join(lines)))


def _loss(one: NativeDecoder, tokens: list[int]) -> float:
    """Mean loss of the second half of a text, read between points."""
    own, losses, at = begin(one, tokens[:1]), [], 1
    while at < len(tokens):
        assert own.horizon is not None
        part = tokens[at : at + own.horizon]
        logs = read(one, own, part[:-1]).log_softmax(dim=-1)
        losses += [-float(row[token]) for row, token in zip(logs, part, strict=True)]
        own.commit(part)
        at += len(part)
    return float(np.mean(losses[len(losses) // 2 :]))


# -- H2O ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "each"), [("llama", 1), ("caps", 1), ("llama", 3)])
def test_h2o_sums_of_attention_are_the_number_of_queries(kind: str, each: int) -> None:
    one = under("h2o", kind=kind, budget=200, each=each, chunk=0)
    own = begin(one, TEXT)
    write(one, own, MORE)
    rows = 14 + 20  # the prompt and five intervals
    asked = 14 + sum(row % each == 0 for row in range(14, rows))
    for plane in range(4):
        if kind == "caps" and plane < 2:  # a layer with a window
            continue
        sums, seen = own._eviction.sums[plane], own._eviction.seen[plane]
        assert len(sums) == rows and float(sums.sum()) == pytest.approx(asked, abs=1e-6)
        assert int(seen[0]) == asked and int(seen[-1]) <= 1


def test_h2o_an_evicted_row_never_returns(spy: Spy) -> None:  # noqa: F811
    one = under("h2o")
    write(one, begin(one, TEXT), MORE)
    hitters = 0
    for before, after in pairwise(spy.points):
        for old, new in zip(before.kept, after.kept, strict=True):
            early = new[new < before.rows]
            assert set(early) <= set(old)
            hitters += int((early < before.rows - 4).sum())
    assert hitters  # some rows outlive the recent ones


def test_h2o_defaults_are_those_of_the_paper() -> None:
    assert H2O().budget == 0.2 and H2O().recent == 0.5


def test_h2o_weighs_a_sample_of_a_long_prompt() -> None:
    one = under("h2o", chunk=0, samples=5)
    asked = one._compression.policy.begin(one._compression.shape).asks(np.arange(40), 33)
    assert asked is not None and np.flatnonzero(asked[:33]).tolist() == [6, 13, 20, 27]


# -- SnapKV ------------------------------------------------------------------------------------


def test_snapkv_only_the_prompt_is_compressed(spy: Spy) -> None:  # noqa: F811
    one = under("snapkv")
    own = begin(one, TEXT)
    write(one, own, MORE)
    assert [point.rows for point in spy.points] == [14]
    for before, rows in zip(spy.points[0].kept, kept(own), strict=True):
        assert (np.diff(before) > 0).all() and len(before) == 8
        assert rows == [*before, *range(14, own.length)]


def test_snapkv_short_prompts_are_untouched(spy: Spy) -> None:  # noqa: F811
    one = under("snapkv")
    for count in (1, 2, 8):
        found = write(one, begin(one, ids(count)), MORE)
        assert torch.allclose(found, full(ids(count), MORE), rtol=0, atol=1e-9)
    assert not spy.points
    write(one, begin(one, ids(9)), MORE[:1])
    assert len(spy.points) == 1


def test_snapkv_has_no_points_but_one() -> None:
    for options in ({"every": 64}, {"chunk": 64}):
        with pytest.raises(OptionError, match="once"):
            SnapKV(**options)
    with pytest.raises(OptionError, match="kernel"):
        SnapKV(kernel=4)
    with pytest.raises(OptionError, match="pooling"):
        SnapKV(pooling="sum")


# -- DuoAttention and RLKV ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["duo", "rlkv"])
def test_duoattention_rlkv_without_sparsity_attention_is_full(
    name: str,
    spy: Spy,  # noqa: F811
) -> None:
    one = under(name, budget=1.0)
    found = write(one, begin(one, TEXT), MORE)
    assert not spy.points and torch.allclose(found, full(TEXT, MORE), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["duo", "rlkv"])
def test_duoattention_rlkv_short_texts_are_untouched(name: str, spy: Spy) -> None:  # noqa: F811
    """A text of no more rows than the first and the recent ones, for any sparsity."""
    rows = 16
    for budget in (0.01, 0.25, 0.5):
        one = under(name, budget=budget, sinks=5, recent=11)
        own = begin(one, TEXT)
        found = write(one, own, MORE[: rows - len(TEXT) + 1])
        assert own.length == rows and not spy.points
        assert torch.allclose(found, full(TEXT, MORE)[: len(found)], rtol=0, atol=1e-9)
        write(one, own, MORE[:4])
        assert spy.points
        spy.points.clear()


@pytest.mark.parametrize("budget", [0.25, 0.5, 0.75])
def test_duoattention_rlkv_heads_with_high_gates_stay_full(
    budget: float,
    spy: Spy,  # noqa: F811
) -> None:
    one = model()
    chosen = policy("duo", one, budget=budget)
    other = one.under(chosen)
    write(other, begin(other, TEXT), MORE)
    gates = gates_for(one).values.ravel()
    whole = np.sort(np.argsort(-gates)[: round(4 * budget)]).tolist()
    for point in spy.points:
        assert [p for p in range(4) if len(point.kept[p]) == point.rows] == whole


def test_duoattention_rlkv_defaults_are_those_of_the_papers() -> None:
    gates = gates_for(model())
    assert (RLKV(gates=gates).sinks, RLKV(gates=gates).recent) == (16, 64)
    assert (Duo(gates=gates).sinks, Duo(gates=gates).recent) == (64, 256)
    with pytest.raises(OptionError, match="share of heads"):
        RLKV(gates=gates, budget=2)
    with pytest.raises(OptionError, match="none in the answer"):
        RLKV(gates=gates, every=0)


# -- InfLLM ------------------------------------------------------------------------------------


def test_infllm_with_as_many_blocks_as_there_are_attention_is_full(
    spy: Spy,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Blocks, "shares", lambda _, scores, __: [99] * len(scores))
    one = under("infllm", positions="original")
    found = write(one, begin(one, TEXT), MORE)
    assert spy.points
    assert torch.allclose(found, full(TEXT, MORE), rtol=0, atol=1e-9)
    for point in spy.points:
        assert all(rows.tolist() == list(range(point.rows)) for rows in point.kept)


def test_infllm_blocks_are_sorted_whole_and_may_return(spy: Spy) -> None:  # noqa: F811
    one = under("infllm")
    write(one, begin(one, TEXT), ids(60, 8))
    returned = 0
    for before, after in pairwise(spy.points):
        for old, new in zip(before.kept, after.kept, strict=True):
            assert (np.diff(new) > 0).all()
            far = new[2 : 2 + 6]
            assert ((far - 2) % 3).tolist() == [0, 1, 2] * 2
            returned += len(set(new[new < before.rows]) - set(old))
    assert returned


def test_infllm_all_rows_stay_in_the_archive() -> None:
    one = under("infllm")
    own = begin(one, TEXT)
    write(one, own, MORE)
    whole = begin(model(), (*TEXT, *MORE[:3]))
    assert own._archived == 36
    ours = torch.stack([own._archive.float_keys(plane, 16) for plane in range(2)])
    assert torch.allclose(ours, whole.keys[0][:, :16], atol=1e-9)  # keys of the first layer


def test_infllm_a_text_without_blocks_is_left_alone(spy: Spy) -> None:  # noqa: F811
    """A prompt that is a little longer than its first rows."""
    one = model().under(InfLLM(local=0.5, block=64))
    for count in (33, 60, 97):
        found = write(one, begin(one, ids(count)), MORE[:3])
        assert torch.allclose(found, full(ids(count), MORE[:3]), rtol=0, atol=1e-9)
    assert not spy.points


def test_infllm_refuses_what_cannot_hold_a_block_or_exceeds_the_window() -> None:
    with pytest.raises(OptionError, match="no block of 16"):
        model().under(InfLLM(budget=40))
    with pytest.raises(OptionError, match="window of 256"):
        model().under(InfLLM(budget=400))
    model().under(InfLLM(budget=400, positions="original"))
    with pytest.raises(OptionError, match="none in the prompt"):
        InfLLM(every=0)


# -- ActQKV ------------------------------------------------------------------------------------


def test_actqkv_equally_far_queries_give_their_mean() -> None:
    one = torch.randn(4, 2, 6, dtype=torch.float64)
    queries = torch.cat((one, -one)) * torch.ones(8, 1, 1)
    queries = queries / queries.square().mean(dim=-1, keepdim=True).sqrt() + 3
    assert torch.allclose(activated(queries), queries.mean(dim=0))
    same = torch.ones(5, 2, 6)
    assert torch.equal(activated(same), same[0])


def test_actqkv_one_query_is_taken_as_it_is() -> None:
    query = torch.randn(1, 3, 4)
    assert torch.equal(activated(query), query[0])


def test_actqkv_the_probe_does_not_depend_on_the_order_of_tokens() -> None:
    queries = torch.randn(9, 3, 4, dtype=torch.float64)
    assert torch.allclose(activated(queries.flip(0)), activated(queries))


def test_actqkv_a_query_that_deviates_weighs_more() -> None:
    queries = torch.zeros(10, 1, 2)
    queries[3, 0, 0] = 10.0
    assert float(activated(queries)[0, 0]) > 5 * float(queries.mean(dim=0)[0, 0])


@given(st.lists(st.floats(0, 20), min_size=1, max_size=12), st.integers(1, 9))
def test_actqkv_budgets_of_layers_sum_to_those_of_all(entropies: list[float], room: int) -> None:
    shares = by_entropy(entropies, room)
    assert sum(shares) == room * len(entropies)
    assert all(1 <= share <= 2 * room for share in shares)
    for (a, x), (b, y) in pairwise(sorted(zip(entropies, shares, strict=True))):
        assert a == b or x <= y + 1


def test_actqkv_flat_layers_get_more_blocks() -> None:
    assert by_entropy([3.0, 1.0], 4) == [6, 2]
    assert by_entropy([1.0, 1.0, 1.0], 3) == [3, 3, 3]
    assert by_entropy([0.0, 0.0], 2) == [2, 2]
    assert by_entropy([9.0, 0.0], 4) == [7, 1]


def test_actqkv_layers_have_budgets_of_their_own_in_the_answer_only(
    spy: Spy,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def first_layer_takes_all(entropies: list[float], room: int) -> list[int]:
        assert len(entropies) == 2
        return [2 * room - 1, 1]

    monkeypatch.setattr(
        "outrider.models.caches.eviction.blocks.actqkv.by_entropy", first_layer_takes_all
    )
    one = under("actqkv", every=5)  # points of the prompt and of the answer differ
    write(one, begin(one, ids(27)), MORE[:10])
    counts = {p.rows: [len(rows) for rows in p.kept] for p in spy.points}
    for rows, held in counts.items():
        assert (held[0] == held[2]) == (rows < 27), (rows, held)
        assert held[0] == held[1] and held[2] == held[3]
    assert list(counts) == [20, 24, 27, 32]  # the prompt ends at 27
