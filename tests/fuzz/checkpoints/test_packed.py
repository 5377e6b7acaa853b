"""Quantised checkpoints with a wrong value in a field, or a wrong, missing or other tensor."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from outrider.cli.commands.info import facts
from outrider.core.errors import OutriderError
from outrider.models.checkpoints.checkpoint import load_grouped, load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.packed.reading import FORMATS, method_of
from outrider.models.cpu.panels import to_panels
from outrider.models.llama.config import read_config
from outrider.models.llama.weights import check_tensors
from tests.fuzz.checkpoints.mutations import VALUES, Mutation, harmless, linked
from tests.models.checkpoints.packed.packers import KINDS, pack_checkpoint, settings_of
from tests.models.setups.make_checkpoints import make_checkpoint

INNER = ("num_bits", "type", "symmetric", "strategy", "group_size", "actorder")
WEIGHTS = ("quantization_config", "config_groups", "group_0", "weights")


def field_mutations(kind: str) -> Iterator[Mutation]:
    """Every field of the settings with every value."""
    settings = settings_of(kind)
    for field in FORMATS[method_of(settings)].fields:
        good = harmless(field)
        for value in VALUES:
            yield Mutation(
                file="config.json",
                path=("quantization_config", field.name),
                value=value,
                passes=value in good,
            )
    for name in INNER if "config_groups" in settings else ():
        for value in VALUES:
            yield Mutation(file="config.json", path=(*WEIGHTS, name), value=value, passes=True)


@dataclass(frozen=True, kw_only=True)
class TensorMutation:
    """One tensor of a module with another content."""

    part: str
    change: str

    @property
    def name(self) -> str:
        return f"{self.part} {self.change}"

    def apply(self, folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        name = next(name for name in tensors if name.endswith(f"up_proj.{self.part}"))
        tensor = CHANGES[self.change](tensors.pop(name))
        if tensor is not None:
            tensors[name] = tensor.contiguous()
        file.unlink()  # copies are links
        save_file(tensors, file)


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
    "missing": lambda t: None,
    "empty": lambda t: t[:0],
    "one number": lambda t: t.flatten()[:1],
    "no axis": lambda t: t.flatten()[0],
    "another axis": lambda t: t[None],
    "turned": lambda t: t.t() if t.ndim == 2 else t.flip(0),
    "half": lambda t: t[: max(1, len(t) // 2)],
    "twice": lambda t: torch.cat((t, t)),
    "zeros": torch.zeros_like,
    "largest": lambda t: (
        torch.full_like(t, torch.finfo(t.dtype).max)
        if t.is_floating_point()
        else torch.full_like(t, torch.iinfo(t.dtype).max)
    ),
    "smallest": lambda t: (
        torch.full_like(t, torch.finfo(t.dtype).min)
        if t.is_floating_point()
        else torch.full_like(t, torch.iinfo(t.dtype).min)
    ),
    "NaN": lambda t: (
        torch.full_like(t, torch.nan) if t.is_floating_point() else -torch.ones_like(t)
    ),
    "float64": lambda t: t.double(),
    "int64": lambda t: t.long(),
    "int32": lambda t: t.int(),
    "octets": lambda t: t.to(torch.uint8),
    "bool": lambda t: t.bool(),
    "bfloat16": lambda t: t.bfloat16(),
    "random": lambda t: torch.randint(
        0, 127, t.shape, generator=torch.Generator().manual_seed(0)
    ).to(t.dtype),
}


def tensor_mutations(kind: str, folder: Path) -> Iterator[TensorMutation]:
    names = load_file(folder / "model.safetensors")
    module = "model.layers.0.mlp.up_proj."
    for part in sorted(name.removeprefix(module) for name in names if name.startswith(module)):
        for change in CHANGES:
            yield TensorMutation(part=part, change=change)


@pytest.fixture(scope="module", params=KINDS)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    source = make_checkpoint(folder / "source", vocab_size=16, **small)
    return request.param, pack_checkpoint(source, folder, request.param)[0]


def fault_of(original: Path, folder: Path, mutation: Mutation | TensorMutation) -> str:
    """Read all of a copy with the mutation; return what is wrong with the result."""
    folder.mkdir(parents=True)
    linked(original, folder)
    mutation.apply(folder)
    try:
        checkpoint = open_checkpoint(folder)
        facts("it", checkpoint, "auto", torch.float32)
        check_tensors(checkpoint, read_config(checkpoint.config))
        for name, tensor in load_tensors(checkpoint, checkpoint.tensors, torch.float32).items():
            if tuple(tensor.shape) != checkpoint.tensors[name].shape:
                return f"{name} has another shape"
            if not tensor.isfinite().all():
                return f"{name} is not finite"
            grouped = load_grouped(checkpoint, name)
            if grouped is not None and not torch.equal(grouped.dequantize(), tensor):
                return f"{name} differs from its groups"
            if grouped is not None:
                to_panels(grouped, 0)  # asserts that a kernel reads it
    except OutriderError as error:
        return str(error) if "\n" in str(error) or len(str(error)) > 1000 else ""
    except Exception as error:
        return f"{type(error).__name__}: {error!r:.200}"
    finally:
        shutil.rmtree(folder)
    return "" if isinstance(mutation, TensorMutation) or mutation.passes else "it was read"


def all_of(kind: str, folder: Path) -> list[Mutation | TensorMutation]:
    return [*field_mutations(kind), *tensor_mutations(kind, folder)]


def test_wrong_values_are_one_line(packed: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = packed
    drawn = random.Random(0).sample(all_of(kind, folder), 24)
    found = {m.name: fault_of(folder, tmp_path / str(i), m) for i, m in enumerate(drawn)}
    assert {name: fault for name, fault in found.items() if fault} == {}


@pytest.mark.slow
def test_every_wrong_value(packed: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = packed
    found = {
        m.name: fault_of(folder, tmp_path / str(i), m) for i, m in enumerate(all_of(kind, folder))
    }
    assert {name: fault for name, fault in found.items() if fault} == {}


@dataclass(frozen=True, kw_only=True)
class Both(TensorMutation):
    """A wrong field and a wrong tensor: the field may hide what checks the tensor."""

    field: Mutation
    tensor: TensorMutation

    def apply(self, folder: Path) -> None:
        self.field.apply(folder)
        self.tensor.apply(folder)


@pytest.mark.slow
def test_wrong_values_in_pairs(packed: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = packed
    drawing, found = random.Random(1), dict[str, str]()
    fields, tensors = list(field_mutations(kind)), list(tensor_mutations(kind, folder))
    for i in range(150):
        field, tensor = drawing.choice(fields), drawing.choice(tensors)
        name = f"{field.name} and {tensor.name}"
        both = Both(part="", change=name, field=field, tensor=tensor)
        found[name] = fault_of(folder, tmp_path / str(i), both)
    assert {name: fault for name, fault in found.items() if fault} == {}


def test_a_change_of_the_settings_is_seen_by_the_fuzzer(tmp_path: Path) -> None:
    """The check of a result can fail: an unchanged field is read."""
    source = make_checkpoint(tmp_path / "source", vocab_size=16, num_hidden_layers=1)
    folder, _ = pack_checkpoint(source, tmp_path, "gptq")
    wrong = Mutation(
        file="config.json", path=("quantization_config", "meta"), value="text", passes=False
    )
    assert json.loads((folder / "config.json").read_text())["quantization_config"]
    assert fault_of(folder, tmp_path / "copy", wrong) == "it was read"
