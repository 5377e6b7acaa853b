"""Wrong values in the files of a checkpoint are one line that names the file and the field."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from outrider.cli.commands.info import facts
from outrider.core.errors import OutriderError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.llama.lora import Adapter
from tests.fuzz.case import Case
from tests.fuzz.checkpoints.mutations import Mutation, linked, make_original, mutations
from tests.fuzz.sandbox import Sandbox

ALL = list(mutations())
DRAWN = random.Random(0).sample(ALL, 48)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_original(tmp_path_factory.mktemp("original"))


def read(folder: Path, file: str) -> Any:
    """Read what a mutated file belongs to."""
    import torch

    if file.startswith("adapter"):
        return Adapter.load(folder / "adapter")
    if "tokenizer" in file:
        return Tokenizer.load(folder / "model")
    return facts("it", open_checkpoint(folder / "model"), "auto", torch.float32)


@pytest.mark.parametrize("mutation", DRAWN, ids=lambda one: one.name)
def test_a_wrong_value_is_named(original: Path, tmp_path: Path, mutation: Mutation) -> None:
    assert fault_of(original, tmp_path, mutation) == ""


def fault_of(original: Path, folder: Path, mutation: Mutation) -> str:
    """Read a copy with the mutation; return what is wrong with the result."""
    linked(original, folder)
    mutation.apply(folder)
    try:
        read(folder, mutation.file)
    except OutriderError as error:
        good = "\n" not in str(error) and passes_or_names(mutation, str(error))
        return "" if good else str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error!r:.200}"
    return "" if mutation.passes else "it was read"


def passes_or_names(mutation: Mutation, output: str) -> bool:
    """Whether the output names file and field, where that must be."""
    file, field = mutation.file.rpartition("/")[2], str(mutation.path[-1])
    if mutation.value == "deep":
        return file in output and "deep" in output
    return mutation.passes or (file in output and field in output)


def case_of(mutation: Mutation, original: Path) -> Case:
    """A run of the command line that reads the mutated file of a model."""

    def make(folder: Path) -> None:
        linked(original, folder)
        mutation.apply(folder)

    words: tuple[str, ...] = ("info", "{folder}/model")
    if "tokenizer" in mutation.file or "generation" in mutation.file:
        words = ("generate", "hi", "--raw", "--max-new-tokens", "2", "--dtype", "float32")
        words += ("--threads", "1", "--mode", "none", "--target", "{folder}/model")
    codes = (0, 2) if mutation.passes else (2,)
    return Case(name=mutation.name, make=make, arguments=words, codes=codes)


def faults(sandbox: Sandbox, cases: list[tuple[Mutation, Case]]) -> list[tuple[str, str]]:
    """Run the cases; return the names of those with a fault, and the fault."""
    found: list[tuple[str, str]] = []
    for mutation, case in cases:
        outcome = sandbox.run(case)
        fault = outcome.fault(case)
        if not fault and outcome.code == 2 and not passes_or_names(mutation, outcome.output):
            fault = f"file or field is not named: {outcome.output[-300:]}"
        if fault:
            found.append((case.name, fault))
    return found


PARTS = 4
"""Groups of cases, so that processes can share them."""


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_wrong_value(original: Path, tmp_path: Path, part: int) -> None:
    found: dict[str, str] = {}
    for number, mutation in enumerate(ALL[part::PARTS]):
        folder = tmp_path / str(number)
        folder.mkdir()
        if fault := fault_of(original, folder, mutation):
            found[mutation.name] = fault
        shutil.rmtree(folder)
    assert found == {}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_wrong_values_on_the_command_line(original: Path, part: int, sandbox: Sandbox) -> None:
    drawn = random.Random(1).sample([m for m in ALL if not m.file.startswith("adapter")], 200)
    cases = [(mutation, case_of(mutation, original)) for mutation in drawn[part::PARTS]]
    assert faults(sandbox, cases) == []
