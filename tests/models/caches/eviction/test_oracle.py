"""Runners under policies against plain attention over whole texts with masks, and what policies
keep against their formulas, computed from the weights of that attention."""

import numpy as np
import pytest
import torch

from tests.models.caches.eviction.oracle import (
    HEADS,
    KV_HEADS,
    LAYERS,
    Judged,
    judge,
    turned,
)
from tests.models.caches.eviction.setups import (
    NAMES,
    Spy,
    begin,
    ids,
    needs_kernels,
    spy,  # noqa: F401
    under,
    write,
)

pytestmark = pytest.mark.usefixtures("unchecked")
TEXT, MORE = ids(14, 3), ids(23, 4)
GROUP = HEADS // KV_HEADS
OPTIONS = [
    ("streaming", {}),
    ("streaming", {"positions": "original"}),
    ("streaming", {"budget": 0.3}),
    ("snapkv", {}),
    ("snapkv", {"pooling": "max", "kernel": 3, "window": 1}),
    ("h2o", {}),
    ("h2o", {"budget": 0.4, "recent": 0.25, "chunk": 0}),
    ("duo", {}),
    ("rlkv", {"budget": 0.25}),
    ("infllm", {}),
    ("infllm", {"positions": "original", "chunk": 6}),
    ("actqkv", {}),
    ("actqkv", {"weighted": False, "adaptive": False, "local": 0.5}),
]
cases = pytest.mark.parametrize(("name", "options"), OPTIONS)


def judged(spied: Spy) -> Judged:
    """What the judge says about the text and the choices so far."""
    return judge(TEXT + MORE[:-1], spied.points)


@cases
def test_logits_are_those_of_attention_with_masks(
    name: str,
    options: dict,
    spy: Spy,  # noqa: F811
) -> None:
    one = under(name, **options)
    found = write(one, begin(one, TEXT), MORE)
    assert spy.points
    expected = judged(spy).logits[len(TEXT) - 1 :]
    assert float((found - expected).abs().max()) < 1e-9
    assert float((found - judge(TEXT + MORE[:-1]).logits[len(TEXT) - 1 :]).abs().max()) > 1e-3


@needs_kernels
@pytest.mark.parametrize("name", NAMES)
def test_the_compiled_runner_keeps_the_same_rows(name: str, spy: Spy) -> None:  # noqa: F811
    one = under(name, "float32")
    found = write(one, begin(one, TEXT), MORE)
    expected = judged(spy).logits[len(TEXT) - 1 :]
    assert float((found - expected).abs().max()) < 1e-3
    points, spy.points = spy.points, []
    one = under(name)
    write(one, begin(one, TEXT), MORE)
    assert len(points) == len(spy.points)
    for ours, theirs in zip(points, spy.points, strict=True):
        for a, b in zip(ours.kept + ours.turns, theirs.kept + theirs.turns, strict=True):
            assert a.tolist() == b.tolist()


def ran(name: str, spied: Spy, **options: object) -> tuple[Judged, object]:
    """A text written under a policy, judged."""
    one = under(name, **options)
    write(one, begin(one, TEXT), MORE)
    return judged(spied), one._compression.policy


def attention(found: Judged, layer: int, own: int, rows: slice) -> np.ndarray:
    """Weights of queries `rows`, averaged over the heads that share keys."""
    heads = slice(own * GROUP, (own + 1) * GROUP)
    return found.layers[layer].weights[heads, rows].mean(dim=0).numpy()


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_snapkv_keeps_what_the_last_tokens_attend_to(
    pooling: str,
    spy: Spy,  # noqa: F811
) -> None:
    found, chosen = ran("snapkv", spy, pooling=pooling)
    [point] = spy.points
    rows, window = len(TEXT), chosen.window
    assert point.rows == rows
    for plane, kept in enumerate(point.kept):
        got = attention(found, *divmod(plane, KV_HEADS), slice(rows - window, rows)).sum(axis=0)
        padded = np.pad(got[: rows - window], 2)
        spans = np.lib.stride_tricks.sliding_window_view(padded, 5)
        pooled = spans.mean(axis=1) if pooling == "avg" else spans.max(axis=1)
        best = np.sort(np.argsort(-pooled, kind="stable")[: 8 - window])
        assert kept.tolist() == [*best, *range(rows - window, rows)]


def test_h2o_keeps_recent_rows_and_heavy_hitters(spy: Spy) -> None:  # noqa: F811
    found, _ = ran("h2o", spy)
    for plane in range(LAYERS * KV_HEADS):
        sums, seen, before = np.zeros(60), np.zeros(60), 0
        held = np.arange(0)
        for end in range(4, 37, 4):
            got = attention(found, *divmod(plane, KV_HEADS), slice(before, end))
            held = np.concatenate((held, np.arange(before, end)))
            sums[: got.shape[1]] += got.sum(axis=0)
            seen[held] += end - np.maximum(held, before)
            if len(held) > 8:
                old = held[:-4]
                merit = sums[old] / seen[old]
                held = np.concatenate((np.sort(old[np.argsort(-merit)[:4]]), held[-4:]))
                point = next(point for point in spy.points if point.rows == end)
                assert point.kept[plane].tolist() == held.tolist()
            before = end


