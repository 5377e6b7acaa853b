"""Rankers: scores that are finite, repeatable, and find what is meant."""

import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.context.config import ContextConfig
from outrider.context.rankers import bm25 as lexical
from outrider.context.rankers import sentence
from outrider.context.rankers.apce import BlendedRanker
from outrider.context.rankers.bm25 import Bm25Ranker
from outrider.context.rankers.cosine import CosineRanker
from outrider.context.rankers.embeddings import EmbeddingEncoder
from outrider.context.rankers.encoding import make_encoder
from outrider.context.rankers.make import make_ranker
from outrider.context.rankers.ranking import Index, Ranker
from outrider.context.rankers.sentence import SentenceEncoder
from outrider.context.selection import Selection
from outrider.core.errors import MissingExtraError, OptionError
from outrider.core.types import LongContext, Passage
from outrider.strategy.catalogue import names
from tests.context.test_encoders import embed, passages
from tests.context.texts import Words, document, holding

pytestmark = [
    pytest.mark.method("apce"),
    pytest.mark.method("static"),
    pytest.mark.method("cosine"),
    pytest.mark.method("bm25"),
    pytest.mark.method("first"),
    pytest.mark.method("ends"),
    pytest.mark.method("random"),
]

BELL = "The bell of Saint Anne was cast in 1742 by a founder from Bruges."
RECIPE = "For the plum sauce one needs vinegar, brown sugar and three cloves."
FACTS = {3: BELL, 8: RECIPE}
QUESTION = "Who cast the church bell of Saint Anne?"
ABOUT_THE_RECIPE = (
    "The bell was cast in 1742. Now for the cook: to prepare the sauce of plums, take sugar, "
    "vinegar and spices such as cloves, "
)


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


@pytest.fixture(scope="module")
def context(words: Words) -> LongContext:
    return document(words, FACTS, QUESTION)


def made(selector: str) -> Ranker:
    return make_ranker(ContextConfig(selector=selector))


def nameless(count: int = 20) -> LongContext:
    return LongContext(start=0, chunks=tuple(passages(count)), query=Passage("", (3, 5)))


@dataclass
class Vectors:
    """An encoder whose vectors are told by the first id, and which counts what it is asked."""

    table: np.ndarray
    name: str = "vectors"
    asked: list[int] = field(default_factory=list)

    def encode(self, passages: Sequence[Passage]) -> np.ndarray:
        self.asked.append(len(passages))
        return self.table[[p.token_ids[0] for p in passages]]


def one_each(count: int) -> LongContext:
    chunks = tuple(Passage("", (i,)) for i in range(count))
    return LongContext(start=0, chunks=chunks, query=Passage("", (0,)))


# -- all of them -------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("selector", names("selector"))
def test_scores_are_finite_and_repeatable(selector: str, context: LongContext) -> None:
    ranker = made(selector)
    assert isinstance(ranker, Ranker) and ranker.name == selector
    assert ranker.refreshes == (selector not in ("static", "first", "ends", "random"))
    index = ranker.index(context)
    assert isinstance(index, Index)
    for recent in (None, context.chunks[5], Passage("", ())):
        scores = index.scores(context.query, recent, 0.5)
        assert scores.shape == (len(context.chunks),) and scores.dtype == np.float64
        assert np.isfinite(scores).all() and np.abs(scores).max() <= 1
        again = made(selector).index(context).scores(context.query, recent, 0.5)
        np.testing.assert_array_equal(scores, again)
        assert ranker.refreshes or (scores == index.scores(context.query, None, 0.5)).all()


@pytest.mark.parametrize("selector", names("selector"))
def test_no_chunks_one_chunk_and_an_empty_question(selector: str) -> None:
    nothing = Passage("", ())
    for chunks in ((), (Passage("One chunk.", (1, 2)),), (nothing, nothing)):
        context = LongContext(start=0, chunks=chunks, query=nothing)
        scores = made(selector).index(context).scores(nothing, nothing, 0.5)
        assert scores.shape == (len(chunks),) and np.isfinite(scores).all()


@pytest.mark.parametrize("selector", ["apce", "bm25", "static"])
def test_the_fact_that_is_asked_for_comes_first(selector: str, context: LongContext) -> None:
    scores = made(selector).index(context).scores(context.query, None, 0.5)
    assert int(scores.argmax()) == holding(context, BELL)


