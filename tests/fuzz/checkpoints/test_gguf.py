"""Damaged and hostile GGUF files: each gives one line, or a model that runs."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from outrider.core.errors import OutriderError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.llama.decoder import Decoder
from tests.fuzz.case import Case
from tests.fuzz.checkpoints.gguf_files import Fault, faults, make_sound
from tests.fuzz.sandbox import Sandbox
from tests.models.setups.make_gguf import GgufFile

_FAST = 6
"""One of so many faults is a fast test."""
NAMES = re.compile(r"m\.gguf|tensor \S+ has shape|--chat is given, and the model has no")
"""An error names the file, or the tensor; an empty template is no fault of the file."""
_COMMANDS = 5
"""One of so many faults is run on the command line."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    return make_sound(tmp_path_factory.mktemp("model"))


def run(file: Path) -> None:
    """Everything that a command reads from the file."""
    checkpoint = open_checkpoint(file)
    tokenizer = Tokenizer.load(file)
    tokenizer.chat([{"role": "user", "content": "hi"}])
    assert tokenizer.encode("ab abc")
    Decoder.load(checkpoint)


def refusal(fault: Fault, sound: GgufFile, file: Path) -> str | None:
    """The message of the error; None if the file is accepted."""
    fault.write(sound, file)
    try:
        run(file)
    except OutriderError as error:
        return str(error)
    return None


def test_the_sound_file_runs(sound: GgufFile, tmp_path: Path) -> None:
    run(sound.write(tmp_path / "m.gguf"))


def test_some_faults_give_one_line(sound: GgufFile, tmp_path: Path) -> None:
    check(list(faults(sound))[::_FAST], sound, tmp_path / "m.gguf")


@pytest.mark.slow
def test_all_faults_give_one_line(sound: GgufFile, tmp_path: Path) -> None:
    check(list(faults(sound)), sound, tmp_path / "m.gguf")


def check(given: list[Fault], sound: GgufFile, file: Path) -> None:
    wrong: dict[str, str] = {}
    for fault in given:
        message = refusal(fault, sound, file)
        if message is None and not fault.passes:
            wrong[fault.name] = "is accepted"
        elif message is not None and (not message.isprintable() or len(message) > 1500):
            wrong[fault.name] = message[:300]
    assert wrong == {}
    assert len({fault.name for fault in given}) == len(given) > 100


def fifo(file: Path) -> None:
    os.mkfifo(file)


def loop(file: Path) -> None:
    file.symlink_to(file)


def pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def holes(file: Path) -> None:
    with file.open("wb") as stream:
        stream.write(
            b"GGUF\3\0\0\0" + (60_000).to_bytes(8, "little") + (4000).to_bytes(8, "little")
        )
        stream.truncate(8 << 30)


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda file: file.write_bytes(b""), "is empty"),
    "web page": (lambda file: file.write_text("<html>not found</html>"), "not a GGUF file"),
    "pointer": (pointer, "Git LFS pointer"),
    "directory": (lambda file: file.mkdir(), "m.gguf has no config.json"),
    "fifo": (fifo, "no regular file"),
    "loop": (loop, "m.gguf"),
    "missing": (lambda _: None, "cannot be read: No such file"),
    "holes": (holes, "m.gguf"),
}


@pytest.mark.parametrize("name", PLACES)
def test_files_that_are_no_model(name: str, tmp_path: Path) -> None:
    make, message = PLACES[name]
    make(tmp_path / "m.gguf")
    with pytest.raises(OutriderError, match=message) as caught:
        open_checkpoint(tmp_path / "m.gguf")
    assert "\n" not in str(caught.value)
    with pytest.raises(OutriderError) as caught:
        Tokenizer.load(tmp_path / "m.gguf")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_faults_on_the_command_line(sound: GgufFile, sandbox: Sandbox) -> None:
    """Exit code 2 and one line, in a process of limited memory and time."""

    def case(fault: Fault, dtype: str) -> Case:
        words = ("generate", "hi", "--chat", "--target", "{folder}/m.gguf", "--dtype", dtype)
        return Case(
            name=fault.name,
            make=lambda folder: fault.write(sound, folder / "m.gguf"),
            arguments=(*words, "--mode", "none", "--max-new-tokens", "2"),
            codes=(0, 2) if fault.passes else (2,),
        )

    dtypes = ("float32", "stored")
    given = list(faults(sound))[::_COMMANDS]
    cases = [case(one, dtypes[n % 2]) for n, one in enumerate(given)]
    outcomes = [(one, sandbox.run(one)) for one in cases]
    wrong = {one.name: fault for one, found in outcomes if (fault := found.fault(one))}
    lines = {
        one.name: found.output
        for one, found in outcomes
        if found.code == 2
        and (len(found.output.strip().splitlines()) != 1 or not NAMES.search(found.errors))
    }
    assert wrong == {} and lines == {}


@pytest.mark.slow
def test_other_files_on_the_command_line(sandbox: Sandbox) -> None:
    def case(name: str) -> Case:
        return Case(
            name=name,
            make=lambda folder: PLACES[name][0](folder / "m.gguf"),
            arguments=("info", "{folder}/m.gguf"),
        )

    assert list(sandbox.faults(map(case, PLACES))) == []
