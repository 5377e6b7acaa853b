"""The guide to serving names what exists: options, fields, codes, paths and files."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from outrider.cli.app import app
from outrider.server import errors
from outrider.server.schema.chat import ChatBody
from outrider.server.schema.completions import CompletionBody
from outrider.server.schema.messages import MessagesBody
from outrider.server.schema.responses import ResponsesBody

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guide-serving.md").read_text(encoding="utf-8")
SERVER = "\n".join(
    file.read_text(encoding="utf-8") for file in Path(errors.__file__).parent.rglob("*.py")
)
BODIES = (ChatBody, CompletionBody, ResponsesBody)
OTHERS = {"--no-deps", "--no-buffer", "--time", "--rm", "--cpu-list", "--help"}
"""Options of other programs, and of all commands."""


def section(heading: str) -> str:
    return GUIDE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def words(text: str) -> list[str]:
    """Return the words in code marks."""
    return re.findall(r"`([a-z_.]+)`", text)


def row(name: str) -> str:
    [found] = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", GUIDE, re.M)
    return found


def test_its_options_exist() -> None:
    command = get_command(app).commands["serve"]  # pyright: ignore[reportAttributeAccessIssue]
    known = {name for parameter in command.params for name in parameter.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", GUIDE))
    assert named - known - OTHERS == set()


@pytest.mark.parametrize(
    "name", ["honoured", "honoured, as in vLLM", "honoured, of Outrider", "hints"]
)
def test_fields_that_are_honoured_are_known(name: str) -> None:
    known = {field for body in BODIES for field in body.model_fields}
    named = {word.partition(".")[0] for word in words(row(name)) if word != "generation_config"}
    assert named - known == set()


def test_fields_that_are_refused_are_refused() -> None:
    refused = {field for body in BODIES for field in body.refused} | {"response_format"}
    assert set(words(row("refused (400)"))) - refused == set()


def test_fields_of_messages_are_known() -> None:
    known, refused = set(MessagesBody.model_fields), {*MessagesBody.refused, "output_config"}
    named = {w.partition(".")[0] for w in words(row("fields of messages") + row("their hints"))}
    assert len(named) > 9 and named - known == set()
    assert {w.partition(".")[0] for w in words(row("refused (400) in messages"))} - refused == set()


def test_its_codes_are_those_of_the_server() -> None:
    codes = words(
        "\n".join(line.split("|")[2] for line in GUIDE.splitlines() if re.match(r"\| \d{3}", line))
    )
    assert len(codes) > 15
    assert [code for code in codes if f'"{code}"' not in SERVER] == []


def test_its_metrics_exist() -> None:
    named = words(section("Metrics").partition("| | |")[2].partition("\n\n")[0])
    named += re.findall(r"`(\w+)\{\w+\}`", section("Metrics"))
    assert len(named) > 20
    assert [n for n in named if f'"{n.removesuffix("_total")}"' not in SERVER] == []


def test_its_paths_exist() -> None:
    paths = re.findall(r"`(/[a-z1/_]+)`", section("Endpoints"))
    missing = [path for path in paths if f'"{path}"' not in SERVER]
    assert set(missing) <= {"/render", "/openapi.json"}  # a suffix, and FastAPI's


def test_its_files_exist() -> None:
    names = re.findall(r"^\| `([\w./]+)`", section("Deployment"), re.M)
    assert len(names) > 4
    assert all((ROOT / "deploy" / name).exists() for name in names)
