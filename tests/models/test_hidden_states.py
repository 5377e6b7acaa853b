"""Hidden states of chosen layers: every runner gives what `transformers` gives.

The compiled runner in int8 has its own states, since it rounds the inputs of its matrices as well:
they are compared with float32 loosely, and with its own parts (`test_layers.py`) exactly.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from outrider import kernels
from outrider.core.errors import OptionError, StrategyError
from outrider.core.layers import LayerSet
from outrider.core.types import NO_IDS, IntArray, Prompt, Rows, as_ids
from outrider.models.cpu.threads import Threads
from outrider.models.tabular import TabularModel
from outrider.models.transformers.model import TransformersModel
from outrider.models.wrappers.skipping import SkippingModel
from outrider.protocols import Segment
from tests.models.setups.built import RUNS
from tests.models.setups.drafts import TREE_PARENTS, TREE_TOKENS
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.pairs import Pair, Pairs
from tests.models.setups.reference import apart, begin, close, random_ids
from tests.models.setups.runners import (
    COMPILED,
    LIKE_LLAMA,
    OTHERS,
    RUNNERS,
    load,
    pair_cases,
    runner_cases,
)

CASES = (
    pair_cases(LIKE_LLAMA, ("decoder", "native", "static"))
    + pair_cases(OTHERS, ("native",))
    + pair_cases(OTHERS, ("decoder", "static"), slow=True)
    + pair_cases(("llama",), ("transformers",))
    + pair_cases([kind for kind in RUNS if kind != "llama"], ("transformers",))
)
LAYERS = 4
TEXT = random_ids(12)


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, pairs: Pairs) -> Pair:
    return pairs.of(*request.param)


def states_of(
    model: Any,
    cache: Any,
    tokens: Sequence[int] | IntArray = NO_IDS,
    parents: IntArray | None = None,
    layers: Sequence[int] | None = None,
) -> Rows:
    """The row after the text and those of `tokens`, with the states of all layers or of some."""
    shows = model.hidden_states
    shows.watch(cache, range(shows.num_layers + 1) if layers is None else layers)
    first = cache.num_speculative
    want = first + np.arange(len(tokens)) if first else np.arange(-1, len(tokens))
    [rows] = model.forward([Segment(cache, as_ids(tokens), parents)], [want])
    return rows


# -- what transformers gives ---------------------------------------------------------------------


def test_of_a_prompt_and_a_chain(pair: Pair) -> None:
    model, reference = pair
    text = random_ids(30)
    whole = reference.states(text)
    assert (model.hidden_states.num_layers, model.hidden_states.width) == (2, whole.shape[2])
    cache = begin(model, text[:1])
    model.hidden_states.watch(cache, range(3))
    [prompt] = model.forward([Segment(cache, as_ids(text[1:20]))], [np.arange(-1, 19)])
    [chain] = model.forward([Segment(cache, as_ids(text[20:]))], [np.arange(19, 29)])
    close(prompt.states, whole[:, :20])
    close(chain.states, whole[:, 20:])


def test_of_a_tree(pair: Pair) -> None:
    model, reference = pair
    expected = reference.node_states(TEXT, TREE_TOKENS, TREE_PARENTS)
    rows = states_of(model, begin(model, TEXT), TREE_TOKENS, TREE_PARENTS)
    close(rows.states, expected)
    several = begin(model, TEXT[:9])
    several.commit(as_ids(TEXT[9:]))
    first = states_of(model, several, TREE_TOKENS[:4], TREE_PARENTS[:4])
    close(first.states, expected[:, :5])
    model.hidden_states.watch(several, [2, 0])
    second = Segment(several, TREE_TOKENS[4:], TREE_PARENTS[4:])
    [rows] = model.forward([second], [as_ids([12, 4, 7])])
    close(rows.states, expected[[2, 0]][:, [13, 5, 8]])


def test_kept_ones_are_those_of_the_text(pair: Pair) -> None:
    """They follow the rows of the cache: a prompt, an accepted branch, a fork, and a cut text."""
    model, reference = pair
    if isinstance(model, TransformersModel):
        with pytest.raises(StrategyError, match="stores no hidden states"):
            model.hidden_states.keeping([1])
        return
    keeping = model.hidden_states.keeping([2, 0, 1])
    shows, cache = keeping.hidden_states, begin(keeping, TEXT)
    keeping.forward([Segment(cache, TREE_TOKENS, TREE_PARENTS)], [as_ids([-1])])
    path = [next(i for i, p in enumerate(TREE_PARENTS) if p == -1 and i)]  # not the first child
    path += [i for i, p in enumerate(TREE_PARENTS) if p == path[0]][:1]
    cache.commit(as_ids([*TREE_TOKENS[path], 7]))
    whole = reference.states(cache.text)[[2, 0, 1]].transpose(0, 1)
    close(shows.kept(cache, 0, cache.length), whole[:-1])
    fork = cache.fork()
    fork.truncate(6)
    keeping.forward([Segment(fork, as_ids([3, 4]))], [as_ids([-1])])
    fork.commit(as_ids([3, 4, 5]))
    close(shows.kept(fork, 5, 8), reference.states(fork.text)[[2, 0, 1]].transpose(0, 1)[5:8])
    close(shows.kept(cache, 0, cache.length), whole[:-1])
    with pytest.raises(IndexError):
        shows.kept(cache, 0, cache.length + 1)
    with pytest.raises(StrategyError, match="stores no hidden states"):
        model.hidden_states.kept(begin(model, TEXT), 0, 1)


def test_a_wrong_layer_would_show(pair: Pair) -> None:
    """What the comparisons above allow is far less than what a mistaken number makes."""
    model, reference = pair
    states, expected = states_of(model, begin(model, TEXT)).states, reference.states(TEXT)[:, -1:]
    for ours in range(3):
        for theirs in range(3):
            (close if ours == theirs else apart)(states[ours], expected[theirs])
    raw = reference.states(TEXT[:-1])[:, -1:]
    for layer in range(1, 3):
        apart(states[layer], raw[layer])


# -- on every runner ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(
        tmp_path_factory.mktemp("model"), "llama", num_hidden_layers=LAYERS, std=0.25
    )


@pytest.fixture(scope="module", params=runner_cases(RUNNERS))
def model(request: Any, folder: Path) -> Any:
    model = load(request.param, folder, torch.float32)
    if request.param in COMPILED:
        model.threads = Threads.fixed(2)
    return model


def same(ours: Tensor, theirs: Tensor, model: Any) -> None:
    """To the bit where the runner promises that, else within rounding."""
    close(ours, theirs, 0.0 if model.info.batch_invariant else 1e-4)


def test_choosing_layers_chooses_and_changes_nothing(model: Any) -> None:
    cache = begin(model, TEXT)
    plain = model.forward([Segment(cache, TREE_TOKENS, TREE_PARENTS)], [np.arange(-1, 13)])[0]
    assert plain.states is None
    cache.commit(())
    whole = states_of(model, cache, TREE_TOKENS, TREE_PARENTS)
    same(whole.logits, plain.logits, model)
    for layers in ([0], [LAYERS], [3, 1], [2, 2, 4], [0, 1, 2, 3, 4]):
        cache.commit(())
        rows = states_of(model, cache, TREE_TOKENS, TREE_PARENTS, layers)
        same(rows.states, whole.states[layers], model)
        same(rows.logits, plain.logits, model)
    same(whole.states[LAYERS], whole.hidden, model)
    same(whole.states[0], model.embed(as_ids([TEXT[-1], *TREE_TOKENS.tolist()])), model)
    cache.commit(())
    model.hidden_states.watch(cache, None)
    assert model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])[0].states is None


def test_a_row_does_not_depend_on_its_batch(model: Any) -> None:
    texts, layers = [TEXT[:n] for n in (2, 7, 12, 5)], ([1, 4], None, [0, 3, 2], [4])
    alone: list[Any] = []
    for text, chosen in zip(texts, layers, strict=True):
        cache = begin(model, text)
        model.hidden_states.watch(cache, chosen)
        alone += model.forward([Segment(cache, TREE_TOKENS, TREE_PARENTS)], [np.arange(-1, 13)])
    caches = [begin(model, text) for text in texts]
    for cache, chosen in zip(caches, layers, strict=True):
        model.hidden_states.watch(cache, chosen)
    want = [np.arange(-1, 13), as_ids([0]), as_ids([12, -1, 5]), np.arange(-1, 13)]
    together = model.forward([Segment(c, TREE_TOKENS, TREE_PARENTS) for c in caches], want)
    for one, other, rows in zip(alone, together, want, strict=True):
        same(other.logits, one.logits[rows + 1], model)
        if one.states is None:
            assert other.states is None
        else:
            same(other.states, one.states[:, rows + 1], model)


def test_of_a_part_of_the_layers(model: Any) -> None:
    """A layer that is left out leaves what it got; the last state is normed."""
    cache = begin(model, TEXT)
    part = model.subset(LayerSet.skipping(LAYERS, attention=[1, 3], mlp=[1, 3]))
    assert part.hidden_states is not None
    states = states_of(part, model.borrow(cache), (3, 4)).states
    assert torch.equal(states[2], states[1]) and not torch.equal(states[3], states[2])
    logits = states_of(part, model.borrow(cache), (3, 4), None, [3]).logits
    same(model.read_out(states[3]), logits, model)
    apart(states[4], states[3])


def test_a_fork_and_a_new_text_are_not_watched(model: Any) -> None:
    cache = begin(model, TEXT)
    model.hidden_states.watch(cache, [1])
    assert model.forward([Segment(cache.fork(), NO_IDS)], [as_ids([-1])])[0].states is None
    [again] = model.start([Prompt(token_ids=TEXT)], [cache])
    assert model.forward([Segment(again, NO_IDS)], [as_ids([-1])])[0].states is None


def test_what_is_not_there_is_refused(model: Any) -> None:
    cache = begin(model, TEXT)
    for wrong in (-1, LAYERS + 1):
        with pytest.raises(OptionError, match=str(wrong)):
            model.hidden_states.watch(cache, [0, wrong])
        with pytest.raises(OptionError, match=str(wrong)):
            model.hidden_states.keeping([0, wrong])
    if not isinstance(model, TransformersModel):
        with pytest.raises(OptionError, match="hold one of them twice"):
            model.hidden_states.keeping([1, 2, 1])
    with pytest.raises(StrategyError, match="another model has filled"):
        model.hidden_states.watch(begin(TabularModel.random(), (1, 2)), [0])


def test_of_a_model_that_goes_on_with_fewer_layers(model: Any) -> None:
    skipping = SkippingModel(model, speedup=2.0)
    cache = begin(skipping, TEXT)
    first = states_of(skipping, cache)
    whole = states_of(model, begin(model, TEXT))
    same(first.states, whole.states, model)
    rows = states_of(skipping, begin(skipping, TEXT), (5, 6))
    same(rows.states[:, :1], whole.states, model)
    assert torch.equal(rows.states[2, 1:], rows.states[1, 1:])  # layer 2 is left out


@pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())
def test_int8_is_near_float32(pairs: Pairs) -> None:
    """Measured: 1.7 % of the spread of each layer; another layer is off by 77 % at least."""
    model, reference = load("int8", pairs.checkpoint("llama")), pairs.of("llama", "decoder")[1]
    ours = states_of(model, begin(model, TEXT), TREE_TOKENS, TREE_PARENTS).states
    theirs = reference.node_states(TEXT, TREE_TOKENS, TREE_PARENTS)
    for i in range(3):
        for k in range(3):
            off = float((ours[i] - theirs[k]).std() / theirs[k].std())
            assert off <= 0.03 if i == k else off > 0.5


def test_the_comparison_notices_a_runner_that_is_off_by_one(pairs: Pairs) -> None:
    """A broken copy of the readable decoder, which shows each layer's output one number late."""
    model, reference = pairs.of("llama", "decoder")
    rows = states_of(model, begin(model, TEXT), TREE_TOKENS, TREE_PARENTS)
    late = replace(rows, states=rows.states[[0, 0, 1]])
    expected = reference.node_states(TEXT, TREE_TOKENS, TREE_PARENTS)
    close(rows.states, expected)
    with pytest.raises(AssertionError):
        close(late.states, expected)