@pytest.mark.parametrize(("selector", "kept"), [("apce", 0.4), ("bm25", 0.3)])
@pytest.mark.parametrize("asked", [BELL, RECIPE])
def test_the_need_turns_to_another_fact(
    selector: str, kept: float, asked: str, words: Words
) -> None:
    """A forced continuation: what is written depends on no model."""
    context = document(words, FACTS, QUESTION)
    config = ContextConfig(keep_ratio=kept, refresh=16, query_window=24, selector=selector)
    selection = Selection(context, make_ranker(config).index(context), config, context.num_tokens)
    wanted = holding(context, RECIPE)
    assert holding(context, BELL) in selection.begin().chosen and wanted not in selection.chosen
    written = words.passage(ABOUT_THE_RECIPE if asked == RECIPE else BELL + " " + BELL)
    for decisions in (1, 2):
        tokens = written.token_ids[: 16 * decisions][-config.query_window :]
        selection.refresh(16 * decisions, Passage(words.decode(tokens), tokens))
    assert (wanted in selection.chosen) == (asked == RECIPE)
    assert len(selection.decisions) == 3


# -- blends ---------------------------------------------------------------------------------------


def test_a_blend_by_hand() -> None:
    """Of what a chunk scores, its successor has a part."""
    told = [np.array([0.1, 0.8, 0.2, -0.5]), np.array([0.0, 1.0, 0.5, 0.0])]

    class Told:
        encoder_name = None
        encoder = None
        name = "told"
        refreshes = True

        def __init__(self, scores: np.ndarray) -> None:
            self.told, self.seen = scores, []

        def index(self, context: LongContext) -> "Told":
            return self

        def scores(self, query: Passage, recent: Passage | None, mix: float) -> np.ndarray:
            self.seen.append(recent)
            return self.told

    context, nothing = one_each(4), Passage("", ())
    blend = BlendedRanker(Told(told[0]), Told(told[1]), words=0.25, succession=0.5)
    scores = blend.index(context).scores(nothing, nothing, 0.5)
    np.testing.assert_allclose(scores, [0.075, 0.85, 0.425, 0.1375])
    alone = replace(blend, lexical=None, succession=0.0, refreshes=False)
    meaning = alone.meaning
    assert isinstance(meaning, Told)
    np.testing.assert_array_equal(
        alone.index(context).scores(nothing, nothing, 0.5), [0.1, 0.8, 0.2, 0.0]
    )
    assert meaning.seen == [nothing, None]


# -- cosines -----------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([1e-3, 1.0, 70.0]), min_size=6, max_size=6))
def test_cosines_know_no_lengths(lengths: list[float]) -> None:
    table = np.random.default_rng(1).normal(size=(6, 4))
    context = one_each(6)

    def ask(vectors: np.ndarray) -> np.ndarray:
        index = CosineRanker(Vectors(vectors)).index(context)
        return index.scores(context.query, context.chunks[1], 0.3)

    np.testing.assert_allclose(ask(table * np.array(lengths)[:, None]), ask(table), atol=1e-12)


def test_the_query_is_mixed_of_unit_vectors() -> None:
    context = one_each(2)
    index = CosineRanker(Vectors(np.array([[5.0, 0.0], [0.0, 0.1]]))).index(context)
    query, recent = context.chunks
    np.testing.assert_allclose(index.scores(query, recent, 1.0), [1, 0])
    np.testing.assert_allclose(index.scores(query, recent, 0.0), [0, 1])
    np.testing.assert_allclose(index.scores(query, recent, 0.75), np.array([3, 1]) / 10**0.5)
    np.testing.assert_allclose(index.scores(query, None, 0.0), [1, 0])


def test_each_thing_is_encoded_once() -> None:
    encoder, context = Vectors(np.eye(4)), one_each(4)
    ranker = CosineRanker(encoder)
    index = ranker.index(context)
    assert encoder.asked == [] and ranker.index(context) is index
    index.scores(context.query, None, 0.5)
    assert encoder.asked == [4, 1]
    for recent in (context.chunks[1], context.chunks[1], context.chunks[2]):
        ranker.index(context).scores(context.query, recent, 0.5)
    assert encoder.asked == [4, 1, 1, 1]


