"""Small vocabularies, trained in a moment, as metadata of GGUF files."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from outrider.core.values import JsonValue
from tests.models.checkpoints.gguf_tokens.lines import draw_lines

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ADDED = ("<think>", "[mark]")


@lru_cache(maxsize=1)
def _trained() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return tokens and merges that cross the borders of all splittings."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r".{1,9}|\s{1,9}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(draw_lines(1500, seed=3), trainer)
    tokens = sorted(core.get_vocab(), key=core.get_vocab().__getitem__)
    import json

    merges = json.loads(core.to_str())["model"]["merges"]
    return tuple(tokens), tuple(" ".join(one) for one in merges)


def byte_level(pre: str, **changes: JsonValue) -> dict[str, JsonValue]:
    """Return the metadata of a byte-level vocabulary under the name `pre`."""
    tokens, merges = _trained()
    count = len(tokens)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *CONTROLS, *ADDED],
        "tokenizer.ggml.token_type": [1] * count + [3] * len(CONTROLS) + [4] * len(ADDED),
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": count,
        "tokenizer.ggml.eos_token_id": count + 2,
        **{f"tokenizer.ggml.{name}": value for name, value in changes.items()},
    }


def sentence_piece(**changes: JsonValue) -> dict[str, JsonValue]:
    """Return the metadata of a vocabulary with scores, made from frequent parts of words."""
    control = ["<unk>", "<s>", "</s>", "<|im_end|>"]
    in_bytes = [f"<0x{one:02X}>" for one in range(256)]
    added = ["<think>", "\n\n", "    "]
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=2500, min_frequency=2, show_progress=False)
    core.train_from_iterator(draw_lines(800, seed=5), trainer)
    learned = sorted(core.get_vocab(), key=core.get_vocab().__getitem__)
    learned = [one for one in learned if all(ord(letter) < 0x2FFF for letter in one)]
    runs = ["▁" * count for count in (2, 3, 5, 8)]
    learned = [one for one in dict.fromkeys(["▁", *learned, *runs]) if one not in added]
    tokens = [*control, *in_bytes, *added, *learned]
    kinds = [2, *[3] * 3, *[6] * 256, *[4] * len(added), *[1] * len(learned)]
    scores = [0.0] * (len(tokens) - len(learned)) + [-float(at) for at in range(len(learned))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **{f"tokenizer.ggml.{name}": value for name, value in changes.items()},
    }


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
