"""Tiny checkpoints with one wrong value: each known field of each file takes each of `VALUES`."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from outrider.models.checkpoints.fields import Field
from outrider.models.checkpoints.tables import (
    ADAPTER,
    CONFIG,
    GENERATION,
    INDEX_FIELDS,
    TOKENIZER,
)
from tests.models.setups.make_checkpoints import make_checkpoint

DEEP = "[" * 100_000 + "]" * 100_000

VALUES: dict[str, str] = {
    "text": '"x"',
    "digits": '"64"',
    "empty": '""',
    "fraction": "0.5",
    "null": "null",
    "list": "[2]",
    "nested list": '[["x"]]',
    "object": '{"x": 1}',
    "NaN": "NaN",
    "infinite": "1e400",
    "minus one": "-1",
    "minus two": "-2",
    "zero": "0",
    "billion": "1000000000",
    "float billion": "1e9",
    "huge": "1" + 30 * "0",
    "true": "true",
    "deep": DEEP,
}
"""JSON texts, because some are no values of Python."""

_WHOLE, _NUMBER = {"zero", "billion", "huge"}, {"zero", "billion", "huge", "fraction"}
_FLOATS = {"float billion"}


def harmless(field: Field) -> set[str]:
    """Names of the values that may pass: they are of a right type, or mean that nothing is set."""
    found: set[str] = {"null"} if field.null else set()
    if "whole number" in field.kinds:
        found |= _WHOLE | {"minus one"} | ({"list"} if field.levels != (0,) else set())
    if "number" in field.kinds:
        found |= _NUMBER | _FLOATS | {"minus one", "minus two"}
        found |= {"list"} if field.levels != (0,) else set()
    if "text" in field.kinds:
        found |= {"text", "digits", "empty"}
    if "object" in field.kinds:
        found |= {"object"}
    if "true or false" in field.kinds:
        found |= {"true"}
    if isinstance(field.most, str) and field.most not in ("positions",):
        found -= {"billion", "float billion", "huge"}
    if isinstance(field.least, int) and field.least > 0:
        found -= {"zero", "minus one", "minus two"}
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One field of one file with another value.

    Attributes:
        file: the name of the file.
        path: keys that lead to the field.
        value: a name in `VALUES`.
        passes: the value may pass, and need not.
    """

    file: str
    path: tuple[str | int, ...]
    value: str
    passes: bool

    @property
    def name(self) -> str:
        """File, field and value."""
        return f"{self.file} {'.'.join(map(str, self.path))} {self.value}"

    def apply(self, folder: Path) -> None:
        """Write the value into the file of a copy."""
        place = folder / self.file
        if self.file.endswith(".safetensors"):
            _edit_header(place, lambda content: self._edited(content))
        else:
            text = self._edited(json.loads(place.read_text()))
            place.unlink()  # copies are links
            place.write_text(text)

    def _edited(self, content: dict[str, Any]) -> str:
        inner: Any = content
        for key in self.path[:-1]:
            inner = inner[key]
        inner[self.path[-1]] = "@value@"
        return json.dumps(content).replace('"@value@"', VALUES[self.value])


def _edit_header(file: Path, edit: Callable[[dict[str, Any]], str]) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = edit(json.loads(data[8 : 8 + length])).encode()
    file.unlink()
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def make_original(folder: Path) -> Path:
    """Write a checkpoint with shards and a tokenizer, and an adapter beside it; a few kB."""
    model = make_checkpoint(
        folder / "model",
        tokenizer=True,
        hidden_size=8,
        intermediate_size=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        shard_size="6KB",
        generation={"eos_token_id": 256, "max_new_tokens": 3},
    )
    adapter = folder / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    part = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    matrices = {f"{part}A.weight": torch.ones(2, 8), f"{part}B.weight": torch.ones(8, 2)}
    save_file(matrices, adapter / "adapter_model.safetensors")
    return model.parent


def linked(original: Path, folder: Path) -> None:
    """Link all files of the original into `folder`."""
    for source in original.rglob("*"):
        if source.is_file():
            target = folder / source.relative_to(original)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)


def single(original: Path, folder: Path) -> None:
    """Put all weights of the model into one file."""
    linked(original, folder)
    model = folder / "model"
    shards = sorted(model.glob("model-*.safetensors"))
    weights = {k: v for shard in shards for k, v in load_file(shard).items()}
    for shard in (*shards, model / "model.safetensors.index.json"):
        shard.unlink()
    save_file(weights, model / "model.safetensors", {"format": "pt"})


_ROPE_FIELDS = {
    "rope_type": Field("rope_type", ("text",)),
    "rope_theta": Field("rope_theta", ("number",), least=0),
    "factor": Field("factor", ("number",), least=0),
    "original_max_position_embeddings": Field("", ("whole number",), least=1, most="positions"),
}
_HEADER = {
    "dtype": Field("dtype", ("text",), null=False),
    "shape": Field("shape", ("whole number",), null=False, levels=(1,)),
    "data_offsets": Field("data_offsets", ("whole number",), null=False, levels=(1,)),
}


def mutations() -> Iterator[Mutation]:
    """Every field of every file with every value."""
    tables = {
        "model/config.json": CONFIG,
        "model/generation_config.json": GENERATION,
        "model/tokenizer_config.json": TOKENIZER,
        "model/model.safetensors.index.json": INDEX_FIELDS,
        "adapter/adapter_config.json": ADAPTER,
    }
    for file, table in tables.items():
        for field in table:
            yield from _values(file, (field.name,), field)
    for name, field in _ROPE_FIELDS.items():
        yield from _values("model/config.json", ("rope_parameters", name), field)
    text = Field("", ("text",), null=False)
    index = "model/model.safetensors.index.json"
    yield from _values(index, ("weight_map", "model.norm.weight"), text)
    part = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    for name, field in _HEADER.items():
        yield from _values("adapter/adapter_model.safetensors", (part, name), field)


def _values(file: str, path: tuple[str | int, ...], field: Field) -> Iterator[Mutation]:
    allowed = harmless(field)
    for value in VALUES:
        yield Mutation(file=file, path=path, value=value, passes=value in allowed)
