"""`outrider datastore`: from files to a store that a drafter opens, and what is refused."""

import json
from pathlib import Path

import pytest

from outrider.errors import VocabularyError
from outrider.memories.corpus import Corpus
from outrider.memories.frozen import FrozenAutomaton
from outrider.models.loading import family
from outrider.models.tokenizer import Tokenizer
from tests.cli.conftest import Family, Run

TEXT = "The grey cat sat on the mat. The grey cat sat on the sofa."


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with every kind of file, and one that is none."""
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text(TEXT)
    lines = [{"text": "one"}, {"prompt": "two", "response": "three"}, {"prompt": "four"}]
    (folder / "b.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.ZstdCompressor().compress(b'{"text": "packed"}\n')
    (folder / "deep" / "c.jsonl.zst").write_bytes(packed)
    (folder / "picture.png").write_bytes(b"\xff\xfe")
    return folder


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return Tokenizer.load(family("tiny")["target"])


def test_a_corpus_for_rest(run: Run, corpus: Path, tmp_path: Path, tiny: Tokenizer) -> None:
    place = tmp_path / "store"
    built = run("datastore", "build", corpus, "--out", place, "--tokenizer", "tiny")
    assert built.code == 0 and built.err == "" and "rest" in built.out
    told = run("datastore", "info", place, "--json").json
    texts = [TEXT, "one", "two\nthree", "four", "packed"]
    expected = [tiny.encode_plain(text) for text in texts]
    assert told["documents"] == 5 and told["kind"] == "rest"
    assert told["tokens"] == sum(map(len, expected))
    assert told["fingerprint"] == tiny.fingerprint
    store = Corpus.open(place, fingerprint=tiny.fingerprint)
    assert len(store.find(tiny.encode_plain(" cat sat on the"))) == 2
    for ids in expected:
        assert len(store.find(ids[:20])) >= 1
    assert "tiny" in run("datastore", "info", place).out


def test_an_automaton_for_sam(run: Run, corpus: Path, tmp_path: Path, tiny: Tokenizer) -> None:
    place = tmp_path / "store"
    options = ("--out", place, "--tokenizer", "tiny", "--kind", "sam")
    assert run("datastore", "build", corpus / "a.txt", *options).code == 0
    store = FrozenAutomaton.open(place, fingerprint=tiny.fingerprint)
    ids = tiny.encode_plain(TEXT)
    state, length = store.walk(0, 0, ids[:-3])
    assert length == len(ids) - 3
    assert store.continuation(store.firsts[state], 9) == list(ids[-3:])


def test_the_store_of_another_tokenizer_is_refused(
    run: Run, corpus: Path, tmp_path: Path, family: Family, tiny: Tokenizer
) -> None:
    place = tmp_path / "store"
    run("datastore", "build", corpus, "--out", place, "--tokenizer", family.target)
    other = Tokenizer.load(family.target)
    assert other.fingerprint != tiny.fingerprint
    Corpus.open(place, fingerprint=other.fingerprint)
    with pytest.raises(VocabularyError, match="another tokenizer"):
        Corpus.open(place, fingerprint=tiny.fingerprint)


def test_nothing_is_replaced_without_force(run: Run, corpus: Path, tmp_path: Path) -> None:
    place, mine = tmp_path / "store", tmp_path / "mine"
    options = ("--tokenizer", "tiny", "--out")
    assert run("datastore", "build", corpus / "a.txt", *options, place).code == 0
    before = (place / "order.npy").read_bytes()
    again = run("datastore", "build", corpus, *options, place)
    assert again.code == 2 and "--force" in again.error
    assert (place / "order.npy").read_bytes() == before
    assert run("datastore", "build", corpus, *options, place, "--force").code == 0
    assert (place / "order.npy").read_bytes() != before
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    refused = run("datastore", "build", corpus, *options, mine, "--force")
    assert refused.code == 2 and "is not a store" in refused.error
    assert (mine / "letter.txt").exists()


@pytest.mark.parametrize("kind", ["rest", "sam"])
def test_wrong_input_is_one_clear_line(run: Run, corpus: Path, tmp_path: Path, kind: str) -> None:
    """Issue, item 6: corpus missing, and its relatives."""
    place = tmp_path / "store"

    def error(*places: Path, tokenizer: str = "tiny") -> str:
        options = ("--out", place, "--tokenizer", tokenizer, "--kind", kind)
        outcome = run("datastore", "build", *places, *options)
        assert outcome.code == 2 and not place.exists()
        return outcome.error

    assert "no corpus at" in error(tmp_path / "nowhere.txt")
    (tmp_path / "empty").mkdir()
    assert "holds no text" in error(tmp_path / "empty")
    (tmp_path / "empty.txt").write_text("")
    assert "no token" in error(tmp_path / "empty.txt")
    assert "UTF-8" in error(corpus / "picture.png")
    (corpus / "d.jsonl").write_text('{"text": "x"}\n{"words": 3}\n')
    assert "line 2 of" in error(corpus)
    (corpus / "d.jsonl.zst").write_bytes(b"not packed")
    assert "zstd" in error(corpus / "d.jsonl.zst")
    assert "tokenizer" in error(corpus / "a.txt", tokenizer=str(corpus))


def test_unknown_kinds_and_places_without_a_store(run: Run, corpus: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "store", "--tokenizer", "tiny")
    outcome = run("datastore", "build", corpus, *options, "--kind", "reste")
    assert outcome.code == 2 and "'rest'" in outcome.error
    outcome = run("datastore", "info", corpus)
    assert outcome.code == 2 and "no store at" in outcome.error
