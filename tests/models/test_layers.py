"""Models made of a part of another model's layers, and caches borrowed from it: every runner."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from outrider import kernels
from outrider.core.errors import OptionError, StrategyError
from outrider.core.layers import LayerSet
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cpu.threads import Threads
from outrider.models.cuda.decoder import StaticDecoder
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.models.transformers.model import TransformersModel
from outrider.protocols import ChainRequest, LanguageModel, Layered, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.models.setups.invariants import assert_equals_fresh_prefill
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.runners import RUNNERS, load, runner_cases

LAYERS = 4
TEXT = (5, 9, 40, 3, 17, 21)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return make_checkpoint(
        tmp_path_factory.mktemp("model"),
        "llama",
        num_hidden_layers=LAYERS,
        vocab_size=48,
        std=0.25,
        dtype=torch.float64,
    )


@pytest.fixture(scope="module", params=runner_cases(RUNNERS))
def model(request: Any, folder: Path) -> Any:
    model = load(request.param, folder)
    if request.param == "native":
        model.threads = Threads.fixed(2)
    return model


@pytest.fixture(scope="module")
def eager(folder: Path) -> Decoder:
    return Decoder.load(folder, dtype=torch.float64)


def begin(model: Any, text: tuple[int, ...] = TEXT) -> Any:
    [cache] = model.start([Prompt(token_ids=text)])
    return cache


def read(model: Any, cache: Any, tokens: tuple[int, ...] = ()) -> torch.Tensor:
    [rows] = model.forward([Segment(cache, as_ids(tokens))], [np.arange(-1, len(tokens))])
    return rows.logits


def slack(model: Any) -> float:
    return 1e-9 if model.dtype == torch.float64 else 2e-3 if model.dtype == torch.float32 else 1.5


# -- models ------------------------------------------------------------------------------------


def test_models_say_what_they_can(model: Any) -> None:
    assert isinstance(model.layered, Layered) and model.layered.num_layers == LAYERS
    assert isinstance(model.subset(LayerSet.exit_at(LAYERS, 1)), LanguageModel)
    with pytest.raises(OptionError, match="6 layers"):
        model.subset(LayerSet.exit_at(6, 1))


def test_skipping_nothing_changes_nothing(model: Any) -> None:
    whole = model.subset(LayerSet.everything(LAYERS))
    expected = read(model, begin(model), (1, 2))
    exact = 0.0 if not isinstance(model, StaticDecoder) else 1e-9  # another path through a model
    for cache in (model.borrow(begin(model)), begin(whole)):
        assert float((read(whole, cache, (1, 2)) - expected).abs().max()) <= exact


halves = st.tuples(st.sets(st.integers(0, LAYERS - 1)), st.sets(st.integers(0, LAYERS - 1))).filter(
    lambda pair: any(pair)
)


@pytest.fixture(scope="module")
def parts_of_eager(eager: Decoder) -> Callable[[LayerSet], torch.Tensor]:
    """What `eager` without some layers says; each set of layers is run once for all runners."""

    @functools.cache
    def logits(layers: LayerSet) -> torch.Tensor:
        return read(eager.subset(layers), eager.borrow(begin(eager)), (1, 2, 3))

    return logits


@settings(max_examples=25)
@given(halves)
def test_any_set_is_the_same_model_in_every_runner(
    parts_of_eager: Callable[[LayerSet], torch.Tensor], model: Any, kept: Any
) -> None:
    """Against the eager decoder, whose layers are added one by one below."""
    layers = LayerSet(num_layers=LAYERS, attention=tuple(kept[0]), mlp=tuple(kept[1]))
    expected = parts_of_eager(layers)
    ours = read(model.subset(layers), model.borrow(begin(model)), (1, 2, 3))
    allowed = 1e-5 if isinstance(model, TransformersModel) else slack(model)  # norms in float32
    assert float((ours.double() - expected).abs().max()) <= allowed


@pytest.mark.parametrize("half", ["attention", "mlp"])
def test_a_half_left_out_adds_nothing(folder: Path, half: str, tmp_path: Path) -> None:
    """The same model whose half gives zeros by its weights."""
    whole, zeroed = (Decoder.load(folder, dtype=torch.float64) for _ in range(2))
    weights = zeroed.weights.layers[2]
    linear: Any = weights.output if half == "attention" else weights.down
    linear.weight.zero_()
    part = whole.subset(LayerSet.skipping(LAYERS, **{half: [2]}))
    ours, theirs = (read(m, begin(m), (1, 2)) for m in (part, zeroed))
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert not torch.allclose(ours, read(whole, begin(whole), (1, 2)), atol=1e-3)


def test_exits_are_what_layers_hand_on(model: Any) -> None:
    cache = begin(model)
    model.hidden_states.watch(cache, range(1, LAYERS))
    tree = Segment(cache, as_ids([7, 8, 9]), as_ids([-1, -1, 1]))
    [rows] = model.forward([tree], [as_ids([2, -1, 1])])
    assert rows.states is not None and rows.states.shape[:2] == (LAYERS - 1, 3)
    cache.commit(())
    model.hidden_states.watch(cache, None)
    borrowed = model.borrow(cache)
    for depth in range(1, LAYERS):
        part = model.subset(LayerSet.exit_at(LAYERS, depth))
        tree = Segment(borrowed, as_ids([7, 8, 9]), as_ids([-1, -1, 1]))
        [drafted] = part.forward([tree], [as_ids([2, -1, 1])])
        borrowed.commit(())
        assert drafted.states is None
        exits = model.read_out(rows.states[depth - 1])
        assert float((exits - drafted.logits).abs().max()) <= 1e-9
    assert model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])[0].states is None


def test_read_out_of_many_rows_and_of_none(model: Any) -> None:
    width = model.hidden_size if isinstance(model, TransformersModel) else model.config.hidden_size
    states = torch.randn(150, width, dtype=torch.float64).to(
        torch.float32 if isinstance(model, NativeDecoder) else torch.float64
    )
    many = model.read_out(states)
    assert many.shape == (150, 48)
    assert float((model.read_out(states[100:103]) - many[100:103]).abs().max()) <= 1e-9
    assert model.read_out(states[:0]).shape == (0, 48)


# -- weights and memory ------------------------------------------------------------------------


@pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())
def test_compiled_parts_point_to_the_same_weights(folder: Path) -> None:
    model = NativeDecoder.load(folder, dtype=torch.int8, threads=1)
    part = model.subset(LayerSet.skipping(LAYERS, attention=[1], mlp=[2]))
    whole, own = model._packed.layout, part._packed.layout
    for ours, index in zip(range(own.num_layers), (0, 1, 2, 3), strict=True):
        for name in ("qkv", "output", "gate_up", "down"):
            matrices = [getattr(m.layers[i], name) for m, i in ((own, ours), (whole, index))]
            first, second = (matrix[0] if name == "qkv" else matrix for matrix in matrices)
            assert first.data == second.data
    assert own.head.data == whole.head.data and own.embed.data == whole.embed.data
    assert 0 < part.info.weight_bytes < model.info.weight_bytes
    assert model.subset(LayerSet.exit_at(LAYERS, 1)).info.weight_bytes < part.info.weight_bytes


def test_eager_parts_hold_the_same_weights(eager: Decoder) -> None:
    part = eager.subset(LayerSet.exit_at(LAYERS, 2))
    assert part.weights is eager.weights
    assert [layer.weights for layer in part._layers] == eager.weights.layers[:2]


def test_borrowing_takes_no_rows(model: Any) -> None:
    cache = begin(model)
    read(model, cache, (1, 2, 3))
    cache.commit([1])
    before = cache.storage
    borrowed = [model.borrow(cache) for _ in range(50)]
    if isinstance(model, TransformersModel):
        assert all(b.nbytes == 0 for b in borrowed)
        return
    assert all(b.storage is before for b in borrowed) and len(before.readers) == 1
    read(model.subset(PARTS[1]), borrowed[0], (4, 5))
    assert cache.storage is before


# -- borrowed caches ---------------------------------------------------------------------------


PARTS = [
    LayerSet.everything(LAYERS),
    LayerSet.exit_at(LAYERS, 2),
    LayerSet.skipping(LAYERS, attention=[0, 2], mlp=[1]),
]


@settings(max_examples=8)
@given(data=st.data())
def test_a_borrowed_cache_follows_and_never_harms(model: Any, data: Any) -> None:
    """Rounds of drafting, verifying, committing, cutting, forking; drafts equal those of a fresh
    borrower, and committed rows stay those of a fresh prefill."""
    cache = begin(model, TEXT[: data.draw(st.integers(1, 6))])
    tokens = st.lists(st.integers(0, 47), min_size=1, max_size=5)
    borrowed, kept = model.borrow(cache), []
    for _ in range(data.draw(st.integers(1, 6))):
        match data.draw(st.sampled_from(["round", "round", "draft", "cut", "fork"])):
            case "cut":
                cache.truncate(data.draw(st.integers(1, len(cache.text))))
            case "fork":
                kept.append(cache.fork())  # shares storage until one of the two writes
            case kind:
                part = model.subset(data.draw(st.sampled_from(PARTS)))
                chain = tuple(data.draw(tokens))
                if borrowed.fed:
                    borrowed.commit(())
                ours = read(part, borrowed, chain)
                fresh = begin(model, tuple(cache.text))
                theirs = read(part, model.borrow(fresh), chain)
                assert float((ours - theirs).abs().max()) <= slack(model)
                assert borrowed.num_speculative == len(chain)
                if kind == "round":
                    verified = data.draw(tokens)
                    read(model, cache, tuple(verified))
                    cache.commit([*verified[: data.draw(st.integers(0, len(verified)))], 1])
                    assert not borrowed.fed
        assert tuple(borrowed.text) == tuple(cache.text)
        assert tuple(borrowed.pending) == tuple(cache.pending)
        assert borrowed.length == cache.length and borrowed.remaining == cache.remaining
        assert_equals_fresh_prefill(model, cache, tolerance=slack(model))
    for one in kept:  # what harmed one of them earlier is still there
        assert_equals_fresh_prefill(model, one, tolerance=slack(model))


def test_rows_outlive_a_move_of_the_storage(model: Any) -> None:
    cache = begin(model)
    borrowed, part = model.borrow(cache), model.subset(PARTS[1])
    read(part, borrowed, (1, 2))
    many = tuple(i % 48 for i in range(200))  # more slots than were allocated
    ours = model_rows(part, borrowed, many)
    theirs = model_rows(part, model.borrow(begin(model)), (1, 2, *many))[2:]
    assert float((ours - theirs).abs().max()) <= slack(model)
    assert_equals_fresh_prefill(model, cache, tolerance=slack(model))


def model_rows(part: Any, cache: Any, tokens: tuple[int, ...]) -> torch.Tensor:
    first = cache.num_speculative
    [rows] = part.forward([Segment(cache, as_ids(tokens))], [first + np.arange(len(tokens))])
    return rows.logits


def test_two_borrowers_take_turns(model: Any) -> None:
    cache = begin(model)
    one, two = model.borrow(cache), model.borrow(cache)
    part = model.subset(PARTS[1])
    expected = read(part, one, (1, 2))
    read(part, two, (3, 4))
    assert not one.fed and one.num_speculative == 0 and one.match_prefix([1, 2]) == []
    assert torch.equal(read(part, one, (1, 2)), expected)


def test_nothing_is_read_over_uncommitted_rows(model: Any) -> None:
    cache = begin(model)
    borrowed = model.borrow(cache)
    expected = read(model, cache, (1, 2))
    with pytest.raises(RuntimeError, match="uncommitted rows"):
        read(model.subset(PARTS[1]), borrowed)
    cache.commit(())
    assert torch.equal(read(model, cache, (1, 2)), expected)


def test_only_owners_are_cut_and_forked_and_lend(model: Any, eager: Decoder) -> None:
    borrowed = model.borrow(begin(model))
    for wrong in (lambda: borrowed.truncate(1), borrowed.fork):
        with pytest.raises(RuntimeError):
            wrong()
    for foreign in (borrowed, begin(eager)):
        with pytest.raises(StrategyError, match="another model has filled"):
            model.borrow(foreign)


def test_tables_lend_books() -> None:
    model = TabularModel.random()
    cache = begin(model, (1, 2, 3))
    borrowed = model.borrow(cache)
    assert torch.equal(read(model, borrowed, (1, 2)), read(model, cache, (1, 2)))
    cache.commit([1, 4])
    assert tuple(borrowed.text) == (1, 2, 3, 1, 4) and not borrowed.fed


# -- writing -----------------------------------------------------------------------------------


@pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())
@pytest.mark.parametrize("confidence", [0.0, 0.25, 0.5])
def test_writes_over_a_part_what_a_loop_would(folder: Path, confidence: float) -> None:
    model = NativeDecoder.load(folder, dtype=torch.int8, threads=1)
    part = model.subset(PARTS[2])
    cache = begin(model)
    sampler = Sampler(SamplingParams(temperature=0.9, seed=3))
    expected: list[int] = []
    chances: list[float] = []
    looped = model.borrow(cache)
    segment, row = Segment(looped, NO_IDS), -1
    while len(expected) < 12 and not (chances and chances[-1] < confidence):
        [rows] = part.forward([segment], [as_ids([row])])
        expected.append(sampler.choose(rows.logits[0], [0] * len(expected)))
        chances.append(float((rows.logits[0] / 0.9).softmax(-1).max()))
        row, segment = looped.num_speculative, Segment(looped, as_ids(expected[-1:]))
    written = model.borrow(cache)
    segment = Segment(written, NO_IDS)
    [tokens] = part.write_chains([ChainRequest(segment, sampler, [], 12)], confidence) or []
    assert tokens.tolist() == expected
    assert (len(expected) < 12) == (confidence > 0)
    assert_equals_fresh_prefill(model, cache, tolerance=0.0)


# -- models that cannot -----------------------------------------------------------------------


def test_other_architectures_are_taken_apart() -> None:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=3, n_embd=16, n_head=2, vocab_size=40, n_positions=64)
    model = TransformersModel(GPT2LMHeadModel(config).double())
    part = model.subset(LayerSet.skipping(3, attention=[1], mlp=[1]))
    cache = begin(model, (1, 2, 3))
    assert read(part, model.borrow(cache), (4,)).shape == (2, 40)
    assert_equals_fresh_prefill(model, cache)


def test_what_can_not_be_taken_apart_is_refused_by_name() -> None:
    torch.manual_seed(0)
    config = OPTConfig(
        num_hidden_layers=2,
        hidden_size=16,
        ffn_dim=16,
        num_attention_heads=2,
        vocab_size=40,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
    )
    model = TransformersModel(OPTForCausalLM(config).double(), name="opt")
    with pytest.raises(StrategyError, match="opt cannot draft with its own layers"):
        model.subset(LayerSet.exit_at(2, 1))
