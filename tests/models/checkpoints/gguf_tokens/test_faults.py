"""Wrong settings give one line that names the file and the setting."""

from collections.abc import Callable

import pytest

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.gguf_tokens.building import build_tokenizer
from outrider.models.checkpoints.limits import VARIABLE
from tests.models.checkpoints.gguf_tokens.toys import byte_level, sentence_piece

Settings = dict[str, JsonValue]


def message(metadata: Settings) -> str:
    with pytest.raises(CheckpointError) as caught:
        build_tokenizer(metadata, name="m.gguf")
    text = str(caught.value)
    assert "\n" not in text and text.startswith("m.gguf has ") and caught.value.hint
    assert len(text) < 400
    return text


def without(name: str) -> Callable[[Settings], None]:
    return lambda metadata: metadata.pop(f"tokenizer.ggml.{name}")


def put(name: str, value: JsonValue) -> Callable[[Settings], None]:
    return lambda metadata: metadata.update({f"tokenizer.ggml.{name}": value})


def entry(name: str, at: int, value: JsonValue) -> Callable[[Settings], None]:
    def change(metadata: Settings) -> None:
        values = list(metadata[f"tokenizer.ggml.{name}"])
        values[at] = value
        metadata[f"tokenizer.ggml.{name}"] = values

    return change


SHARED = [
    (without("model"), "no tokenizer.ggml.model"),
    (put("model", 3), "tokenizer.ggml.model 3, expected text"),
    (put("model", "bert"), "model 'bert', which is not supported; expected gpt2 or llama"),
    (put("model", "t5"), "'t5'"),
    (put("model", "rwkv"), "'rwkv'"),
    (put("model", "plamo2"), "'plamo2'"),
    (put("model", "none"), "'none'"),
    (put("model", "a\nb"), r"'a\nb'"),
    (without("tokens"), "no tokenizer.ggml.tokens, expected a list of texts"),
    (put("tokens", "abc"), "tokens 'abc', expected a list of texts"),
    (put("tokens", None), "tokens None, expected a list of texts"),
    (put("tokens", []), "no entry in tokenizer.ggml.tokens"),
    (entry("tokens", 7, 5), "tokens[7] 5, expected a list of texts"),
    (entry("tokens", 7, None), "tokens[7] None"),
    (entry("tokens", 7, b"a"), "tokens[7] b'a'"),
    (entry("tokens", 300, "<|im_end|>"), "tokens '<|im_end|>' twice, as "),
    (entry("tokens", 7, "\udc80"), "a text in tokenizer.ggml.tokens that is not Unicode"),
    (entry("tokens", 7, "x" * 5000), "tokens[7] of 5000 characters, expected up to 4096"),
    (put("token_type", 1), "token_type 1, expected a list of numbers"),
    (put("token_type", [1, 1]), "2 entries in tokenizer.ggml.token_type, but"),
    (entry("token_type", 2, 1.0), "token_type[2] 1.0"),
    (entry("token_type", 2, True), "token_type[2] True"),
    (entry("token_type", 2, 9), "token_type[2] 9, expected 0 to 6"),
    (put("bos_token_id", -1), "bos_token_id -1, expected a whole number from 0"),
    (put("bos_token_id", 10**6), "bos_token_id 1000000, but"),
    (put("eos_token_id", True), "eos_token_id True"),
    (put("eos_token_id", None), "eos_token_id null"),
    (put("unknown_token_id", 10**30), "unknown_token_id 1000000"),
    (put("padding_token_id", [1]), "padding_token_id [1]"),
    (put("add_bos_token", 1), "add_bos_token 1, expected true or false"),
    (put("add_eos_token", "yes"), "add_eos_token 'yes'"),
    (put("add_space_prefix", 0), "add_space_prefix 0"),
    (lambda metadata: metadata.update({"tokenizer.chat_template": 5}), "chat_template 5"),
]
BYTE_LEVEL = [
    (put("pre", 5), "pre 5, expected text"),
    (put("pre", "llama-bep"), "pre 'llama-bep', which is unknown"),
    (put("pre", "gemma4"), "pre 'gemma4', which is not supported"),
    (without("merges"), "no tokenizer.ggml.merges"),
    (put("merges", {}), "merges {}, expected a list of texts"),
    (entry("merges", 3, 5), "merges[3] 5"),
    (entry("merges", 3, "ab"), "merges[3] 'ab', expected two tokens"),
    (entry("merges", 3, "a "), "merges[3] 'a ', expected two tokens"),
    (entry("merges", 3, ""), "merges[3] '', expected two tokens"),
    (entry("merges", 3, " b"), "merges[3] ' b', expected two tokens"),
    (entry("merges", 3, "a \u0700"), "merges[3] 'a \u0700', but no token '\u0700'"),
    (entry("merges", 3, "\u0700 a"), "but no token '\u0700'"),
    (entry("merges", 3, "Q @"), "merges[3] 'Q @', but no token 'Q@'"),
    (entry("merges", 3, "a \ud800"), "a text in tokenizer.ggml.merges that is not Unicode"),
]
SENTENCE_PIECE = [
    (without("scores"), "no tokenizer.ggml.scores"),
    (put("scores", [1.0]), "1 entries in tokenizer.ggml.scores, but"),
    (entry("scores", 4, "x"), "scores[4] 'x', expected a list of numbers"),
    (entry("scores", 4, float("nan")), "scores[4] nan, expected a number"),
    (entry("scores", 4, float("inf")), "scores[4] inf"),
    (put("remove_extra_whitespaces", 1), "remove_extra_whitespaces 1"),
]


