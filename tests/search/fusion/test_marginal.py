"""The probability of bytes, by brute force."""

import itertools
import math
from collections.abc import Sequence

import pytest

from outrider.core.errors import ContextError, OptionError
from outrider.models.tabular import TabularModel
from outrider.search.account import Account, Limits, SearchStoppedError
from outrider.search.fusion.marginal import Marginal, Scored, Warp
from outrider.search.fusion.model import ByteModel
from outrider.search.fusion.vocabulary import ByteVocabulary
from tests.search.fusion.direct import TOKENS, exact, formula, standard, toy

TEXTS = [bytes(text) for n in range(1, 7) for text in itertools.product(b"ab", repeat=n)]


def scored(model: ByteModel, texts: Sequence[bytes], warp: Warp | None = None) -> list[Scored]:
    return Marginal(model, Account(), warp or Warp()).score(texts)


@pytest.mark.parametrize("seed", range(4))
def test_it_lies_between_the_tokens_alone_and_the_exact_probability(seed: int) -> None:
    model = toy(seed)
    above = below = 0
    for text, found in zip(TEXTS, scored(model, TEXTS), strict=True):
        low, high = standard(model, text), exact(model, text)
        own = math.exp(found.logprob)
        assert low - 1e-12 <= own <= high + 1e-12
        above += own > low * 1.01
        below += own < high * 0.99
    assert above > 60 and below > 60  # both differences are there


@pytest.mark.parametrize("warp", [Warp(), Warp(1.7, 2.0, 3), Warp(0.5, 0.8, 0), Warp(1.0, 1.5)])
def test_it_is_that_of_the_formula(warp: Warp) -> None:
    model = toy(3)
    for text, found in zip(TEXTS, scored(model, TEXTS, warp), strict=True):
        chance, length = formula(model, text, warp)
        assert found.logprob == pytest.approx(math.log(chance), abs=1e-9)
        assert found.length == length
        assert found.mean == pytest.approx(math.log(chance) / length, abs=1e-9)


def test_with_single_bytes_it_is_exact() -> None:
    model = toy(1, (b"", b"a", b"b"))
    for text, found in zip(TEXTS, scored(model, TEXTS), strict=True):
        assert math.exp(found.logprob) == pytest.approx(exact(model, text), rel=1e-12)
        assert found.length == len(text)


def test_bytes_without_a_token_count_the_tokens_that_begin_with_them() -> None:
    tokens = (b"", b"a", b"ab\xe6\x9d", b"\xe6\x9d\xb1", b"ab", b"b")
    model = toy(2, tokens)
    for text in (b"ab\xe6", b"\xe6", b"a\xe6\x9d", b"ab\xe6\x9d"):
        [found] = scored(model, [text])
        chance, length = formula(model, text)
        assert (found.logprob, found.length) == (pytest.approx(math.log(chance)), length)
    assert scored(model, [b"ab\xff"]) == [Scored(-math.inf, 1)]


def test_no_bytes_are_certain_and_read_nothing() -> None:
    account = Account()
    marginal = Marginal(toy(), account)
    assert marginal.score([b"", b""]) == [Scored(0.0, 0)] * 2
    assert account.forwards == 0 and Scored(0.0, 0).mean == 0.0


def test_a_text_that_goes_on_reads_its_new_tokens_only() -> None:
    model, account = toy(1), Account()
    marginal = Marginal(model, account)
    text = b"abbaabbabbaaab"
    for end in range(1, len(text) + 1):
        [found] = marginal.score([text[:end]])
        marginal.keep()
        assert found == scored(model, [text[:end]])[0]
        tokens, _ = model.vocabulary.encode(text[:end])
        assert len(marginal) <= len(tokens) + 2  # older beginnings are dropped
        kept = set(marginal._states)  # pyright: ignore[reportPrivateUsage]
        assert {key[:-1] for key in kept if key} <= kept  # what comes before one that is kept
    fresh = Marginal(model, Account())
    fresh.score([text])
    assert marginal.rows < 3 * fresh.rows
    assert account.tokens == marginal.rows + len(model.opening)


def test_texts_of_a_call_share_one_forward_and_their_beginnings() -> None:
    model, account = toy(1), Account()
    marginal = Marginal(model, account)
    texts = [b"abbab", b"abbaa", b"abbaba", b"bbbbb"]
    found = marginal.score(texts)
    assert account.forwards == 2  # the opening, and all texts
    beginnings = {
        tokens[:i]
        for tokens, _ in map(model.vocabulary.encode, texts)
        for i in range(1, len(tokens))
    }
    assert marginal.rows == len(beginnings)
    assert found == [scored(model, [text])[0] for text in texts]
    marginal.score(texts)
    assert account.forwards == 2


def test_dropped_beginnings_are_read_again() -> None:
    model = toy(1)
    marginal = Marginal(model, Account())
    texts = [b"ab" * 30, b"ba" * 30]
    expected = [scored(model, [text])[0] for text in texts]
    for turn in range(6):
        assert marginal.score([texts[turn % 2]]) == [expected[turn % 2]]
        marginal.keep()
    assert marginal.rows > 3 * 25


def test_the_context_comes_first() -> None:
    model = toy(2)
    tokens, _ = model.vocabulary.encode(b"abba")
    behind = ByteModel(model.model, model.vocabulary, (*model.opening, *tokens))
    found = Marginal(model, Account(), context="abba").score(TEXTS[:20])
    assert found == scored(behind, TEXTS[:20])
    assert found != scored(model, TEXTS[:20])


def test_limits_and_windows() -> None:
    limited = Marginal(toy(), Account(limits=Limits(tokens=1)))
    with pytest.raises(SearchStoppedError):
        limited.score([b"abab" * 8])
    narrow = ByteModel(
        TabularModel(TabularModel.random(vocab_size=len(TOKENS)).table, context_length=4),
        ByteVocabulary(TOKENS),
        (0,),
    )
    with pytest.raises(ContextError):
        scored(narrow, [b"b" * 20])


def test_a_model_needs_a_first_token() -> None:
    with pytest.raises(OptionError, match="no token that begins a text"):
        ByteModel(toy().model, ByteVocabulary(TOKENS), ())
