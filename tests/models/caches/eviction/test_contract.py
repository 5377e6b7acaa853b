"""What every policy of the cache promises, on every kind of checkpoint and runner."""

import numpy as np
import pytest
import torch

from outrider.core.errors import ContextError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.protocols import Segment
from outrider.strategy.catalogue import KV_POLICIES
from tests.models.caches.eviction.setups import (
    NAMES,
    Spy,
    begin,
    everything,
    feed_none,
    ids,
    kept,
    model,
    needs_kernels,
    read,
    runner_cases,
    spy,  # noqa: F401
    under,
    write,
    write_drafted,
)


def pairs(*given: tuple[str, str]) -> pytest.MarkDecorator:
    """A test of some runners and kinds of checkpoints."""
    cases = [
        pytest.param(pair, marks=[] if pair[0] == "decoder" else [needs_kernels], id="-".join(pair))
        for pair in given
    ]
    return pytest.mark.parametrize("pair", cases)


pytestmark = pytest.mark.usefixtures("unchecked")
each_policy = pytest.mark.parametrize("name", NAMES)
IN_PARTS = tuple(name for name in NAMES if name != "snapkv")
"""Policies that can be told to read texts in parts."""

in_parts = pytest.mark.parametrize("name", IN_PARTS)
TEXT, MORE = ids(13), ids(12, seed=1)


def same(a: torch.Tensor, b: torch.Tensor, pair: tuple[str, str] = ("float32", "")) -> None:
    """Equal bits on a compiled runner; in float64, equal to 9 digits."""
    if pair[0] == "decoder":
        assert torch.allclose(a, b, rtol=0, atol=1e-9)
    else:
        assert torch.equal(a, b)


def test_all_policies_are_tested() -> None:
    assert [module.rsplit(".", 1)[1] for module in KV_POLICIES] == list(NAMES)


@pairs(
    ("decoder", "window"),
    ("float32", "llama"),
    ("float32", "caps"),
    ("float32", "all windows"),
    ("bfloat16", "partial"),
    ("int8", "mha"),
)
@each_policy
def test_a_budget_for_the_whole_text_changes_nothing(name: str, pair: tuple[str, str]) -> None:
    full = model(*pair)
    less = full.under(everything(name, full))
    ours, theirs = (write(one, begin(one, TEXT), MORE[:9]) for one in (less, full))
    same(ours, theirs, pair)