@pytest.mark.parametrize(("change", "expected"), [*SHARED, *BYTE_LEVEL])
def test_byte_level(change: Callable[[Settings], None], expected: str) -> None:
    metadata = byte_level("smollm")
    change(metadata)
    assert expected in message(metadata)


@pytest.mark.parametrize(("change", "expected"), [*SHARED, *SENTENCE_PIECE])
def test_sentence_piece(change: Callable[[Settings], None], expected: str) -> None:
    metadata = sentence_piece()
    change(metadata)
    assert expected in message(metadata)


def test_the_nearest_name_is_suggested() -> None:
    assert "llama-bpe" in message(byte_level("llama-bep"))
    assert "tokenizer=..." in message(byte_level("gemma4"))


@pytest.mark.parametrize("role", ["bos", "eos"])
def test_an_opening_token_without_an_id(role: str) -> None:
    metadata = byte_level("smollm", **{f"add_{role}_token": True})
    del metadata[f"tokenizer.ggml.{role}_token_id"]
    expected = f"add_{role}_token True, but no tokenizer.ggml.{role}_token_id"
    assert expected in message(metadata)


def test_characters_without_any_token() -> None:
    metadata = sentence_piece()
    entry("tokens", 4 + 0xE6, "<byte>")(metadata)
    assert build_tokenizer(metadata, name="m.gguf").encode("漢")[-1] == 0
    del metadata["tokenizer.ggml.unknown_token_id"]
    entry("token_type", 0, 3)(metadata)
    assert build_tokenizer(metadata, name="m.gguf").unk_token_id == 0  # the default of llama.cpp
    entry("token_type", 0, 1)(metadata)
    assert "no <0xE6> in tokenizer.ggml.tokens and no tokenizer.ggml.unknown" in message(metadata)


def test_all_tokens_together_have_a_limit() -> None:
    metadata = byte_level("smollm")
    long = [f"{number:04}" + "x" * 4000 for number in range(4300)]
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], *long]
    del metadata["tokenizer.ggml.token_type"]
    assert "characters, expected up to 16777216" in message(metadata)


def test_a_template_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "template_bytes=10")
    metadata = byte_level("smollm") | {"tokenizer.chat_template": "é" * 6}
    text = message(metadata)
    assert "tokenizer.chat_template of 12 bytes, expected up to 10" in text
    assert "template_bytes=" in text


def test_empty_tokens_are_named() -> None:
    metadata = byte_level("smollm")
    at = metadata["tokenizer.ggml.tokens"].index("<think>")
    entry("tokens", at, "")(metadata)
    assert build_tokenizer(metadata, name="m.gguf").convert_ids_to_tokens(at) == f"[EMPTY_{at}]"


def test_other_settings_are_ignored() -> None:
    metadata = byte_level("smollm", scores="no list", hash=[{}])
    assert build_tokenizer(metadata, name="m.gguf").encode("a")
