"""The guide to serving names what exists: options, fields, codes, paths and files."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from outrider.cli.app import app
from outrider.core.errors import ContextError
from outrider.engine.serving.settings import ServingSettings
from outrider.server import errors
from outrider.server.schema.chat import ChatBody
from outrider.server.schema.completions import CompletionBody
from outrider.server.schema.messages import MessagesBody
from outrider.server.schema.responses import ResponsesBody
from outrider.server.settings import ServerSettings

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guide-serving.md").read_text(encoding="utf-8")
SERVER = "\n".join(
    file.read_text(encoding="utf-8") for file in Path(errors.__file__).parent.rglob("*.py")
)
BODIES = (ChatBody, CompletionBody, ResponsesBody)
OTHERS = {"--no-deps", "--no-buffer", "--time", "--rm", "--cpu-list", "--help"}
OTHERS |= {"--concurrency", "--search", "--json"}
"""Options of other programs and of other commands, and of all commands."""


def section(heading: str) -> str:
    return GUIDE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def words(text: str) -> list[str]:
    """Return the words in code marks."""
    return re.findall(r"`([a-z0-9_.]+)`", text)


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
    refused = {field for body in BODIES for field in body.refused}
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


def test_the_codes_of_failures_are_beside_their_status() -> None:
    """Those of `errors.py`, by the status that it gives them."""
    listed: dict[int, set[str]] = {}
    for line in GUIDE.splitlines():
        if re.match(r"\| \d{3}[ ,]", line):
            cells = line.split("|")
            for status in re.findall(r"\d{3}", cells[1]):
                listed.setdefault(int(status), set()).update(words(cells[2]))
    assert set(listed) == {*errors._TYPES, 500}
    pairs = {(status, code) for status, code, _ in errors.FAILURES.values()}
    pairs |= {(errors.crashed().status, errors.crashed().code)}
    for error in (
        errors.invalid(""),
        errors.unsupported("", ""),
        errors.from_outrider(ContextError("long")),
    ):
        pairs.add((error.status, error.code))
    assert {pair for pair in pairs if pair[1] not in listed[pair[0]]} == set()


def test_its_defaults_are_those_of_the_server() -> None:
    settings = {**_defaults(ServingSettings), **_defaults(ServerSettings)}
    table = section("Limits and errors").splitlines()
    rows = [line.split("|")[1:3] for line in table if line.startswith("| `--")]
    checked = 0
    for options, default in rows:
        names = [name.replace("-", "_") for name in re.findall(r"`--([a-z-]+)`", options)]
        named = [_number(text) for text in re.findall(r"\d[\d,]*(?: MB)?", default)]
        known = [settings[name] for name in names if settings.get(name) is not None]
        assert named == known, options
        checked += len(known)
    assert checked == 8
    shutdown = re.search(r"`--shutdown-timeout` \((\d+) s\)", GUIDE)
    assert shutdown and float(shutdown[1]) == ServerSettings().shutdown_timeout
    pauses = re.search(
        r"a comment every (\d+) s\. The status waits for the first token, or (\d+) s", GUIDE
    )
    assert pauses
    assert (float(pauses[1]), float(pauses[2])) == (ServerSettings().ping, ServerSettings().hold)


def _defaults(kind: type[Any]) -> dict[str, Any]:
    return {field.name: field.default for field in fields(kind)}


def _number(text: str) -> int:
    count, _, unit = text.replace(",", "").partition(" ")
    return int(count) * (1_000_000 if unit == "MB" else 1)


def test_its_metrics_exist() -> None:
    named = words(section("Metrics").partition("| | |")[2].partition("\n\n")[0])
    named += re.findall(r"`(\w+)\{\w+\}`", section("Metrics"))
    assert len(named) > 20
    assert [n for n in named if f'"{n.removesuffix("_total")}"' not in SERVER] == []


def test_its_paths_exist() -> None:
    paths = re.findall(r"`(/[a-z1/_]+)`", section("Endpoints"))
    missing = [path for path in paths if f'"{path}"' not in SERVER]
    # A suffix, a path of FastAPI, and one that is named because it is not there.
    assert set(missing) <= {"/render", "/openapi.json", "/docs"}


def test_its_files_exist() -> None:
    names = re.findall(r"^\| `([\w./]+)`", section("Deployment"), re.M)
    assert len(names) > 4
    assert all((ROOT / "deploy" / name).exists() for name in names)
