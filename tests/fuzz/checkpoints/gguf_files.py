"""GGUF files with one fault: in the header, a setting, a tensor, the tokenizer, or the data."""

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from outrider.models.quantization.blocks import BLOCK_FORMATS
from tests.models.setups import make_gguf
from tests.models.setups.make_checkpoints import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    byte_symbols,
    make_checkpoint,
)
from tests.models.setups.make_gguf import GgufFile, Tensor, from_checkpoint

VOCABULARY = 288
Change = Callable[[GgufFile], GgufFile | bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A file with one fault.

    Attributes:
        name: unique.
        change: from the sound file to the file with the fault, or to its bytes.
        passes: the file may be usable all the same.
    """

    name: str
    change: Change
    passes: bool = False

    def write(self, sound: GgufFile, file: Path) -> None:
        changed = self.change(sound)
        file.write_bytes(changed if isinstance(changed, bytes) else changed.bytes())


def make_sound(folder: Path) -> GgufFile:
    """A whole model of a few kilobytes, with a tokenizer and a chat template."""
    model = make_checkpoint(
        folder, "qwen3", hidden_size=32, intermediate_size=32, tie_word_embeddings=True
    )
    tokens = [*byte_symbols(), *SPECIAL_TOKENS, "ab", "abc"]
    tokens += [f"[PAD{number}]" for number in range(len(tokens), VOCABULARY)]
    types = [1] * 256 + [3] * 4 + [1] * 2
    tokenizer: dict[str, Any] = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": tokens,
        "token_type": types + [5] * (VOCABULARY - len(types)),
        "merges": ["a b", "ab c"],
        "eos_token_id": 256,
        "bos_token_id": 256,
        "add_bos_token": False,
    }
    settings = {f"tokenizer.ggml.{name}": given for name, given in tokenizer.items()}
    settings |= {"general.alignment": 32, "tokenizer.chat_template": CHAT_TEMPLATE}
    return from_checkpoint(model, {"ffn_up": "Q4_0", "attn_v": "Q8_0"}, **settings)


def faults(sound: GgufFile) -> Iterator[Fault]:
    """Every kind of fault."""
    yield from _numbers()
    yield from _cut(sound)
    yield from _settings(sound)
    yield from _entries(sound)
    yield from _tokenizers()
    yield from _templates()
    yield from _weights(sound)
    yield from _noise()


# -- header ----------------------------------------------------------------------------------


def _numbers() -> Iterator[Fault]:
    """Magic number, version and counts."""
    for magic in (b"GGML", b"ggjt", b"FUGG", b"\0\0\0\0", b"PK\3\4", b"<htm", b"vers"):
        yield Fault(name=f"magic {magic!r}", change=lambda s, m=magic: s.changed(magic=m))
    for version in (0, 1, 4, 3 << 24, 2 << 24, (1 << 32) - 1):
        yield Fault(name=f"version {version}", change=lambda s, v=version: s.changed(version=v))
    for count in (1 << 16, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1):
        for name in ("num_tensors", "num_settings"):
            yield Fault(
                name=f"{name} {count}", change=lambda s, n=name, c=count: s.changed(**{n: c})
            )
    for change in (-1, 1):
        yield Fault(
            name=f"{change} tensors",
            change=lambda s, c=change: s.changed(num_tensors=len(s.tensors) + c),
        )
        yield Fault(
            name=f"{change} settings",
            change=lambda s, c=change: s.changed(num_settings=len(s.settings) + c),
        )


def _cut(sound: GgufFile) -> Iterator[Fault]:
    """Files that end too early, at many places of each section."""
    whole = sound.bytes()
    start = sound.data_start()
    places = [*range(28), *range(28, start, 211), start - 1, start, start + 1]
    for place in (*places, *range(start + 100, len(whole), 4999), len(whole) - 64):
        yield Fault(name=f"cut at {place}", change=lambda _, p=place: whole[:p])
    yield Fault(name="cut and filled", change=lambda _: whole[:start].ljust(len(whole), b"\xff"))
    yield Fault(name="longer", change=lambda _: whole + bytes(1000), passes=True)


# -- settings --------------------------------------------------------------------------------


def _packed(kind: int, code: str, *values: Any) -> bytes:
    return struct.pack("<I" + code, kind, *values)


WRONG: dict[str, bytes] = {
    "text": make_gguf.value("x"),
    "empty text": make_gguf.value(""),
    "long text": make_gguf.value("x" * 100_000),
    "half a mark": make_gguf.value("{{"),
    "no UTF-8": _packed(make_gguf.TEXT, "Q", 2) + b"\xff\xfe",
    "zero byte": make_gguf.value("a\0b"),
    "control": make_gguf.value("a\n\x1b[31mb"),
    "text beyond the end": _packed(make_gguf.TEXT, "Q", 1 << 40),
    "negative text": _packed(make_gguf.TEXT, "Q", (1 << 64) - 1),
    "zero": make_gguf.value(0),
    "one": make_gguf.value(1),
    "large": make_gguf.value(1 << 31),
    "huge": _packed(make_gguf.U64, "Q", (1 << 64) - 1),
    "byte": _packed(0, "B", 200),
    "minus one": _packed(make_gguf.I32, "i", -1),
    "minus huge": _packed(11, "q", -(1 << 63)),
    "fraction": make_gguf.value(0.5),
    "NaN": make_gguf.value(float("nan")),
    "infinite": make_gguf.value(float("inf")),
    "double": _packed(12, "d", 1e300),
    "true": make_gguf.value(True),
    "odd truth": _packed(make_gguf.BOOL, "B", 7),
    "list": make_gguf.value([1, 2]),
    "empty list": _packed(make_gguf.LIST, "IQ", make_gguf.U32, 0),
    "texts": make_gguf.value(["a", "b"]),
    "long list": _packed(make_gguf.LIST, "IQ", make_gguf.U32, 1 << 61),
    "long texts": _packed(make_gguf.LIST, "IQ", make_gguf.TEXT, 1 << 61),
    "nested list": _packed(make_gguf.LIST, "IQIQ", make_gguf.LIST, 1, make_gguf.U32, 0),
    "deep list": _packed(make_gguf.LIST, "IQ", make_gguf.LIST, 1) * 1000,
    "unknown type": _packed(77, "I", 0),
    "unknown list": _packed(make_gguf.LIST, "IQ", 77, 1),
}
"""Encoded values; most are wrong for most settings."""

_BROKEN = (
    *("no UTF-8", "text beyond the end", "negative text", "long list", "long texts"),
    *("nested list", "deep list", "unknown type", "unknown list"),
)
"""Values that are wrong in any setting."""
_NEEDED = (
    *("architecture", "block_count", "context_length", "embedding_length", "head_count"),
    *("feed_forward_length", "epsilon", "tokens", "model"),
)
_FREE = ("general.name", "qwen3.odd")
"""Settings that may hold anything."""


def _settings(sound: GgufFile) -> Iterator[Fault]:
    more = ("rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "vocab_size")
    more += ("attention.sliding_window", "rope.scale_linear", "expert_count")
    keys = [*sound.settings, *_FREE, *(f"qwen3.{name}" for name in more)]
    keys += ["split.count", "split.no", "split.tensors.count", "tokenizer.ggml.scores"]
    for key in keys:
        for name, raw in WRONG.items():
            yield Fault(
                name=f"{key} {name}",
                change=lambda s, k=key, r=raw: s.changed(settings={**s.settings, k: r}),
                passes=name not in _BROKEN,
            )
    for key in sound.settings:
        kept = {name: given for name, given in sound.settings.items() if name != key}
        yield Fault(
            name=f"without {key}",
            change=lambda s, k=kept: s.changed(settings=k),
            passes=not key.endswith(_NEEDED),
        )
    key = "qwen3.block_count"
    again = make_gguf.text(key) + make_gguf.value(1)
    yield Fault(
        name="a setting twice",
        change=lambda s: s.changed(extra=again, num_settings=len(s.settings) + 1),
    )
    yield Fault(
        name="many settings",
        change=lambda s: s.changed(settings={**s.settings, **{f"a{n}": 1 for n in range(5000)}}),
    )
    for name in ("", "x" * 70_000, "\n", "general"):
        yield Fault(
            name=f"a setting {name!r:.12}",
            change=lambda s, n=name: s.changed(settings={**s.settings, n: 1}),
            passes=True,
        )


# -- tensors ---------------------------------------------------------------------------------

_LARGE = (1 << 31, 1 << 32, 1 << 61, (1 << 64) - 1)


def _entries(sound: GgufFile) -> Iterator[Fault]:
    """Names, shapes, types and places of one matrix."""
    place = [tensor.name for tensor in sound.tensors].index("blk.0.attn_q.weight")
    one, before, after = sound.tensors[place], sound.tensors[:place], sound.tensors[place + 1 :]

    def put(name: str, tensor: Tensor, *, passes: bool = False) -> Fault:
        return Fault(
            name=f"tensor {name}",
            change=lambda s: s.changed(tensors=[*before, tensor, *after]),
            passes=passes,
        )

    names = ("", "x", "blk.0.attn_q", "blk.-1.attn_q.weight", "blk.99999.attn_q.weight")
    names += (f"blk.{'9' * 5000}.attn_q.weight", "blk.01.attn_q.weight", "blk.\u0663.attn_q.weight")
    names += ("rope_freqs.weight", "blk.0.attn_q.scale", "a\n\x1b[31mb", after[0].name)
    for name in names:
        yield put(f"named {name!r:.30}", replace(one, name=name))
    for shape in ((), (2,) * 5, (0, 32), (32, 0), (1,), (32,), *((big, 32) for big in _LARGE)):
        yield put(f"of shape {shape}", replace(one, shape=shape))
    yield put("of overflowing shape", replace(one, shape=(1 << 32, 1 << 32, 1 << 32, 32)))
    for number in (*range(1, 48), 99, 1 << 31, (1 << 32) - 1):
        known = number in BLOCK_FORMATS
        yield put(f"of type {number}", replace(one, number=number), passes=known)
    for offset in (1, 8, 32, 64, 1 << 20, *_LARGE, (1 << 64) - 32):
        yield put(f"at {offset}", replace(one, offset=offset))
    yield Fault(name="no tensors", change=lambda s: s.changed(tensors=[]))
    for number, tensor in enumerate(sound.tensors):
        kept = [other for other in sound.tensors if other is not tensor]
        yield Fault(name=f"without {tensor.name}", change=lambda s, k=kept: s.changed(tensors=k))
        twice = [*sound.tensors, tensor]
        yield Fault(name=f"{number} twice", change=lambda s, t=twice: s.changed(tensors=t))
    many = [Tensor(f"t{n}", 0, (1,), bytes(4)) for n in range(1000)]
    yield Fault(name="more tensors", change=lambda s: s.changed(tensors=[*s.tensors, *many]))
    factors = Tensor("rope_freqs.weight", 0, (4,), np.float32([1, 1, 0, 1]).tobytes())
    yield Fault(name="factor 0", change=lambda s: s.changed(tensors=[*s.tensors, factors]))
    long = Tensor("rope_freqs.weight", 0, (100_000,), bytes(400_000))
    yield Fault(name="long factors", change=lambda s: s.changed(tensors=[*s.tensors, long]))


def _weights(sound: GgufFile) -> Iterator[Fault]:
    """Numbers that are NaN or infinite, in the first number of a tensor."""
    for number, tensor in enumerate(sound.tensors):
        known = BLOCK_FORMATS[tensor.number].name
        kind = np.float32 if known == "F32" else np.float16
        for value in ("nan", "inf", "-inf"):
            raw = np.array(value, dtype=kind).tobytes()
            changed = replace(tensor, data=raw + tensor.data[len(raw) :])
            tensors = [*sound.tensors[:number], changed, *sound.tensors[number + 1 :]]
            yield Fault(
                name=f"{value} in {tensor.name}", change=lambda s, t=tensors: s.changed(tensors=t)
            )


# -- tokenizers ------------------------------------------------------------------------------


def _tokenizers() -> Iterator[Fault]:
    def put(name: str, key: str, change: Callable[[Any], Any], *, passes: bool = False) -> Fault:
        def changed(sound: GgufFile) -> GgufFile:
            full = f"tokenizer.ggml.{key}"
            given = change(sound.settings.get(full))
            return sound.changed(settings={**sound.settings, full: given})

        return Fault(name=f"tokenizer with {name}", change=changed, passes=passes)

    for kind in ("bert", "t5", "rwkv", "plamo2", "x", ""):
        yield put(f"model {kind!r}", "model", lambda _, k=kind: k)
    yield put("unknown pre", "pre", lambda _: "nobody-knows-it")
    broken = _packed(make_gguf.LIST, "IQQ", make_gguf.TEXT, 1, 2) + b"\xff\xfe"
    yield put("tokens that are no UTF-8", "tokens", lambda _: broken)
    yield put("merges that are no UTF-8", "merges", lambda _: broken)
    yield put("one token", "tokens", lambda t: t[:1])
    yield put("fewer tokens", "tokens", lambda t: t[:-3])
    yield put("more tokens", "tokens", lambda t: [*t, "x1", "x2"])
    yield put("equal tokens", "tokens", lambda t: [*t[:-1], t[0]], passes=True)
    yield put("an empty token", "tokens", lambda t: [*t[:-1], ""], passes=True)
    yield put("a long token", "tokens", lambda t: [*t[:-1], "y" * 200_000], passes=True)
    yield put("no bytes", "tokens", lambda t: [f"w{n}" for n in range(len(t))])
    yield put("fewer types", "token_type", lambda t: t[:-1])
    yield put("unknown types", "token_type", lambda t: [77] * len(t), passes=True)
    yield put("negative types", "token_type", lambda t: [-1] * len(t), passes=True)
    yield put("only control tokens", "token_type", lambda t: [3] * len(t), passes=True)
    for merge in ("a q9", "q9 a", "ab", "", " ", "a ", " a", "a b c", "b b", "a  b"):
        yield put(f"merge {merge!r}", "merges", lambda _, m=merge: [m])
    yield put("equal merges", "merges", lambda m: [m[0]] * 3, passes=True)
    for name in ("bos", "eos", "unknown", "padding", "eot"):
        for token in (VOCABULARY, 1 << 20, (1 << 32) - 1):
            yield put(
                f"{name} {token}", f"{name}_token_id", lambda _, t=token: t, passes=name == "eot"
            )
    yield put("the kind llama without scores", "model", lambda _: "llama")


_BOMBS = {
    "endless": "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
    "large": "{{ 'x' * 1000000000 }}",
    "power": "{{ 9 ** 999999999 }}",
    "recursive": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "unknown": "{{ nobody.knows.it }}",
    "open": "{% for a in b %}",
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "raises": "{{ raise_exception('no') }}",
    "nested": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "long": "x" * (2 << 20),
}


def _templates() -> Iterator[Fault]:
    for name, template in _BOMBS.items():
        settings = {"tokenizer.chat_template": template}
        yield Fault(
            name=f"template {name}",
            change=lambda s, t=settings: s.changed(settings={**s.settings, **t}),
        )


# -- noise -----------------------------------------------------------------------------------


def _noise(count: int = 200) -> Iterator[Fault]:
    """Random bytes in the header."""

    def changed(sound: GgufFile, seed: int) -> bytes:
        generator = random.Random(seed)
        raw = bytearray(sound.bytes())
        for _ in range(generator.choice((1, 1, 3, 20))):
            place = generator.randrange(sound.data_start())
            raw[place] = generator.choice((0, 1, 8, 9, 127, 128, 255, generator.randrange(256)))
        return bytes(raw)

    for seed in range(count):
        yield Fault(name=f"noise {seed}", change=lambda s, n=seed: changed(s, n), passes=True)
