"""GGUF files: what is read, and what is refused in one line."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import outrider
from outrider.bench.rivals.gguf_export import export_gguf
from outrider.core.errors import CheckpointError, OutriderError
from outrider.models.checkpoints.checkpoint import load_grouped, load_tensors
from outrider.models.checkpoints.gguf.header import read_header
from outrider.models.checkpoints.limits import VARIABLE
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.cpu.formats import FORMATS, lossless
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.models.quality import quality_of
from outrider.models.sources.families import families_folder
from tests.models.setups import make_gguf
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.make_gguf import LLAMA3, GgufFile, Tensor, from_checkpoint
from tests.models.setups.reference import all_logits, close, random_ids

TEXT = random_ids(40)
BIG: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "head_dim": 64,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), "qwen3")


@pytest.fixture(scope="module")
def sound(folder: Path) -> GgufFile:
    return from_checkpoint(folder, {})


# -- weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"rope_parameters": LLAMA3, "head_dim": 32}),
        ("qwen2", {}),
        ("qwen3", {"tie_word_embeddings": True}),
    ],
)
def test_a_gguf_file_gives_the_logits_of_its_folder(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    path = make_checkpoint(tmp_path / "model", kind, **options)
    file = export_gguf(path, tmp_path / "model.gguf", "f32")
    ours, theirs = Decoder.load(file), Decoder.load(path)
    close(all_logits(ours, TEXT), all_logits(theirs, TEXT), tolerance=1e-4)
    assert ours.info.num_parameters == theirs.info.num_parameters
    assert ours.info.context_length == theirs.info.context_length


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"])
def test_groups_stand_for_exactly_the_weights_of_the_file(kind: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen3", **BIG)
    checkpoint = open_checkpoint(from_checkpoint(path, {}, kind).write(tmp_path / "model.gguf"))
    for name, info in checkpoint.tensors.items():
        grouped = load_grouped(checkpoint, name)
        assert (grouped is None) == (len(info.shape) == 1)
        if grouped is not None:
            weights = load_tensors(checkpoint, [name], torch.float32)[name]
            assert torch.equal(grouped.dequantize(), weights)
            assert weights.std() > 0.001


MIXED = {"attn_v": "Q6_K", "ffn_down": "Q5_0", "token_embd": "Q8_0", "output": "Q6_K"}


@pytest.mark.parametrize("formats", [{}, MIXED], ids=["one format", "mixed"])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"])
def test_stored_weights_run_in_the_compiled_runner(
    kind: str, formats: dict[str, str], tmp_path: Path
) -> None:
    """Near float32 on the same weights, and each row has the same bits at any width."""
    path = make_checkpoint(tmp_path / "model", "qwen3", **BIG)
    file = from_checkpoint(path, formats, kind).write(tmp_path / "model.gguf")
    stored = NativeDecoder.load(file, dtype=None)
    exact = NativeDecoder.load(file, dtype=torch.float32)
    ours, theirs = all_logits(stored, TEXT), all_logits(exact, TEXT)
    assert float((ours - theirs).norm() / theirs.norm()) < 0.04
    for width in (1, 2, 3, 5, 8, 17):
        assert torch.equal(all_logits(stored, TEXT[:width]), ours[:width])
    assert stored.info.weights.startswith(f"stored ({kind}")
    assert stored.info.weight_bytes < 0.35 * exact.info.weight_bytes
    assert torch.equal(stored.embed([5, 255]), exact.embed([5, 255]))


def test_auto_keeps_what_the_file_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path / "cache"))
    path = make_checkpoint(tmp_path / "model", "qwen3", **BIG)
    file = from_checkpoint(path, {}, "Q8_0").write(tmp_path / "model.gguf")
    checkpoint = open_checkpoint(file)
    assert lossless(checkpoint) is FORMATS["stored"]
    assert quality_of(checkpoint, FORMATS["stored"]).good
    generator = outrider.load(file, mode="none")
    info = generator.strategy.target.info
    assert info.weights == "stored (Q8_0)" and "the limit is 0.005" in info.weights_reason


def test_drafted_text_equals_undrafted_text_of_four_bits(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen3", **BIG)
    file = from_checkpoint(path, MIXED, "Q4_K").write(tmp_path / "model.gguf")
    options: dict[str, Any] = {"max_new_tokens": 60, "ignore_eos": True}
    plain = outrider.load(file, mode="none", dtype="stored").generate([7, 8, 9], **options)
    drafted = outrider.load(file, drafter="lookup", dtype="stored").generate([7, 8, 9], **options)
    assert drafted.token_ids == plain.token_ids
    assert drafted.speculation.target.drafted > 0


# -- places ----------------------------------------------------------------------------------


def test_a_folder_with_one_model_is_enough(sound: GgufFile, tmp_path: Path) -> None:
    sound.write(tmp_path / "only" / "model.gguf")
    sound.write(tmp_path / "only" / "mmproj-model.gguf")
    assert open_checkpoint(tmp_path / "only").path.name == "model.gguf"
    sound.write(tmp_path / "only" / "other.gguf")
    with pytest.raises(CheckpointError, match=r"2 GGUF models: model.gguf, other.gguf"):
        open_checkpoint(tmp_path / "only")


def test_shards_are_one_model(sound: GgufFile, tmp_path: Path) -> None:
    first = sound.changed(tensors=sound.tensors[:5])
    second = GgufFile({"split.no": 1}, sound.tensors[5:])
    first.write(tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(CheckpointError, match=r"m-00002-of-00002.gguf is missing"):
        open_checkpoint(tmp_path / "m-00001-of-00002.gguf")
    second.write(tmp_path / "m-00002-of-00002.gguf")
    whole = Decoder.load(sound.write(tmp_path / "whole.gguf"))
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"):
        model = Decoder.load(tmp_path / name)
        assert torch.equal(all_logits(model, TEXT), all_logits(whole, TEXT))


# -- tokenizers ------------------------------------------------------------------------------

LINES = ("Hello, world!", "  two  spaces\n\n\tTab", "don't 12345 3.14", "naïve 你好 😀\r\n", "")


def test_the_tokenizer_of_the_file_gives_the_ids_of_the_original(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    target = families_folder() / "tiny" / "target"
    file = export_gguf(target, tmp_path / "model.gguf", "q8_0")
    ours, theirs = Tokenizer.load(file), Tokenizer.load(target)
    for line in LINES:
        assert ours.encode_plain(line) == theirs.encode_plain(line)
        assert ours.decode(ours.encode_plain(line)) == line


def spm(**more: Any) -> dict[str, Any]:
    """A SentencePiece vocabulary: bytes, and some words."""
    words = ["▁", "a", "b", "ab", "▁ab", "▁a"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-6.0, -5.0, -5.0, -3.0, -1.0, -2.0],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 6],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **more,
    }


def test_sentence_piece_merges_by_score_and_falls_back_to_bytes(tmp_path: Path) -> None:
    file = GgufFile({"general.architecture": "llama", **spm()}).write(tmp_path / "t.gguf")
    tokenizer = Tokenizer.load(file)
    word = 259
    assert tokenizer.encode("ab ab") == (1, word + 4, word + 4)
    assert tokenizer.encode_plain("é") == (word, 3 + 0xC3, 3 + 0xA9)
    assert tokenizer.decode(tokenizer.encode("ab é b")) == "ab é b"
    bare = spm(**{"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": False})
    file = GgufFile({"general.architecture": "llama", **bare}).write(tmp_path / "u.gguf")
    assert Tokenizer.load(file).encode("ab ab") == (word + 3, word + 4)


WRONG_TOKENS: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"tokenizer.ggml.model": "bert"}, "model 'bert', which is not supported"),
    "scores": (
        {"tokenizer.ggml.scores": [1.0]},
        "1 entries in tokenizer.ggml.scores, but 265 tokens",
    ),
    "types": ({"tokenizer.ggml.token_type": [1]}, "1 entries in tokenizer.ggml.token_type"),
    "bos": ({"tokenizer.ggml.bos_token_id": 999}, "bos_token_id 999, but 265 tokens"),
    "tokens": ({"tokenizer.ggml.tokens": [1, 2]}, "tokens"),
    "pre": ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "odd"}, "pre 'odd'"),
    "merge": (
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["a c"]},
        "'a c', but no token",
    ),
    "half a merge": (
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["ab"]},
        "merges.*'ab'",
    ),
}


@pytest.mark.parametrize("case", WRONG_TOKENS)
def test_a_wrong_tokenizer_is_refused(case: str, tmp_path: Path) -> None:
    changes, message = WRONG_TOKENS[case]
    settings = {"general.architecture": "llama", **spm(**changes)}
    file = GgufFile(settings).write(tmp_path / "t.gguf")
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.load(file)


# -- faults ----------------------------------------------------------------------------------

HUGE = 1 << 62
_TENSOR = Tensor("odd", 0, (4,), bytes(16))


def _list_of(kind: int, length: int) -> bytes:
    return struct.pack("<IIQ", make_gguf.LIST, kind, length)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "magic": ({"magic": b"GGML"}, "not a GGUF file"),
    "version": ({"version": 1}, "GGUF version 1"),
    "big-endian": ({"version": 3 << 24}, "big-endian"),
    "tensors": ({"num_tensors": HUGE}, "above the limit"),
    "some tensors": ({"num_tensors": 60_000}, "60000 values of 'tensors' are announced"),
    "settings": ({"num_settings": HUGE}, "settings, above the limit"),
    "some settings": ({"num_settings": 4000, "tensors": ()}, "are announced"),
    "long list": (
        {"settings": {"a": _list_of(0, 5 << 20)}, "extra": bytes(5 << 20)},
        "5,242,880 values in lists, above the limit",
    ),
    "list": ({"settings": {"a": _list_of(make_gguf.U32, HUGE)}}, "are announced"),
    "texts": ({"settings": {"a": _list_of(make_gguf.TEXT, HUGE)}}, "are announced"),
    "nested": ({"settings": {"a": _list_of(make_gguf.LIST, 1)}}, "a list of lists"),
    "kind": ({"settings": {"a": struct.pack("<I", 77)}}, "unknown type 77"),
    "kind in list": ({"settings": {"a": _list_of(77, 1)}}, "a list of unknown type 77"),
    "text": ({"settings": {"a": struct.pack("<IQ", make_gguf.TEXT, HUGE)}}, "are expected at byte"),
    "no UTF-8": ({"settings": {"a": struct.pack("<IQ", 8, 1) + b"\xff"}}, "not UTF-8"),
    "alignment": ({"settings": {"general.alignment": 0}}, "general.alignment is 0"),
    "odd alignment": ({"settings": {"general.alignment": 33}}, "general.alignment is 33"),
    "axes": ({"tensors": [Tensor("odd", 0, (2,) * 5, bytes(128))]}, "5 axes"),
    "no axes": ({"tensors": [Tensor("odd", 0, (), b"")]}, "0 axes"),
    "type": ({"tensors": [Tensor("odd", 99, (4,), bytes(16))]}, "'odd' of .* the type number 99"),
    "known type": ({"tensors": [Tensor("odd", 39, (32,), bytes(16))]}, "the type MXFP4"),
    "shape": ({"tensors": [Tensor("odd", 0, (HUGE, HUGE), b"")]}, "has the shape"),
    "empty": ({"tensors": [Tensor("odd", 0, (0, 4), b"")]}, "has the shape"),
    "rows": ({"tensors": [Tensor("odd", 8, (2, 33), bytes(99))]}, "no multiple of the 32"),
    "end": ({"tensors": [Tensor("odd", 0, (4000,), bytes(16))]}, "ends at byte"),
    "twice": ({"tensors": [_TENSOR, _TENSOR]}, "occurs twice"),
    "inside": (
        {"tensors": [_TENSOR, Tensor("other", 0, (4,), bytes(16), offset=0)]},
        "inside another",
    ),
    "unaligned": ({"tensors": [Tensor("odd", 0, (4,), bytes(64), offset=8)]}, "begins at"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_wrong_header_is_refused_in_one_line(case: str, sound: GgufFile, tmp_path: Path) -> None:
    changes, message = FAULTS[case]
    file = sound.changed(**changes).write(tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1200


SETTINGS: dict[str, tuple[str, Any, str]] = {
    "architecture": ("general.architecture", "bert", "architecture 'bert'"),
    "no text": ("general.architecture", 3, "general.architecture 3"),
    "layers": ("qwen3.block_count", 1 << 31, "block_count"),
    "heads": ("qwen3.attention.head_count", 0, "head_count 0"),
    "width": ("qwen3.embedding_length", "wide", "embedding_length 'wide'"),
    "eps": ("qwen3.attention.layer_norm_rms_epsilon", -1.0, "epsilon -1.0"),
    "rope": ("qwen3.rope.scaling.type", "odd", "rope.scaling.type 'odd'"),
    "experts": ("qwen3.expert_count", 8, "mixture of experts"),
    "end": ("tokenizer.ggml.eos_token_id", -1.0, "eos_token_id"),
    "softcap": ("qwen3.attn_logit_softcapping", 30.0, "softcapping 30.0, which is not supported"),
    "scaling": ("qwen3.rope.scaling.odd", 1.0, "scaling.odd', which is not supported"),
    "two lines": ("qwen3.rope.scaling.o\nd\x1b[2J", 1.0, r"scaling\.o\\nd\\x1b\[2J', which"),
    "amplitude": ("qwen3.rope.scaling.attn_factor", 0.5, "attn_factor 0.5, which is not"),
    "vocabulary": ("qwen3.vocab_size", 7, "vocab_size 7, but embeddings of 288 tokens"),
    "rotation": ("qwen3.rope.dimension_count", 4, "rope.dimension_count 4, but heads of 8"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_wrong_setting_is_refused_in_one_line(case: str, sound: GgufFile, tmp_path: Path) -> None:
    key, wrong, message = SETTINGS[case]
    file = sound.changed(settings={**sound.settings, key: wrong}).write(tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(file)
    assert str(caught.value).isprintable()


def test_missing_settings_and_tensors_are_named(sound: GgufFile, tmp_path: Path) -> None:
    settings = {key: given for key, given in sound.settings.items() if "block_count" not in key}
    with pytest.raises(CheckpointError, match=r"no qwen3\.block_count"):
        open_checkpoint(sound.changed(settings=settings).write(tmp_path / "a.gguf"))
    file = sound.changed(tensors=sound.tensors[:-1]).write(tmp_path / "b.gguf")
    with pytest.raises(CheckpointError, match="lacks tensor"):
        Decoder.load(file)
    file = sound.changed(tensors=[*sound.tensors, _TENSOR]).write(tmp_path / "c.gguf")
    with pytest.raises(CheckpointError, match="unexpected tensor 'odd'"):
        Decoder.load(file)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen3", **BIG)
    whole = from_checkpoint(path, {}, "Q8_0")
    for place, bad in ((0, np.float16("nan")), (34, np.float16("inf"))):
        tensors = [
            Tensor(t.name, t.number, t.shape, _with(t.data, place, bad))
            if t.name == "blk.1.attn_k.weight"
            else t
            for t in whole.tensors
        ]
        file = whole.changed(tensors=tensors).write(tmp_path / "m.gguf")
        for dtype in (None, torch.float32):
            with pytest.raises(CheckpointError, match=r"values in blk\.1\.attn_k\.weight"):
                NativeDecoder.load(file, dtype=dtype)


def _with(data: bytes, place: int, number: np.float16) -> bytes:
    return data[:place] + number.tobytes() + data[place + 2 :]


def test_the_limits_can_be_raised(
    sound: GgufFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sound.write(tmp_path / "m.gguf")
    monkeypatch.setenv(VARIABLE, "gguf_tensors=3")
    with pytest.raises(CheckpointError, match="gguf_tensors"):
        open_checkpoint(file)
    monkeypatch.setenv(VARIABLE, "gguf_header_bytes=100")
    with pytest.raises(CheckpointError, match="gguf_header_bytes"):
        open_checkpoint(file)


@given(data=st.data())
def test_a_damaged_header_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, sound: GgufFile
) -> None:
    """Cut or changed bytes never raise another error, and never take much memory."""
    raw = bytearray(sound.bytes())
    head = 900
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, head))
        raw[place] = data.draw(st.sampled_from((0, 1, 8, 9, 127, 255)))
    raw = raw[: data.draw(st.one_of(st.just(len(raw)), st.integers(0, head)))]
    file = tmp_path_factory.mktemp("fuzz") / "m.gguf"
    file.write_bytes(raw)
    try:
        header = read_header(file)
        open_checkpoint(file)
    except OutriderError as error:
        assert "\n" not in str(error)
    else:
        assert all(one.offset + one.nbytes <= len(raw) for one in header.entries.values())
