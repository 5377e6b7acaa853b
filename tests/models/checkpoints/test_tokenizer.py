"""Text, chats and tables through the tokenizer of a folder."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from outrider.core.errors import CheckpointError, OptionError
from outrider.models.checkpoints.tokenizer import Tokenizer, has_tokenizer
from tests.models.setups.make_checkpoints import SPECIAL_TOKENS, write_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.joinpath("tok").mkdir()
    write_tokenizer(tmp_path / "tok")
    return tmp_path / "tok"


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@pytest.mark.parametrize("text", ["plain", "naïve — 日本 🙂", " spaces  kept\n\n", ""])
def test_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert isinstance(ids, tuple) and len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_special_tokens(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("a"), 256]
    assert tokenizer.decode(ids) == "a"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<|endoftext|>"
    assert tokenizer.eos_id == 256 and tokenizer.bos_id is None
    assert tokenizer.special_ids >= {256}


def test_padding_ids_have_no_text(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """SentencePiece raises on ids beyond its table, so they are never passed on."""
    passed: list[list[int]] = []
    core = tokenizer.tokenizer.decode

    def decode(ids: list[int], **options: bool) -> str:
        passed.append(ids)
        return core(ids, **options)

    monkeypatch.setattr(tokenizer.tokenizer, "decode", decode)
    assert tokenizer.decode([97, 280, 5000, 98]) == "ab"
    assert passed == [[97, 98]]


def test_table(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == len(tokenizer.table) == 260
    assert tokenizer.table[97] == "a" and tokenizer.table[256:] == SPECIAL_TOKENS


def test_chat(tokenizer: Tokenizer) -> None:
    ids = tokenizer.chat([{"role": "user", "content": "hi"}])
    assert ids == (257, *b"hi", 259, 258)
    closed = tokenizer.chat([{"role": "user", "content": "hi"}], add_generation_prompt=False)
    assert closed == (257, *b"hi", 259)


def test_no_chat_template(tokenizer: Tokenizer) -> None:
    tokenizer.tokenizer.chat_template = None
    with pytest.raises(OptionError, match="no chat template"):
        tokenizer.chat([{"role": "user", "content": "hi"}])


def test_template_that_refuses(tokenizer: Tokenizer) -> None:
    tokenizer.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(OptionError, match="roles must alternate"):
        tokenizer.chat([{"role": "user", "content": "hi"}])


def test_bos_is_put_first_once() -> None:
    """As this tokenizer does for text; a chat template writes its own."""
    core = Core(models.BPE(vocab={"<s>": 0, "a": 1, "b": 2}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<s>"])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")
    fast.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer = Tokenizer(fast)
    assert tokenizer.bos_id == 0
    assert tokenizer.encode("ab") == (0, 1, 2)
    assert tokenizer.chat([{"role": "user", "content": "ab"}]) == (0, 1, 2)
    assert tokenizer.decode([0, 1, 2]) == "ab"


def test_folder_without_tokenizer(tmp_path: Path) -> None:
    assert not has_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        Tokenizer.load(tmp_path)


def test_damaged_tokenizer(folder: Path) -> None:
    assert has_tokenizer(folder)
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(CheckpointError, match="cannot load the tokenizer"):
        Tokenizer.load(folder)


def test_fingerprint(tokenizer: Tokenizer, folder: Path) -> None:
    """The same for the same vocabulary, another one when an entry means something else."""
    assert tokenizer.fingerprint == Tokenizer.load(folder).fingerprint
    assert len(tokenizer.fingerprint) == 64
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<|endoftext|>", "<|endofpage|>"))
    assert Tokenizer.load(folder).fingerprint != tokenizer.fingerprint


def test_plain_ids_have_no_marks_and_any_length(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode_plain("a" * 5000)) == 5000
    assert tokenizer.encode_plain("") == ()


# -- documents ---------------------------------------------------------------------------------

DOCUMENT = "First one. <|end|> Größe 漢字 😀!\n\n" + "x" * 900 + " end <|endoftext|>"


def test_spans_of_a_document(folder: Path) -> None:
    codec = Tokenizer.load(folder)
    ids, ends = codec.encode_spans(DOCUMENT)
    assert len(ids) == len(ends) and ends[-1] == len(DOCUMENT)
    assert list(ends) == sorted(ends)
    assert not set(ids) & codec.special_ids
    for at in range(1, len(ids)):
        if ends[at - 1] < ends[at]:  # between two characters
            assert codec.decode(ids[:at]) == DOCUMENT[: ends[at - 1]]
    assert codec.encode_spans("") == ((), ())
    assert set(codec.encode_plain("<|end|>")) == {259}, "the setting must not stay"


def test_spans_without_offsets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Tokenizer.load(folder)
    whole, _ = codec.encode_spans(DOCUMENT)
    monkeypatch.setattr(type(codec.tokenizer), "is_fast", False)
    ids, ends = codec.encode_spans(DOCUMENT)
    assert codec.decode(ids) == DOCUMENT and len(ids) == len(whole)
    assert list(ends) == sorted(ends) and ends[-1] == len(DOCUMENT)
    assert ends[0] == len("First one. ") and len(set(ends)) > 4
    assert all(codec.decode(ids[: ends.index(e)]) == DOCUMENT[:p] for p, e in _steps(ends))


def test_marks_that_are_not_called_special(folder: Path) -> None:
    codec = Tokenizer.load(folder)
    codec.tokenizer.add_tokens(["<think>", "</think>", "  "])
    text = "a <think>b</think><think>  c"
    assert 260 in codec.encode_plain(text)
    ids, ends = codec.encode_spans(text)
    assert not {260, 261} & set(ids) and 262 in ids
    assert codec.decode(ids) == text
    assert ends == (*range(1, 26), 27, 28)


def _steps(ends: tuple[int, ...]) -> list[tuple[int, int]]:
    """Each end, after the one before it."""
    stops = sorted(set(ends))
    return list(zip([0, *stops], stops, strict=False))


def test_a_panic_of_the_tokenizer_is_one_line(folder: Path) -> None:
    """The expression is risky only for long texts of letters, and is changed after the load."""
    from tokenizers import Regex, pre_tokenizers

    loaded = Tokenizer.load(folder)
    loaded.tokenizer._tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    for call in (loaded.encode, loaded.encode_plain, loaded.encode_spans):
        with pytest.raises(CheckpointError, match="cannot read this text: Onig"):
            call("a" * 64 + "!")
