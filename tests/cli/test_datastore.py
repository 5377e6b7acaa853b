"""`outrider datastore`: from files to a store that a drafter opens, and what is refused."""

import json
import os
from pathlib import Path

import pytest

from outrider.core.errors import OptionError, VocabularyError
from outrider.inputs.documents.corpora import corpus_files, read_documents
from outrider.memories.corpus import Corpus
from outrider.memories.frozen import FrozenAutomaton
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.sources.families import family
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


def test_a_folder_gives_its_texts_and_says_what_it_does_not(
    run: Run, corpus: Path, tmp_path: Path
) -> None:
    """Hidden files, READMEs and other types are passed over, unless they are named."""
    (corpus / "README.md").write_text("about the corpus")
    (corpus / ".git").mkdir()
    (corpus / ".git" / "words.txt").write_text("not for reading")
    (corpus / "deep" / ".words.txt").write_text("nor this")
    options = ("--out", tmp_path / "store", "--tokenizer", "tiny", "--force")
    told = run("datastore", "build", corpus, *options).out
    assert "3 files (1 .jsonl, 1 .jsonl.zst, 1 .txt)" in told
    assert all(name in told for name in (".git", "README.md", ".words.txt", "picture.png"))
    assert run("datastore", "info", tmp_path / "store", "--json").json["documents"] == 5
    told = run("datastore", "build", corpus / "README.md", corpus, corpus / "a.txt", *options).out
    assert "4 files" in told and told.count("README.md") == 0
    assert run("datastore", "info", tmp_path / "store", "--json").json["documents"] == 6


def test_packed_files_of_several_frames_are_read_whole_or_refused(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    pack = zstandard.ZstdCompressor().compress
    file = tmp_path / "a.jsonl.zst"
    lines = [b'{"text": "one"}\n', b'{"text": "two"}\n', b'{"text": "%s"}\n' % (b"x" * 99_999)]
    file.write_bytes(b"".join(map(pack, lines)))
    assert [len(text) for text in read_documents(file)] == [3, 3, 99_999]
    noise = "".join(f"{i * i}" for i in range(40_000))
    packed = pack(noise.encode())
    whole, cut = tmp_path / "b.txt.zst", tmp_path / "c.txt.zst"
    whole.write_bytes(packed)
    assert list(read_documents(whole)) == [noise]
    for size in (1, 5, len(packed) // 2, len(packed) - 1):
        cut.write_bytes(packed[:size])
        with pytest.raises(OptionError, match="zstd data is incomplete"):
            list(read_documents(cut))


def test_a_mark_at_the_beginning_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfwords")
    assert list(read_documents(tmp_path / "a.txt")) == ["words"]


def test_a_folder_that_can_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(place: str) -> None:
        raise PermissionError(13, "Permission denied", str(place))

    (tmp_path / "a.txt").write_text("words")
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(OptionError, match="cannot be read: Permission denied"):
        corpus_files([tmp_path])


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
    (tmp_path / "zeros.txt").write_bytes(bytes(99))
    assert "null bytes" in error(tmp_path / "zeros.txt")
    deep, half = "[" * 100_000, '{"text": "\\ud800"}'
    for line in (deep, half, '{"text": 3}', "null", "{"):
        (tmp_path / "d.jsonl").write_text(line)
        assert "line 1 of" in error(tmp_path / "d.jsonl")
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
