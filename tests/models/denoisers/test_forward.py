"""Forwards of denoisers of each kind against a plain computation, and batches of readings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from outrider.core.types import IntArray
from outrider.models.denoisers.loading import is_denoiser, load_denoiser
from outrider.models.denoisers.runner import MaskedDenoiser
from outrider.protocols import Denoiser, Reading, RowStore
from tests.models.denoisers.reference import DREAM, LLADA, MASK, OWN, Plain, text, written

KINDS = {
    "own": OWN,
    "own, shifted": {**OWN, "shifted_logits": True},
    "own, tied": {**OWN, "tie_word_embeddings": True},
    "own, biases": {**OWN, "attention_bias": True},
    "Dream": DREAM,
    "LLaDA": LLADA,
    "LLaDA, shared keys": {**LLADA, "n_kv_heads": None, "multi_query_attention": True},
    "LLaDA, scaled": {**LLADA, "scale_logits": True, "input_emb_norm": True},
    "LLaDA, biases": {**LLADA, "include_qkv_bias": True},
    "LLaDA, tied": {**LLADA, "weight_tying": True, "mlp_hidden_size": None, "mlp_ratio": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_positions_are_those_of_a_plain_forward(kind: str, tmp_path: Path) -> None:
    folder = written(tmp_path, KINDS[kind])
    model, plain, ids = load_denoiser(folder, dtype="float64"), Plain(folder), text(13)
    assert is_denoiser(folder)
    assert isinstance(model, Denoiser)
    (got,) = model.read([Reading(ids=ids, want=np.arange(13))])
    torch.testing.assert_close(got, plain.logits(ids), rtol=1e-9, atol=1e-9)
    assert (got[:, MASK] == -torch.inf).all()


@pytest.mark.parametrize("shifted", [False, True])
def test_wanted_positions_are_those_of_the_whole_text(tmp_path: Path, shifted: bool) -> None:
    folder = written(tmp_path, {**OWN, "shifted_logits": shifted})
    model, ids = load_denoiser(folder, dtype="float64"), text(11)
    want = np.array([0, 3, 4, 10])
    (got,) = model.read([Reading(ids=ids, want=want)])
    torch.testing.assert_close(got, Plain(folder).logits(ids)[want], rtol=1e-9, atol=1e-9)


def readings(model: MaskedDenoiser, ids: IntArray, *, stored: bool) -> list[Reading]:
    """Branches of one text: equal shapes, another token at one position."""
    store = model.new_store(len(ids)) if stored else None
    rows = np.arange(4, 9) if stored else None
    if store is not None:
        model.read([Reading(ids=ids, want=np.arange(0), store=store, keep=np.arange(len(ids)))])
    want, branches = np.array([5, 7]), []
    for token in (8, 9, 10):
        own = ids.copy()
        own[6] = token
        branches.append(Reading(ids=own, want=want, rows=rows, store=store))
    return branches


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_a_batch_is_its_readings_alone(tmp_path: Path, shifted: bool, stored: bool) -> None:
    model = load_denoiser(written(tmp_path, {**OWN, "shifted_logits": shifted}), dtype="float64")
    many = readings(model, text(12), stored=stored)
    before = model.forwards
    together = model.read(many)
    assert model.forwards == before + 1
    for one, own in zip(many, together, strict=True):
        torch.testing.assert_close(own, model.read([one])[0], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(together[0][:, 4:], together[1][:, 4:], atol=1e-4)


def test_texts_with_stores_of_their_own_keep_their_own_rows(tmp_path: Path) -> None:
    """Readings of several lengths and stores in one call, in any order of shapes."""
    model = load_denoiser(written(tmp_path, OWN), dtype="float64")
    texts = [text(length, seed) for seed, length in enumerate((9, 12, 9, 12, 5))]
    alone, shared = ([model.new_store(len(ids)) for ids in texts] for _ in range(2))

    def asked(ids: IntArray, store: RowStore, rows: IntArray | None) -> Reading:
        keep = np.arange(0, len(ids), 2) if rows is None else rows[1:]
        return Reading(ids=ids, want=keep, rows=rows, store=store, keep=keep)

    for rows in (None, np.array([1, 3, 4]), np.array([0, 2])):
        one = [model.read([asked(i, s, rows)])[0] for i, s in zip(texts, alone, strict=True)]
        all_ = model.read([asked(i, s, rows) for i, s in zip(texts, shared, strict=True)])
        for got, wanted in zip(all_, one, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    for left, right in zip(alone, shared, strict=True):
        assert left.positions.tolist() == right.positions.tolist()


def test_counts_of_rows_include_those_that_a_shift_adds(tmp_path: Path) -> None:
    for shifted, rows in ((False, 2), (True, 4)):
        folder = written(tmp_path / str(shifted), {**OWN, "shifted_logits": shifted})
        model, want = load_denoiser(folder), np.array([3, 6])
        model.read([Reading(ids=text(9), want=want, rows=want)])
        assert (model.forwards, model.computed_rows) == (1, rows)


def test_nothing_wanted_computes_nothing(tmp_path: Path) -> None:
    model, none = load_denoiser(written(tmp_path, OWN)), np.arange(0)
    (got,) = model.read([Reading(ids=text(5), want=none, rows=none)])
    assert got.shape == (0, 29)
    assert model.forwards == 0
    assert model.read([]) == []


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_layers_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    given = OWN if kind == "llama" else DREAM
    folder = written(tmp_path, {**given, "tie_word_embeddings": False})
    model, ids = load_denoiser(folder), text(10)
    (got,) = model.read([Reading(ids=ids, want=np.arange(10))])
    known = {k: v for k, v in given.items() if k not in ("model_type", "mask_token_id")}
    known["tie_word_embeddings"] = False
    made = (LlamaConfig if kind == "llama" else Qwen2Config)(**known)
    theirs = AutoModelForCausalLM.from_config(made, attn_implementation="eager").eval()
    theirs.load_state_dict(load_file(folder / "model.safetensors"))
    seen = torch.zeros(1, 1, 10, 10)  # added to the scores: no row is hidden
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(ids)[None], attention_mask=seen).logits[0]
    if kind == "qwen2":
        wanted = torch.cat((wanted[:1], wanted[:-1]))
    wanted[:, MASK] = -torch.inf
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_one_store_is_read_at_other_positions_by_each_text(tmp_path: Path) -> None:
    """As many rows are computed and read, but not the same ones."""
    model, ids = load_denoiser(written(tmp_path, OWN), dtype="float64"), text(12)
    store = model.new_store(12)
    model.read([Reading(ids=ids, want=np.arange(0), store=store, keep=np.arange(12))])
    many = [
        Reading(ids=ids, want=rows, rows=rows, store=store)
        for rows in (np.arange(3, 6), np.arange(7, 10), np.array([0, 4, 11]))
    ]
    for one, got in zip(many, model.read(many), strict=True):
        torch.testing.assert_close(got, model.read([one])[0], rtol=1e-12, atol=1e-12)