@each_policy
def test_kept_rows_are_few_sorted_and_hold_both_ends(name: str, spy: Spy) -> None:  # noqa: F811
    one = under(name, kind="window")
    chosen, shape = one._compression.policy, one._compression.shape
    write(one, begin(one, TEXT), MORE)
    assert spy.points
    for point in spy.points:
        counts = []
        for plane, rows in enumerate(point.kept):
            assert (np.diff(rows) > 0).all() and rows[0] >= 0 and rows[-1] == point.rows - 1
            if not shape.reads_all[plane // shape.num_kv_heads]:
                assert len(rows) == point.rows  # a layer with a window keeps its rows
                continue
            sinks = getattr(chosen, "sinks", 0)
            assert rows[:sinks].tolist() == list(range(sinks))
            counts.append(len(rows))
        if name in ("duo", "rlkv"):
            gates, few = chosen.loaded.values[1], chosen.sinks + chosen.recent
            assert counts == [point.rows if gate == max(gates) else few for gate in gates]
        else:
            assert np.mean(counts) <= chosen.budget
            if name != "actqkv":  # whose layers have budgets of their own
                assert max(counts) <= chosen.budget


@each_policy
def test_a_budget_may_be_a_share(name: str, spy: Spy) -> None:  # noqa: F811
    """However small it is, a plane keeps the newest row, and the first ones."""
    share = 0.5 if name in ("duo", "rlkv") else 0.01
    one = under(name, budget=share)
    for count in (1, 2, 3, 6, 30):
        assert torch.isfinite(write(one, begin(one, ids(count)), MORE[:6])).all()
    for point in spy.points:
        for rows in point.kept:
            assert len(rows) and rows[-1] == point.rows - 1 and (np.diff(rows) > 0).all()


@pytest.mark.parametrize("runner", runner_cases(("decoder", "int8")))
@each_policy
def test_bytes_are_those_of_all_tensors_and_fall_with_the_budget(name: str, runner: str) -> None:
    sizes, points = [], {} if name == "snapkv" else {"chunk": 20, "every": 20}
    for budget in (
        ({"sinks": 8}, {"sinks": 120})
        if name in ("duo", "rlkv")
        else (
            {"budget": 16},
            {"budget": 140},
        )
    ):
        one = under(name, runner, **budget, **points)
        own = begin(one, ids(200))
        write(one, own, [1])
        eviction = own._eviction
        parts = [own.storage.keys, own.storage.values, own.storage.states]
        noted = [getattr(eviction, part, []) for part in ("sums", "seen", "keys", "mass")]
        parts += [tensor for tensors in noted for tensor in tensors]
        parts += [queries for _, queries in own._log.known]
        if own._archive is not None:
            parts += [own._archive.keys, own._archive.values]
        scaled = [own.storage, own._archive] if runner == "int8" else []
        for store in scaled:
            if store is not None:
                parts += [store.key_scales, store.value_scales]
        assert own.nbytes == sum(part.numel() * part.element_size() for part in parts)
        sizes.append(own.storage.nbytes)
    full = begin(model(runner), ids(200)).storage.nbytes
    assert sizes[0] < full and sizes[0] < sizes[1]


@pairs(
    ("decoder", "window"),
    ("float32", "qk norm"),
    ("float32", "caps"),
    ("float32", "unturned"),
    ("bfloat16", "llama"),
    ("int8", "mha"),
)
@each_policy
def test_drafted_texts_equal_undrafted_ones(name: str, pair: tuple[str, str]) -> None:
    one, rng = under(name, *pair), np.random.default_rng(0)
    expected = write(one, begin(one, TEXT), MORE)
    for trees in (False, True):
        same(write_drafted(one, begin(one, TEXT), MORE, rng, trees=trees), expected, pair)


@needs_kernels
@pytest.mark.parametrize("name", ["h2o", "infllm"])
def test_the_same_queries_are_kept_of_drafted_texts(name: str) -> None:
    """Not all are; which ones are depends on the place of a row, whatever its drafted row is."""
    sampled = {"each": 3} if name == "h2o" else {"probe": 1, "chunk": 400, "every": 5, "local": 0.1}
    if name == "infllm":
        sampled |= {"positions": "original"}
    one, rng = under(name, "float32", **sampled), np.random.default_rng(5)
    expected = write(one, begin(one, TEXT), ids(40, seed=7))
    for _ in range(3):
        found = write_drafted(one, begin(one, TEXT), ids(40, seed=7), rng, trees=True)
        assert torch.equal(found, expected)


@pairs(("decoder", "partial"), ("float32", "window"), ("int8", "mha"))
@each_policy
def test_a_batch_equals_each_text_alone(name: str, pair: tuple[str, str]) -> None:
    """Two of the texts reach points together, and a third one is as long as its budget."""
    one = under(name, *pair)
    texts = [ids(13, 2), ids(13, 3), ids(4, 4), ids(1, 5)]
    alone = [write(one, begin(one, text), MORE[:6]) for text in texts]
    caches = one.start([Prompt(token_ids=text) for text in texts])
    rows = []
    for token in MORE[:6]:
        found = one.forward([Segment(c, NO_IDS) for c in caches], [as_ids([-1])] * len(caches))
        rows.append([own.logits[0].double() for own in found])
        for own in caches:
            own.commit([token])
    for i, expected in enumerate(alone):
        same(torch.stack([row[i] for row in rows]), expected, pair)


@pytest.mark.parametrize("runner", runner_cases(("decoder", "int8")))
@each_policy
def test_forks_are_independent(name: str, runner: str) -> None:
    one = under(name, runner, "mha")
    first = begin(one, TEXT)
    write(one, first, MORE[:5])
    second = first.fork()
    third = second.fork()
    assert kept(second) == kept(first)
    other = write(one, second, MORE[8:])
    found = write(one, first, MORE[5:])
    fresh = begin(one, TEXT)
    write(one, fresh, MORE[:5])
    same(write(one, third, MORE[8:]), other, (runner, ""))
    same(write(one, fresh, MORE[5:]), found, (runner, ""))
    assert kept(fresh) == kept(first) and kept(third) == kept(second)


FAST = {
    f"{name}-{runner}": pytest.param(name, runner, marks=[needs_kernels] * (runner != "decoder"))
    for runner, some in (("float32", NAMES), ("decoder", ("h2o", "infllm")))
    for name in some
}
"""Every policy with kernels, and those that keep most beside rows without."""


@pytest.mark.parametrize(("name", "runner"), FAST.values())
def test_a_truncated_text_equals_a_fresh_one(name: str, runner: str) -> None:
    """Below the last point, the text is read again."""
    one = under(name, runner)
    for length in (20, 17, 16, 13, 6, 1) if runner == "float32" else (18, 16, 6):
        own = begin(one, TEXT)
        write(one, own, MORE[:7])
        read(one, own, [1, 2])
        own.truncate(length)
        assert own.length <= length - 1 and len(own.text) == length
        fresh = begin(one, TEXT)
        for token in MORE[: max(length - len(TEXT), 0)]:
            read(one, fresh)
            fresh.commit([token])
        if length < len(TEXT):
            if name == "snapkv":  # the prompt is no longer the same
                continue
            fresh = begin(one, TEXT[:length])
        same(write(one, own, MORE[7:]), write(one, fresh, MORE[7:]), (runner, ""))
        assert kept(own) == kept(fresh)


@pytest.mark.parametrize("runner", runner_cases(("float32",)))
@in_parts
def test_a_text_read_in_parts_equals_one_read_at_once(name: str, runner: str) -> None:
    one = under(name, runner)
    assert one._compression.policy.reads_texts
    assert not one.info.whole_prompts
    for length in (9, 10, 11, 14):
        text, at_once = ids(length, 6), begin(one, ids(length, 6))
        expected = write(one, at_once, MORE[:5])
        for size in (1, 3, 4, 5, 9):
            own = begin(one, text[:1])
            for i in range(1, length, size):
                own.commit(text[i : i + size])
                feed_none(one, own)
                own.settle() if i + size < length else own.commit(())
            same(write(one, own, MORE[:5]), expected, (runner, ""))
            assert kept(own) == kept(at_once)


@pytest.mark.parametrize(
    ("name", "runner"), [FAST[key] for key in FAST if not key.startswith("snapkv")]
)
def test_a_text_goes_on_as_a_prompt(name: str, runner: str) -> None:
    """Resumed from its text (a request that made room for others), or from an old cache."""
    one = under(name, runner)
    for count in (0, 3, 4, 5):
        own = begin(one, TEXT)
        write(one, own, MORE[:count])
        expected = write(one, own.fork(), MORE[count:])
        text = TEXT + MORE[:count]
        same(write(one, begin(one, text), MORE[count:]), expected, (runner, ""))
        [reused] = one.start([Prompt(token_ids=text)], [own])
        assert reused is own
        same(write(one, reused, MORE[count:]), expected, (runner, ""))


@pytest.mark.parametrize("runner", runner_cases(("float32",)))
@each_policy
def test_old_caches_are_reused_only_where_that_changes_nothing(name: str, runner: str) -> None:
    one = under(name, runner)
    for shared in (0, 3, 15, 16, 17):
        own = begin(one, TEXT)
        write(one, own, MORE[:6])
        text = (*own.text[:shared], *ids(4, 9))
        [reused] = one.start([Prompt(token_ids=text)], [own])
        fresh = begin(one, text)
        same(write(one, reused, MORE[:9]), write(one, fresh, MORE[:9]), (runner, ""))
        assert kept(reused) == kept(fresh)


@each_policy
def test_rows_behind_the_last_point_are_reused(name: str) -> None:
    one = under(name)
    own = begin(one, TEXT)
    write(one, own, MORE[:5])  # 17 rows, and points at 4, 8, 12, 16
    assert own.usable(19) == (0 if name == "snapkv" else 19)
    assert own.usable(17) == (0 if name == "snapkv" else 17) and own.usable(16) == 0


@each_policy
def test_embeddings_are_read_like_the_ids_that_they_stand_for(name: str) -> None:
    one = under(name)
    for count in (1, 4, 5, 13):
        text = ids(count, 7)
        prompt = Prompt(token_ids=text, embeddings=one.embed(text))
        [own] = one.start([prompt])
        fresh = begin(one, text)
        same(write(one, own, MORE[:5]), write(one, fresh, MORE[:5]), ("decoder", ""))
        assert kept(own) == kept(fresh)


@needs_kernels
@each_policy
def test_nothing_that_is_not_a_number_spreads_to_other_texts(name: str) -> None:
    one = under(name, "float32")
    expected = write(one, begin(one, TEXT), MORE)
    bad = begin(one, TEXT)
    good = begin(one, TEXT)
    with torch.inference_mode():
        bad.storage.keys.fill_(torch.nan)
    rows = []
    for token in MORE:
        pair = one.forward([Segment(c, NO_IDS) for c in (bad, good)], [as_ids([-1])] * 2)
        rows.append(pair[1].logits[0].double())
        for own in (bad, good):
            own.commit([token])
    same(torch.stack(rows), expected)


@needs_kernels
@each_policy
def test_the_window_ends_texts_unless_positions_move(name: str) -> None:
    one = under(name, "float32")
    most = model().info.context_length
    own = begin(one, ids(most - 1))
    write(one, own, MORE[:1])
    moves = name in ("streaming", "infllm", "actqkv")
    assert (one.info.context_length > most) is moves is (own.remaining > 0)
    if moves:
        assert torch.isfinite(write(one, own, MORE)).all()
        return
    with pytest.raises(ContextError):
        read(one, own, [1])