def test_ends_are_first_and_recent_rows(spy: Spy) -> None:  # noqa: F811
    ran("streaming", spy)
    assert [point.rows for point in spy.points] == [12, 16, 20, 24, 28, 32, 36]
    for point in spy.points:
        for kept, turns in zip(point.kept, point.turns, strict=True):
            assert kept.tolist() == [0, 1, *range(point.rows - 6, point.rows)]
            assert (kept[:2] + turns).tolist() == [point.rows - 8, point.rows - 7]


@pytest.mark.parametrize("name", ["infllm", "actqkv"])
def test_blocks_are_chosen_by_what_the_latest_queries_fit(
    name: str,
    spy: Spy,  # noqa: F811
) -> None:
    found, _ = ran(name, spy)
    sinks, block, recent, probed = 2, 3, 4, 3
    layers = [_Blocks(found, layer, sinks, block) for layer in range(LAYERS)]
    points = {point.rows: point for point in spy.points}
    assert len(points) >= 5
    before = 0
    for end in range(4, 37, 4):
        scores = []
        for one in layers:
            one.weigh(before, end)
            one.form(end - recent)
            scores.append(one.scores(end, probed, activated=name == "actqkv"))
        before = end
        if end not in points:
            assert end <= 17
            continue
        room = (17 - sinks - recent - block) // block
        assert room == 2
        shares = [room] * LAYERS if name == "infllm" else _by_entropy(scores, room)
        for layer, one in enumerate(layers):
            blocks = np.sort(np.argsort(-scores[layer], kind="stable")[: shares[layer]])
            far = [*range(sinks), *(sinks + b * block + i for b in blocks for i in range(block))]
            begun = sinks + len(one.marks) * block
            for plane in (layer * KV_HEADS, layer * KV_HEADS + 1):
                point = points[end]
                assert point.kept[plane].tolist() == [*far, *range(begun, end)]
                assert (point.kept[plane][: len(far)] + point.turns[plane]).tolist() == [
                    begun
                ] * len(far)


class _Blocks:
    """Blocks of one layer, by the weights of the judge."""

    def __init__(self, found: Judged, layer: int, sinks: int, block: int) -> None:
        self.layer, self.sinks, self.block = found.layers[layer], sinks, block
        self.mass, self.marks = np.zeros(60), []

    def weigh(self, start: int, end: int) -> None:
        begun = self.sinks + len(self.marks) * self.block
        weights = self.layer.weights[:, start:end].clone().numpy()
        weights[:, :, :begun] = 0
        weights = weights[:, np.maximum(np.arange(start, end) - begun + 1, 0) > 0]
        weights = weights / weights.sum(axis=2, keepdims=True)
        shared = weights.reshape(KV_HEADS, GROUP, *weights.shape[1:]).mean(axis=1)
        self.mass[: shared.shape[2]] += shared.sum(axis=(0, 1))
        self.end = end

    def form(self, edge: int) -> None:
        first = self.sinks + len(self.marks) * self.block
        for begun in range(first, edge - self.block + 1, self.block):
            rows = np.arange(begun, begun + self.block)
            merit = self.mass[rows] / (self.end - rows)
            self.marks.append(np.sort(rows[np.argsort(-merit, kind="stable")[:2]]))

    def scores(self, end: int, probed: int, *, activated: bool) -> np.ndarray:
        latest = self.layer.queries[end - probed : end]
        if activated:
            bias = (latest - latest.mean(dim=0)).square().mean(dim=-1, keepdim=True)
            probe = (latest * bias / bias.sum(dim=0)).sum(dim=0)
        else:
            probe = latest.mean(dim=0)
        edge = self.sinks + len(self.marks) * self.block
        out = []
        for marks in self.marks:
            keys = turned(self.layer.keys[torch.from_numpy(marks)], [edge] * len(marks))
            wide = keys.repeat_interleave(GROUP, dim=1)
            out.append(float((wide * probe).sum()))
        return np.array(out)


def _by_entropy(scores: list[np.ndarray], room: int) -> list[int]:
    if not room or not len(scores[0]):
        return [room] * len(scores)
    shares = [np.exp(own - own.max()) / np.exp(own - own.max()).sum() for own in scores]
    spread = np.array([-(p * np.log(np.maximum(p, 1e-300))).sum() for p in shares])
    total = room * len(scores)
    exact = total * np.maximum(spread, 1e-12) / np.maximum(spread, 1e-12).sum()
    best, nearest = [], np.inf
    for first in range(1, 2 * room + 1):  # two layers: all ways to share out
        rest = total - first
        if 1 <= rest <= 2 * room:
            distance = (first - exact[0]) ** 2 + (rest - exact[1]) ** 2
            if distance < nearest - 1e-9:
                best, nearest = [first, rest], distance
    return best
