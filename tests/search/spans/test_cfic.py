"""CFIC, with a tokenizer whose tokens are single bytes: characters take one or two of them."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from outrider.core.errors import OptionError
from outrider.models.tabular import TabularModel
from outrider.search import Limits, SearchResult, Task, run_search
from outrider.search.account import SearchStoppedError
from outrider.search.spans.cfic import Cfic
from outrider.search.spans.sentences import sentences_of
from outrider.testing.searches import END, task

pytestmark = pytest.mark.method("cfic")

BYTES = b"\0ABCD. \xc3\x89\x88\n"
MODEL = TabularModel.random(vocab_size=len(BYTES), order=3, seed=1)
DOCUMENT = "AB BA. CAB DC. AB BA. BAA CC D. ABC. ÉAB. ÈDA CA. DAD. CAB BB. AB BA. AB"


class ByteCodec:
    """A tokenizer of bytes; the end token has no text."""

    has_chat = False

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(BYTES.index(byte) for byte in text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(BYTES[i] for i in ids if i != END).decode(errors="replace")

    def chat(self, messages: object) -> tuple[int, ...]:
        raise NotImplementedError


CODEC = ByteCodec()


def cfic_task(model: TabularModel = MODEL, *, document: str = DOCUMENT, **more: Any) -> Task:
    own = task(model, CODEC.encode(document + "\nAB"), **{"max_new_tokens": 200, **more})
    own.codec = CODEC
    return own


def found_in(
    model: TabularModel = MODEL, *, more: dict[str, Any] | None = None, **options: Any
) -> SearchResult:
    given = {"document": DOCUMENT, **options}
    own = cfic_task(model, document=given["document"], **(more or {}))
    return run_search(Cfic(**given), own, "test")


def logprobs(text: Sequence[int], model: TabularModel = MODEL) -> torch.Tensor:
    return model.logits_after(tuple(text)).log_softmax(-1)


def pairs(found: SearchResult) -> list[tuple[int, int]]:
    return [(int(one.about["begin"]), int(one.about["end"])) for one in found.candidates]  # type: ignore[call-overload]


def models() -> list[TabularModel]:
    """Random tables; in every third one a space is more probable."""
    found = [TabularModel.random(vocab_size=len(BYTES), order=3, seed=seed) for seed in range(9)]
    for model in found[::3]:
        model.table[..., BYTES.index(b" ")] += 5
    return found


@pytest.mark.parametrize("reach", [0, 8, 40])
@pytest.mark.parametrize("options", [{}, {"prefix": False}, {"skip": False}])
def test_spans_are_parts_of_the_document_at_its_sentences(
    reach: int, options: dict[str, bool]
) -> None:
    bounds = sentences_of(DOCUMENT)
    for model in models():
        found = found_in(model, spans=2, reach=reach, **options)
        assert 1 <= len(found.candidates) <= 2
        for one, (begin, end) in zip(found.candidates, pairs(found), strict=True):
            assert one.text == DOCUMENT[begin:end]
            assert CODEC.decode(one.token_ids) == one.text
            firsts = [(a, b) for a, b in bounds if a == begin]
            assert firsts and end in {b for _, b in bounds}
            if len(found.candidates) == 2:  # spans that overlap are joined
                assert len(CODEC.encode(DOCUMENT[firsts[0][1] : end])) <= reach


def by_hand(model: TabularModel, spans: int) -> list[tuple[int, float]]:
    """The beginnings, by texts instead of a tree and a cache: sentence and score."""
    prompt = CODEC.encode(DOCUMENT + "\nAB")
    bounds = sentences_of(DOCUMENT)
    first = logprobs(prompt, model).exp()
    variants = [[CODEC.encode(sign + DOCUMENT[a:]) for a, _ in bounds] for sign in ("", " ")]
    mass = [float(sum(first[t] for t in {one[0] for one in texts})) for texts in variants]
    texts = variants[mass[1] > mass[0]]
    tokens = sorted({one[0] for one in texts}, key=lambda t: -float(first[t]))[:spans]
    found = []
    for token in tokens:
        prefix, total = [token], [float(first[token].log())]
        while len(left := [i for i, t in enumerate(texts) if list(t[: len(prefix)]) == prefix]) > 1:
            row = logprobs((*prompt, *prefix), model)
            after = {texts[i][len(prefix)] for i in left if len(texts[i]) > len(prefix)}
            if any(len(texts[i]) == len(prefix) for i in left):
                break
            best = max(after, key=lambda t: float(row[t]))
            prefix.append(best)
            total.append(float(row[best]))
        found += [(i, sum(total) / len(total)) for i in left]
    return sorted(found, key=lambda pair: -pair[1])[:spans]


@pytest.mark.parametrize("spans", [1, 3])
def test_beginnings_are_decoded_among_the_sentences_that_are_left(spans: int) -> None:
    bounds = sentences_of(DOCUMENT)
    spaces = set()
    for model in models():
        found = found_in(model, spans=spans, reach=0)
        own = by_hand(model, spans)
        if len({i for i, _ in own}) == len(found.candidates):
            assert pairs(found) == [bounds[i] for i, _ in own]
            assert [one.score for one in found.candidates] == pytest.approx([s for _, s in own])
        spaces.add(by_hand_space(model))
    assert spaces == {False, True}  # some models begin with a space


def test_equal_sentences_are_told_apart_by_what_follows() -> None:
    """Three sentences `AB BA.` are followed by others, and are different places."""
    begun = [DOCUMENT.index("AB BA."), DOCUMENT.index("AB BA.", 5), DOCUMENT.rindex("AB BA.")]
    seen = set()
    for model in models():
        for begin, _ in pairs(found_in(model, spans=6, reach=0)):
            seen |= {begin} & set(begun)
    assert len(seen) > 1


def test_equal_beginnings_stand_for_all_their_places() -> None:
    found = found_in(document="AB BA. " * 100, spans=3, reach=0)
    starts = [begin for begin, _ in pairs(found)]
    assert len(set(starts)) == len(starts) == 3


@pytest.mark.parametrize("reach", [10, 30])
def test_a_span_ends_where_the_end_of_the_text_is_most_probable(reach: int) -> None:
    bounds = sentences_of(DOCUMENT)
    prompt = CODEC.encode(DOCUMENT + "\nAB")
    more = 0
    for model in models():
        found = found_in(model, spans=1, reach=reach)
        [(begin, end)] = pairs(found)
        first = next(i for i, (a, _) in enumerate(bounds) if a == begin)
        space = " " if by_hand_space(model) else ""
        ends = [
            b
            for _, b in bounds[first:]
            if len(CODEC.encode(DOCUMENT[bounds[first][1] : b])) <= reach
        ]
        texts = [CODEC.encode(space + DOCUMENT[begin:b]) for b in ends]
        values = [float(logprobs((*prompt, *text), model)[END]) for text in texts]
        assert end == ends[max(range(len(ends)), key=lambda i: values[i])]
        longest = found_in(model, spans=1, reach=reach, skip=False)
        assert pairs(longest) == [(begin, ends[-1])]
        more += end not in (ends[0], ends[-1])
    assert more or reach < 30


def by_hand_space(model: TabularModel) -> bool:
    row = logprobs(CODEC.encode(DOCUMENT + "\nAB"), model).exp()
    firsts = {CODEC.encode(DOCUMENT[a:b])[0] for a, b in sentences_of(DOCUMENT)}
    return float(row[CODEC.encode(" ")[0]]) > float(sum(row[t] for t in firsts))


def test_the_end_takes_one_forward_a_span() -> None:
    found = found_in(spans=1, reach=40)
    shorter = found_in(spans=1, reach=0)
    assert found.forwards == shorter.forwards + 1


def test_spans_that_overlap_are_joined() -> None:
    found = found_in(spans=6, reach=200, skip=False)
    assert len(found.candidates) == 1
    [(_, end)] = pairs(found)
    assert end == len(DOCUMENT)
    separate = found_in(spans=6, reach=0)
    assert found.best.score == pytest.approx(separate.best.score)


def test_the_cache_of_the_document_is_not_changed() -> None:
    own = cfic_task()
    cache = own.cache
    before = (list(cache.text), list(cache.pending), cache.fed, cache.num_speculative)
    Cfic(document=DOCUMENT).run(own)
    assert own.cache is cache
    assert (list(cache.text), list(cache.pending), cache.fed, cache.num_speculative) == before


def test_the_document_is_the_prompt_if_none_is_given() -> None:
    found = run_search(Cfic(reach=0), cfic_task(), "test")
    whole = DOCUMENT + "\nAB"
    own = run_search(Cfic(reach=0, document=whole), cfic_task(), "test")
    assert found.candidates == own.candidates
    assert all(one.text in whole for one in found.candidates)


def test_drafts_and_seeds_change_nothing() -> None:
    for options in ({}, {"prefix": False}):
        own = found_in(**options)
        for more in ({"drafted": True}, {"seed": 9}):
            assert found_in(more=more, **options).candidates == own.candidates


def test_a_limit_keeps_the_spans_that_are_done() -> None:
    whole = found_in(spans=3, reach=30)
    found = found_in(spans=3, reach=30, more={"limits": Limits(tokens=whole.tokens - 40)})
    assert "limit" in found.stopped and found.candidates
    with pytest.raises(SearchStoppedError, match="limit of 1"):
        found_in(more={"limits": Limits(tokens=1)})
    with pytest.raises(SearchStoppedError, match="cancelled"):
        found_in(more={"cancelled": lambda: True})


def test_options() -> None:
    for wrong in ({"spans": 0}, {"reach": -1}):
        with pytest.raises(OptionError):
            Cfic(**wrong)
    with pytest.raises(OptionError, match="no sentence"):
        found_in(document=" \n ")


@pytest.mark.parametrize("room", [1, 2, 4, 8, 11, 13, 20, 33])  # the last three: one too few
@pytest.mark.parametrize("skip", [True, False])
def test_nothing_is_read_beyond_the_window(room: int, skip: bool) -> None:
    """Beginnings that do not fit are told apart no further, and ends that do not are not found."""
    length = len(CODEC.encode(DOCUMENT + "\nAB"))
    table = TabularModel.random(vocab_size=len(BYTES), order=3, seed=1).table
    model = TabularModel(table, context_length=length + room)
    found = found_in(model, skip=skip)
    whole = found_in(skip=skip)
    assert found.candidates and not found.stopped
    assert set(pairs(found)) <= {
        (begin, end) for begin, _ in sentences_of(DOCUMENT) for _, end in sentences_of(DOCUMENT)
    }
    assert found.tokens <= whole.tokens
