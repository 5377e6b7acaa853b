"""Small vocabularies as metadata of GGUF files, computed without any library."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from zlib import crc32

from outrider.core.values import JsonValue
from tests.models.checkpoints.gguf_tokens.lines import draw_lines

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ADDED = ("<think>", "[mark]")
MARKS = (*CONTROLS, *ADDED)
SENTENCE_PIECES = {"llama": {}, "llama without prefix": {"add_space_prefix": False}}
"""Settings of vocabularies of the model `llama`."""


def _characters() -> dict[int, str]:
    """Return the visible character that stands for each byte."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {
        byte: chr(256 + at) for at, byte in enumerate(hidden)
    }


def _order(text: str) -> int:
    return crc32(text.encode())


def _parts(texts: Iterable[str], longest: int) -> list[str]:
    """Return all pairs of neighbours, and some longer parts of the texts, in a mixed order."""
    found: dict[str, None] = {}
    for text in texts:
        for start in range(len(text)):
            for size in range(2, longest + 1):
                part = text[start : start + size]
                if len(part) == size and (size == 2 or _order(part) % 3 == 0):
                    found[part] = None
    return sorted(found, key=_order)


@lru_cache(maxsize=1)
def _bytes_and_merges() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return tokens, and all merges that lead to them; merges cross the borders of all pieces."""
    letters = _characters()
    texts = ("".join(letters[byte] for byte in line.encode()) for line in draw_lines(60, seed=3))
    tokens = [*letters.values(), *_parts(texts, 5)]
    known = frozenset(tokens)
    merges = [
        f"{token[:at]} {token[at:]}"
        for token in tokens
        for at in range(1, len(token))
        if token[:at] in known and token[at:] in known
    ]
    return tuple(tokens), tuple(merges)


def byte_level(pre: str, **changes: JsonValue) -> dict[str, JsonValue]:
    """Return the metadata of a byte-level vocabulary under the name `pre`."""
    tokens, merges = _bytes_and_merges()
    count = len(tokens)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *MARKS],
        "tokenizer.ggml.token_type": [1] * count + [3] * len(CONTROLS) + [4] * len(ADDED),
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": count,
        "tokenizer.ggml.eos_token_id": count + 2,
        **{f"tokenizer.ggml.{name}": value for name, value in changes.items()},
    }


def sentence_piece(**changes: JsonValue) -> dict[str, JsonValue]:
    """Return the metadata of a vocabulary with scores. Characters from U+3000 on are bytes."""
    control = ["<unk>", *CONTROLS]
    in_bytes = [f"<0x{one:02X}>" for one in range(256)]
    added = [*ADDED, "\n\n", "    "]
    lines = [line.replace(" ", "▁") for line in draw_lines(60, seed=5)]
    letters = sorted({letter for line in lines for letter in line if letter < "\u3000"})
    known = frozenset(letters)
    parts = [part for part in _parts(lines, 5) if known.issuperset(part) and part not in added]
    count = len(control) + len(in_bytes) + len(added)
    learned = [*parts, *letters]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*control, *in_bytes, *added, *learned],
        "tokenizer.ggml.token_type": [2, *[3] * 3, *[6] * 256, *[4] * 4, *[1] * len(learned)],
        "tokenizer.ggml.scores": [0.0] * count + [-float(at) for at in range(len(learned))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 0,
        **{f"tokenizer.ggml.{name}": value for name, value in changes.items()},
    }


def toy(name: str) -> dict[str, JsonValue]:
    """Return the vocabulary of a key of `SENTENCE_PIECES`, or a byte-level one."""
    if name in SENTENCE_PIECES:
        return sentence_piece(**SENTENCE_PIECES[name])
    return byte_level(name)


def write_vocabulary(metadata: Mapping[str, JsonValue], file: Path) -> None:
    """Write a GGUF file without weights, which llama.cpp reads with `vocab_only`."""
    import gguf

    writer = gguf.GGUFWriter(str(file), "llama")
    for name in ("context_length", "embedding_length", "block_count", "feed_forward_length"):
        writer.add_uint32(f"llama.{name}", 32)
    writer.add_uint32("llama.attention.head_count", 4)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