def test_what_is_known_of_an_input_goes_with_it() -> None:
    for ranker in (CosineRanker(Vectors(np.eye(4))), Bm25Ranker()):
        context = one_each(4)
        index = weakref.ref(ranker.index(context))
        ranker.index(context).scores(context.query, context.chunks[1], 0.5)
        del context
        gc.collect()
        assert index() is None


def test_a_window_finds_what_a_whole_chunk_hides(words: Words) -> None:
    context = document(words, {4: BELL}, QUESTION, size=200)
    encoder, at = SentenceEncoder(), holding(context, BELL)

    def lead(window: int | None) -> float:
        scores = CosineRanker(encoder, window=window).index(context)
        found = scores.scores(context.query, None, 0.5)
        return found[at] - np.delete(found, at).max()

    assert lead(16) > lead(None) + 0.1


def test_embeddings_rank_ids_without_a_text() -> None:
    context = nameless()
    index = CosineRanker(EmbeddingEncoder(embed)).index(context)
    scores = index.scores(context.chunks[7], None, 0.5)
    assert int(scores.argmax()) == 7 and scores[7] == pytest.approx(1.0)


# -- words and ids -----------------------------------------------------------------------------


def test_bm25_reads_ids_where_there_is_no_text() -> None:
    context = nameless()
    scores = Bm25Ranker().index(context).scores(context.chunks[7], None, 0.5)
    assert int(scores.argmax()) == 7 and scores[7] == 1.0 and scores.min() >= 0


def test_bm25_mixes_instruction_and_recent_words() -> None:
    chunks = tuple(Passage(text, (0,)) for text in ("A red fox.", "Blue Whales!", "nothing"))
    context = LongContext(start=0, chunks=chunks, query=Passage("fox", (1,)))
    scores = Bm25Ranker().index(context).scores(context.query, Passage("blue WHALES", ()), 0.75)
    np.testing.assert_allclose(scores, [0.75, 0.25, 0.0])


def test_words_of_scripts_without_spaces() -> None:
    chunks = tuple(Passage(text, (0,)) for text in ("我喜欢猫。", "天气很好", "東京"))
    context = LongContext(start=0, chunks=chunks, query=Passage("猫在哪里", (1,)))
    assert Bm25Ranker().index(context).scores(context.query, None, 0.5).tolist() == [1, 0, 0]


# -- baselines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "queue"), [("first", [0, 1, 2, 3, 4]), ("ends", [0, 4, 1, 3, 2])]
)
def test_orders(selector: str, queue: list[int]) -> None:
    context = one_each(5)
    scores = made(selector).index(context).scores(context.query, None, 0.5)
    assert np.argsort(-scores).tolist() == queue


def test_random_follows_the_seed() -> None:
    def ask(seed: int) -> list[float]:
        ranker = make_ranker(ContextConfig(selector="random", seed=seed))
        return ranker.index(one_each(9)).scores(Passage("", ()), None, 0.5).tolist()

    assert ask(1) == ask(1) != ask(2)
    assert len(set(ask(1))) == 9


# -- by name -----------------------------------------------------------------------------------


def test_auto_takes_what_is_there(monkeypatch: Any) -> None:
    assert make_encoder("auto", embed).name == "embeddings"
    assert make_encoder("auto").name == "minilm"
    monkeypatch.setattr(sentence, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"outrider\[context\]"):
        make_ranker(ContextConfig())


def test_encoders_by_name_and_by_hand() -> None:
    assert make_ranker(ContextConfig(encoder="some/folder")).encoder_name == "some/folder"
    assert make_encoder("embeddings", embed).name == "embeddings"
    own = Vectors(np.eye(2))
    assert make_encoder(own) is own
    with pytest.raises(OptionError, match=r"input embeddings.*minilm"):
        make_encoder("embeddings")
    with pytest.raises(OptionError, match="encoder is 3"):
        make_encoder(3)


def test_bm25_that_is_not_installed(monkeypatch: Any) -> None:
    monkeypatch.setattr(lexical, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"bm25s.*outrider\[context\]"):
        made("bm25")


def test_what_is_public_can_be_imported_from_the_package() -> None:
    import outrider.context as package

    assert all(getattr(package, name).__name__ == name for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing
