"""What must hold of Clover heads (Clover-2, arXiv 2408.00264)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from outrider.core.errors import CheckpointError, ContextError
from outrider.core.types import NO_IDS, as_ids
from outrider.models.heads.clover.config import ENTER, STEP
from outrider.models.heads.clover.model import CloverModel
from outrider.models.heads.clover.module import CloverModule
from outrider.protocols import Segment
from tests.models.heads.clover.setups import SHAPES, clover_config, clover_numbers, clover_rig
from tests.models.heads.setups import VOCAB, Rig, close, last_row, make_target, random_text

pytestmark = pytest.mark.method("clover")

TEXT = random_text(12)
EXACT = 2e-5
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def rigs(folder: Path) -> dict[str, Rig]:
    return {name: clover_rig(folder, name) for name in SHAPES}


@pytest.fixture(scope="module", params=list(SHAPES))
def rig(request: Any, rigs: dict[str, Rig]) -> Rig:
    return rigs[request.param]


def heads_of(rig: Rig) -> CloverModule:
    assert isinstance(rig.module, CloverModule)
    return rig.module


# -- the paper's definition, in numpy ---------------------------------------------------------


def rms(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def linear(found: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return x @ found[f"{name}.weight"].T + found[f"{name}.bias"]


def merged(rig: Rig, found: Arrays, name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`x + concat_j(cos(Q_j RMS(x), K_j y) * V_j y)`."""
    layer = rig.config.layer
    query = linear(found, f"{name}.query", rms(x, found[f"{name}.norm.weight"], layer.norm_eps))
    key, value = (linear(found, f"{name}.{part}", y) for part in ("key", "value"))
    out = x.copy()
    for part in np.split(np.arange(len(x)), layer.num_heads):
        gate = query[part] @ key[part]
        gate /= np.linalg.norm(query[part]) * np.linalg.norm(key[part])
        out[part] += gate * value[part]
    return out


def by_hand(rig: Rig, drafted: tuple[int, ...]) -> np.ndarray:
    """The logits of the heads without an augmenting block, along a chain."""
    found: Arrays = {name: one.double().numpy() for name, one in rig.tensors.items()}
    eps, embed = rig.config.layer.norm_eps, rig.teacher.embed.double().numpy()
    cache = rig.reads(TEXT)
    states = rig.head._states.kept(cache, len(TEXT) - 2, len(TEXT) - 1)
    x = merged(rig, found, ENTER, states[0, 0].double().numpy(), embed[TEXT[-1]])
    x = rms(x, found["norm.weight"], eps)
    predicted = [linear(found, "first", x)]
    for token in drafted:
        y = embed[token]
        x = merged(rig, found, STEP, x, y)
        predicted.append(linear(found, "later", np.concatenate((x, y))))
    rows = rig.teacher.lm_head[rig.tensors["ids"].long()].double().numpy()
    return rms(np.stack(predicted), found["head_norm.weight"], eps) @ rows.T


def test_heads_compute_what_the_paper_defines(rigs: dict[str, Rig]) -> None:
    rig, drafted = rigs["clover-plain"], (5, 9, 3)
    ids = rig.tensors["ids"].long()
    rows = rig.rows(rig.follows(TEXT), drafted)
    assert rows.shape == (4, VOCAB) and int(torch.isfinite(rows[0]).sum()) == len(ids)
    close(rows[:, ids].double(), torch.from_numpy(by_hand(rig, drafted)), 1e-4)


