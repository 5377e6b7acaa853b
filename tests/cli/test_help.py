"""The command line teaches itself, quickly."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from outrider.cli.app import app
from tests.cli.conftest import Run


def commands(command: Any = None, path: str = "outrider") -> Iterator[tuple[str, Any]]:
    command = command or get_command(app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_has_a_sentence(path: str) -> None:
    for parameter in COMMANDS[path].params:
        assert parameter.help, f"{path} {parameter.name}"
        assert parameter.help.rstrip().endswith((".", "...")), f"{path} {parameter.name}"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_shows_an_example(path: str) -> None:
    if path != "outrider train":
        assert "\n  outrider" in COMMANDS[path].help, path


@pytest.mark.parametrize("path", COMMANDS)
def test_help_shows(path: str, run: Run) -> None:
    outcome = run(*path.split()[1:], "--help")
    assert outcome.code == 0
    assert "Usage: " + path in outcome.out


def test_nothing_given_shows_help(run: Run) -> None:
    outcome = run()
    assert outcome.code == 0
    assert "Usage: outrider" in outcome.out


def test_version(run: Run) -> None:
    assert run("--version").out.startswith("outrider ")


def test_help_loads_no_models() -> None:
    code = (
        "import sys; from outrider.cli.app import main; code = main(['generate', '--help']); "
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules); "
        "sys.exit(code or bool(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "offer"),
    [
        (["generat", "x"], "Did you mean 'generate'?"),
        (["generate", "x", "--temprature", "1"], "Did you mean '--temperature'?"),
        (["train", "famly"], "Did you mean 'family'?"),
        (["generate", "x", "--qqqqqqqqqqqq"], "See outrider generate --help"),
        (["generate"], "prompt"),
        (["generate", "x", "--top-k", "many"], "--top-k"),
        (["generate", "x", "--n", "0"], "--n"),
    ],
)
def test_misspelt_input_is_one_line_and_code_2(arguments: list[str], offer: str, run: Run) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert offer.lower() in outcome.error.lower()


def test_a_closed_pipe_is_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "outrider", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait() == 1
