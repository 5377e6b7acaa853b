"""Draft models with a reduced output vocabulary (FR-Spec, arXiv 2502.14856)."""

import numpy as np
import pytest
import torch

import outrider
from outrider import kernels
from outrider.core.errors import OptionError
from outrider.core.layers import LayerSet
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cpu.reduced import first_tokens, with_vocabulary
from outrider.models.sources.families import family
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no compiled kernels")

TEXT = tuple(range(60, 90))
IDS = np.arange(5, 4096, 3)
SETTINGS = {"max_new_tokens": 60}


@pytest.fixture(scope="module", params=[torch.float32, torch.int8], ids=["float32", "int8"])
def model(request: pytest.FixtureRequest) -> NativeDecoder:
    return NativeDecoder.load(family("tiny")["draft"], dtype=request.param, threads=1)


def rows(model: NativeDecoder, tokens: tuple[int, ...] = (7, 8)) -> torch.Tensor:
    [cache] = model.start([Prompt(token_ids=TEXT)])
    want = np.arange(-1, len(tokens))
    return model.forward([Segment(cache, as_ids(tokens))], [want])[0].logits


def test_logits_of_its_tokens_are_those_of_the_model(model: NativeDecoder) -> None:
    few, whole = rows(with_vocabulary(model, IDS)), rows(model)
    assert few.shape == whole.shape
    limit = {"rtol": 0, "atol": 1e-5 if model.dtype == torch.float32 else 0.05}
    torch.testing.assert_close(few[:, IDS], whole[:, IDS], **limit)
    others = np.setdiff1d(np.arange(whole.shape[1]), IDS)
    assert (few[:, others] == -torch.inf).all()


def test_the_whole_vocabulary_changes_nothing(model: NativeDecoder) -> None:
    everything = with_vocabulary(model, np.arange(model.info.vocab_size))
    assert torch.equal(rows(everything), rows(model))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_compiled_chain_equals_a_loop_of_forwards(
    model: NativeDecoder, temperature: float
) -> None:
    few = with_vocabulary(model, IDS)
    params = SamplingParams(temperature=temperature, seed=3, banned_tokens=(int(IDS[40]),))
    sampler = Sampler(params)
    [cache] = few.start([Prompt(token_ids=TEXT)])
    [written] = few.write_chains([ChainRequest(Segment(cache, NO_IDS), sampler, (), 6)]) or [NO_IDS]
    [cache] = few.start([Prompt(token_ids=TEXT)])
    by_hand: list[int] = []
    for _ in range(6):
        [out] = few.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
        by_hand.append(sampler.choose(out.logits[0], by_hand))
        cache.commit(as_ids(by_hand[-1:]))
    assert written.tolist() == by_hand
    assert set(by_hand) <= set(IDS.tolist())


def test_the_head_that_reads_states_is_whole(model: NativeDecoder) -> None:
    """Drafting with layers of the same model reads the whole head."""
    states = torch.randn(3, model.width)
    few = with_vocabulary(model, IDS)
    assert torch.equal(few.read_out(states), model.read_out(states))


def test_a_subset_of_layers_keeps_the_vocabulary(model: NativeDecoder) -> None:
    few = with_vocabulary(model, IDS)
    layers = LayerSet.exit_at(model.num_layers, 1)
    part, whole = rows(few.subset(layers)), rows(model.subset(layers))
    assert part.shape == whole.shape and (part[:, IDS[0] + 1] == -torch.inf).all()
    limit = {"rtol": 0, "atol": 1e-5 if model.dtype == torch.float32 else 0.05}
    torch.testing.assert_close(part[:, IDS], whole[:, IDS], **limit)


def test_rows_of_the_head_are_those_of_all_tokens(model: NativeDecoder) -> None:
    again = with_vocabulary(with_vocabulary(model, IDS), IDS[:40])
    assert torch.equal(again.head_rows([0, 4095]), model.head_rows([0, 4095]))
    assert torch.equal(
        rows(again)[:, IDS[:40]], rows(with_vocabulary(model, IDS[:40]))[:, IDS[:40]]
    )


def test_end_tokens_are_kept() -> None:
    assert first_tokens(4, 100, (50, 2, 1000)).tolist() == [0, 1, 2, 3, 50]
    assert first_tokens(1000, 10, ()).tolist() == list(range(10))


@pytest.mark.parametrize("ids", [[], [3, 2], [3, 3], [-1, 4], [4, 5000]])
def test_wrong_ids_are_refused(model: NativeDecoder, ids: list[int]) -> None:
    with pytest.raises(OptionError, match="ascending list"):
        with_vocabulary(model, as_ids(ids))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_fewer_tokens_lower_the_acceptance_and_not_the_text(temperature: float) -> None:
    found = {}
    for count in (None, 300, 8):
        generator = outrider.load(
            "tiny",
            qualifier="none",
            drafter="model",
            draft_vocabulary=count,
            threads=1,
            guard="off",  # which decides by the clock
        )
        results = [
            generator.generate(
                "Once upon a time", max_new_tokens=60, temperature=temperature, seed=s
            )
            for s in range(3)
        ]
        accepted = sum(r.speculation.target.accepted for r in results)
        found[count] = [r.token_ids for r in results], accepted
    assert found[8][0] == found[300][0] == found[None][0]
    assert found[8][1] < found[300][1] <= found[None][1] + 5


def test_it_needs_a_draft_model() -> None:
    with pytest.raises(OptionError, match="draft_vocabulary is 100"):
        outrider.load("tiny", qualifier="none", draft="none", draft_vocabulary=100)
    with pytest.raises(OptionError, match=r"qualifier .*is not one"):  # it verifies
        outrider.load("tiny", draft="none", draft_vocabulary=100)
    with pytest.raises(OptionError, match="draft_vocabulary"):
        outrider.load("tiny", draft_vocabulary=0)