def pairs(rig: Rig, count: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (count, rig.config.width)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("name", [ENTER, STEP])
def test_gates_lie_between_minus_one_and_one(rigs: dict[str, Rig], name: str) -> None:
    """One for each attention head, whatever the sizes of state and token are."""
    heads, (state, word) = heads_of(rigs["clover"]), pairs(rigs["clover"])
    with torch.no_grad():
        gates = heads.gates(name, state, word)
        wide = heads.gates(name, 50 * state, 50 * word)
    assert gates.shape == (200, rigs["clover"].config.layer.num_heads)
    for one in (gates, wide):
        assert float(one.abs().max()) <= 1 + 1e-6
        assert float(one.min()) < -0.5 and float(one.max()) > 0.5


@pytest.mark.parametrize("name", [ENTER, STEP])
def test_a_merge_without_values_is_the_identity(folder: Path, name: str) -> None:
    zero = {f"{name}.value.weight": torch.zeros(32, 32), f"{name}.value.bias": torch.zeros(32)}
    rig = clover_rig(folder, **zero)
    state, word = pairs(rig)
    with torch.no_grad():
        assert torch.equal(heads_of(rig).merged(name, state, word), state)
        other = ENTER if name == STEP else STEP
        assert not torch.allclose(heads_of(rig).merged(other, state, word), state, atol=0.1)


# -- what the paper's parts do ----------------------------------------------------------------


def test_only_the_augmenting_block_reads_the_text_before(rigs: dict[str, Rig]) -> None:
    """Without it, the last state and the last token are all that a draft reads of the text."""
    for name, rig in rigs.items():
        source = rig.reads(TEXT)
        late = rig.head.follow(source)
        late.commit(as_ids(TEXT[1:]))
        whole = last_row(rig, late)
        # what the head reads of earlier places changes, but not the last state
        states = rig.head._states
        kept = states.kept(source, 0, len(TEXT) - 1).clone()
        kept[:-1] += 1.0
        patched = pytest.MonkeyPatch()
        patched.setattr(rig.head, "_states", Replaced(kept))
        other = rig.head.follow(source)
        other.commit(as_ids(TEXT[1:]))
        changed = not torch.allclose(last_row(rig, other), whole)
        patched.undo()
        assert changed == (name != "clover-plain"), name


class Replaced:
    """Hidden states that are given, in place of those of a cache."""

    def __init__(self, states: Tensor) -> None:
        self.states = states

    def kept(self, _: Any, start: int, stop: int) -> Tensor:
        return self.states[start:stop]


def test_later_heads_read_the_token_drafted_before(rigs: dict[str, Rig]) -> None:
    """The regressive connection; heads without it differ by their place only."""
    for name, rig in rigs.items():
        ids = rig.tensors["ids"].long()
        ours, theirs = (rig.rows(rig.follows(TEXT), (t, 2))[:, ids] for t in (5, 6))
        assert torch.equal(ours[0], theirs[0])
        reads = name != "clover-parallel"
        for row in (1, 2):  # the token two places before as well, through the state
            assert torch.allclose(ours[row], theirs[row], atol=1e-3) != reads, (name, row)
        assert not torch.allclose(ours[1], ours[2], atol=1e-3)


def test_nodes_of_a_tree_read_their_own_path(rig: Rig) -> None:
    """In one forward, in several ones, and along chains; siblings share the state above them."""
    tokens, parents = (5, 6, 7, 8, 9), (-1, -1, 0, 1, 0)
    tree = rig.rows(rig.follows(TEXT), tokens, parents)
    cache = rig.follows(TEXT)
    parts = [rig.rows(cache), rig.rows(cache, (5, 6), (-1, -1))]
    parts.append(rig.rows(cache, (7, 8, 9), (0, 1, 0)))
    close(torch.cat(parts), tree, EXACT)
    for path, rows in (((5, 7), (0, 1, 3)), ((6, 8), (0, 2, 4)), ((5, 9), (0, 1, 5))):
        close(rig.rows(rig.follows(TEXT), path), tree[list(rows)], EXACT)


def test_rows_of_drafted_tokens_leave_nothing_behind(rig: Rig) -> None:
    """After a round the text is read as if nothing had been drafted, in parts and at once."""
    whole = last_row(rig, rig.follows(TEXT))
    cache = rig.head.follow(rig.reads(TEXT))
    cache.commit(as_ids(TEXT[1:5]))
    rig.head.forward([Segment(cache, NO_IDS)], [NO_IDS])
    cache.commit(as_ids(TEXT[5:]))
    close(last_row(rig, cache), whole, EXACT)
    source = rig.reads(TEXT[:-2])
    cache = rig.head.follow(source)
    cache.commit(as_ids(TEXT[1:-2]))
    rig.rows(cache, (9, 9))
    rig.target.forward([Segment(source, as_ids(TEXT[-2:-1]))], [as_ids([0])])
    source.commit(as_ids(TEXT[-2:]))
    cache.commit(as_ids(TEXT[-2:]))
    close(last_row(rig, cache), whole, EXACT)
    again = rig.head.follow(rig.reads(TEXT), TEXT[1:], cache)
    assert again is cache
    again.commit(as_ids(TEXT[1 + len(again.text) :]))
    close(last_row(rig, again), whole, EXACT)


def test_no_more_tokens_than_heads(rigs: dict[str, Rig]) -> None:
    """Heads that share their weights draft any number of tokens."""
    parallel, plain = rigs["clover-parallel"], rigs["clover"]
    cache = parallel.follows(TEXT)
    assert cache.longest == 3 and plain.follows(TEXT).longest is None
    parallel.rows(cache, (1, 2))
    with pytest.raises(ContextError, match="drafts at most 3 tokens after a text, and token 4"):
        parallel.rows(cache, (3,))
    assert plain.rows(plain.follows(TEXT), (1,) * 9).shape[0] == 10


def test_what_it_stores_and_costs(rigs: dict[str, Rig], folder: Path) -> None:
    sizes = {name: rig.head.info.bytes_per_token for name, rig in rigs.items()}
    one = sizes["clover-one"]
    assert sizes == {
        "clover": 2 * one,
        "clover-one": one,
        "clover-plain": 0,
        "clover-parallel": one,
    }
    few = [clover_rig(folder, "clover-parallel", heads) for heads in (1, 2)]
    for rig in (*rigs.values(), *few):  # fewer heads than steps that are measured
        assert isinstance(rig.head, CloverModel) and rig.head.draft_seconds() > 0
        with pytest.raises(Exception, match="reads hidden states of its target"):
            rig.head.start([])


def test_shapes_that_do_not_fit(rigs: dict[str, Rig]) -> None:
    layer = rigs["clover"].teacher.config
    wide = clover_config(layer, target_width=layer.hidden_size + 4)
    with pytest.raises(CheckpointError, match="width 32, and its target"):
        wide.check(clover_numbers(wide), "h")
    config = clover_config(layer)
    with pytest.raises(CheckpointError, match=r"lacks tensor later\.weight"):
        found = clover_numbers(config)
        del found["later.weight"]
        config.check(found, "h")
