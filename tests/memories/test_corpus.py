"""The datastore of REST: sorting, searching, writing; against looking at every place."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError, StoreError, VocabularyError
from outrider.memories import store
from outrider.memories.corpus import Corpus, sorted_suffixes
from outrider.memories.store import StorePage, read_page, size_on_disk

DOCUMENTS = st.lists(st.lists(st.integers(0, 2), max_size=30), min_size=1, max_size=4).filter(any)
PAGE = StorePage(kind="rest", fingerprint="a" * 64, vocab_size=9, tokens=3, documents=1)


@given(tokens=st.lists(st.integers(-1, 3), min_size=1, max_size=60), depth=st.integers(1, 9))
def test_suffixes_are_in_order(tokens: list[int], depth: int) -> None:
    order = sorted_suffixes(np.array(tokens, dtype=np.int32), depth).tolist()
    assert sorted(order) == list(range(len(tokens)))
    keys = [tokens[place : place + depth] for place in order]
    assert keys == sorted(keys)


@given(documents=DOCUMENTS, gram=st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_retrieval_equals_brute_force(documents, gram) -> None:
    """Spec B2 (d): all places of a query, and what follows there, in order."""
    corpus = Corpus.build(documents)
    match = corpus.find(gram)
    n, flat = len(gram), list(chain.from_iterable([*d, -1] for d in documents))
    places = [i for i in range(len(flat)) if flat[i : i + n] == gram]
    assert len(match) == len(places)
    following = corpus.continuations(match, most=100, size=4).tolist()
    expected = [(flat[i + n : i + n + 4] + [-1] * 4)[:4] for i in places]
    cut = [row[: row.index(-1)] if -1 in row else row for row in following]
    assert sorted(cut) == sorted(row[: row.index(-1)] if -1 in row else row for row in expected)
    assert cut == sorted(cut), "rows that agree stand side by side"


@given(
    documents=DOCUMENTS,
    recent=st.lists(st.integers(0, 2), max_size=12),
    least=st.integers(1, 3),
    most=st.integers(3, 8),
)
def test_the_longest_suffix_equals_brute_force(documents, recent, least, most) -> None:
    corpus = Corpus.build(documents)
    match = corpus.longest(recent, most=most, least=least)
    lengths = range(min(most, len(recent)), least - 1, -1)
    best = next((n for n in lengths if len(corpus.find(recent[-n:]))), 0)
    assert (match.length if match else 0) == best


def test_many_places_are_sampled_evenly() -> None:
    corpus = Corpus.build([[700, i] for i in range(100)])
    found = corpus.continuations(corpus.find([700]), most=10, size=1)
    assert found[:, 0].tolist() == list(range(0, 100, 10))


def test_large_vocabularies() -> None:
    corpus = Corpus.build([[255_999, 151_935, 65_536, 0, 255_999, 151_935, 3]])
    match = corpus.longest([1, 255_999, 151_935])
    assert match is not None and match.length == 2
    assert corpus.continuations(match, most=9, size=2).tolist() == [[3, -1], [65_536, 0]]


def test_written_and_mapped_it_is_the_same(tmp_path: Path) -> None:
    corpus = Corpus.build([[1, 2, 3, 1, 2, 4], [1, 2, 3]])
    corpus.write(tmp_path / "store", PAGE)
    opened = Corpus.open(tmp_path / "store", fingerprint=PAGE.fingerprint)
    for name, array in corpus.arrays.items():
        assert np.array_equal(array, opened.arrays[name]) and array.dtype == np.int32
        assert not opened.arrays[name].flags.writeable
    assert opened.find([1, 2]) == corpus.find([1, 2])
    assert opened.nbytes == corpus.nbytes == 4 * (9 + 2) + 4 * 9 < size_on_disk(tmp_path / "store")
    assert read_page(tmp_path / "store") == PAGE


def test_what_can_not_be_used_is_refused(tmp_path: Path) -> None:
    """Issue, item 6: a store from another tokenizer is refused by its fingerprint."""
    place = tmp_path / "store"
    with pytest.raises(StoreError, match="no store at"):
        Corpus.open(place)
    corpus = Corpus.build([[1, 2]])
    corpus.write(place, PAGE)
    with pytest.raises(VocabularyError, match=r"another tokenizer.*aaaaaaaaaaaa"):
        Corpus.open(place, fingerprint="b" * 64)
    with pytest.raises(StoreError, match="already exists"):
        corpus.write(place, PAGE)
    corpus.write(place, PAGE, force=True)
    other = tmp_path / "other"
    corpus.write(other, replace(PAGE, kind="sam"))
    with pytest.raises(StoreError, match="kind 'sam'"):
        Corpus.open(other)
    (place / "order.npy").write_bytes(b"no array")
    with pytest.raises(StoreError, match="damaged"):
        Corpus.open(place)
    page = json.loads((other / store.PAGE).read_text())
    (other / store.PAGE).write_text(json.dumps({**page, "version": 99}))
    with pytest.raises(StoreError, match="version 99"):
        Corpus.open(other)
    (other / store.PAGE).write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        Corpus.open(other)
    with pytest.raises(StoreError, match="is not a store"):
        (tmp_path / "mine").mkdir()
        corpus.write(tmp_path / "mine", PAGE, force=True)


def test_a_damaged_store_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    """Cut short in copying, mixed up, of other types, or with a page that says anything."""
    place, other = tmp_path / "store", tmp_path / "other"
    corpus = Corpus.build([[1, 2, 3, 1, 2]])
    corpus.write(place, PAGE)
    Corpus.build([list(range(50))]).write(other, PAGE)
    whole = {file: file.read_bytes() for file in place.iterdir()}

    def refused(name: str, content: bytes, match: str) -> None:
        (place / name).write_bytes(content)
        with pytest.raises(StoreError, match=match):
            Corpus.open(place)
        (place / name).write_bytes(whole[place / name])

    refused("order.npy", whole[place / "order.npy"][:-4], "damaged")
    refused("tokens.npy", b"", "damaged")
    refused("order.npy", (other / "order.npy").read_bytes(), "do not fit together")
    np.save(tmp_path / "wide.npy", corpus.arrays["order"].astype(np.int64))
    refused("order.npy", (tmp_path / "wide.npy").read_bytes(), "int64")
    np.save(tmp_path / "table.npy", corpus.arrays["order"][:, None])
    refused("order.npy", (tmp_path / "table.npy").read_bytes(), "one row")
    for page in (b"[1]", b"null", b"{}", b'"x"', b"\xff"):
        refused(store.PAGE, page, "damaged")
    newer = json.dumps({"version": 2, "unheard_of": True}).encode()
    refused(store.PAGE, newer, "version 2")
    (place / "tokens.npy").unlink()
    with pytest.raises(StoreError, match="missing"):
        Corpus.open(place)


def test_a_store_that_can_not_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "store"
    Corpus.build([[1, 2]]).write(place, PAGE)
    rename = Path.rename

    def stuck(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stuck)
    with pytest.raises(StoreError, match="busy"):
        Corpus.build([[3, 4, 5]]).write(place, PAGE, force=True)
    monkeypatch.undo()
    assert len(Corpus.open(place)) == 2 and list(tmp_path.iterdir()) == [place]
    Corpus.build([[3, 4, 5]]).write(place, PAGE, force=True)
    assert len(Corpus.open(place)) == 3 and list(tmp_path.iterdir()) == [place]


def test_of_a_link_the_folder_behind_it_is_replaced(tmp_path: Path) -> None:
    place, link = tmp_path / "store", tmp_path / "link"
    Corpus.build([[1, 2]]).write(place, PAGE)
    link.symlink_to(place)
    Corpus.build([[3, 4, 5]]).write(link, PAGE, force=True)
    assert link.is_symlink() and len(Corpus.open(place)) == 3


def test_a_place_that_can_not_be_written_is_known_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="not a folder"):
        store.refuse_taken(tmp_path / "file" / "store", force=False)
    store.refuse_taken(tmp_path / "new" / "deep", force=False)
    monkeypatch.setattr(store.os, "access", lambda place, mode: place != tmp_path)
    with pytest.raises(StoreError, match="read-only"):
        store.refuse_taken(tmp_path / "new" / "deep", force=False)


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus.build([[1, 2]])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.np, "save", full)
    with pytest.raises(StoreError, match="No space left"):
        corpus.write(tmp_path / "store", PAGE)
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_without_tokens_or_with_strange_ones_is_refused() -> None:
    for documents in ([], [[]], [[], []]):
        with pytest.raises(StoreError, match="no token"):
            Corpus.build(documents)
    with pytest.raises(OptionError, match="negative"):
        Corpus.build([[1, -1, 2]])
    told: list[tuple[int, int]] = []
    Corpus.build([[1, 2, 3]], progress=lambda done, of: told.append((done, of)))
    assert told[-1][0] == told[-1][1] == len(told)
